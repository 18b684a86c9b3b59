//! TLS to Redis.

/// Settles which cryptography rustls uses. A build may hold two kinds of it, and rustls does not
/// choose between them by itself.
pub(crate) fn prepare() {
    // An error means that the program has chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
