//! TLS to Redis.

/// Selects the cryptography provider of rustls. rustls does not choose by itself if a build
/// contains two, and another feature may bring a second one.
pub(crate) fn prepare() {
    // An error means that the program has selected one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
