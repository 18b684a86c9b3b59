//! XXH3, the one fast hash that is not a matter of secrecy.

use twox_hash::XxHash3_64;

/// The checksum of two runs of bytes.
pub(crate) fn of(head: &[u8], rest: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(head), rest)
}

/// A number for a name.
pub(crate) fn of_name(name: &str) -> u64 {
    XxHash3_64::oneshot(name.as_bytes())
}
