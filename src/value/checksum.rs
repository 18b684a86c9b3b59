//! XXH3: the fast hash for checksums and names. It protects no secret.

use twox_hash::XxHash3_64;

/// The checksum of two byte slices.
pub(crate) fn of(head: &[u8], rest: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(head), rest)
}

/// The 64-bit hash of a name.
pub(crate) fn of_name(name: &str) -> u64 {
    XxHash3_64::oneshot(name.as_bytes())
}
