//! TLS, for the command: to Redis by `rediss://`, to PostgreSQL by `sslmode=require`.

use tokio_postgres_rustls::MakeRustlsConnect;

/// Settles which cryptography rustls takes. Where a build has two of them, and another feature may
/// bring a second, it would not choose by itself.
pub(crate) fn prepare() {
    // An error means that somebody has chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Connections whose certificates are checked against the authorities that this machine knows, or
/// those in the file that SSL_CERT_FILE names.
pub(crate) fn connector() -> Result<MakeRustlsConnect, String> {
    prepare();
    // Some that cannot be read do no harm where others can.
    MakeRustlsConnect::with_native_certs().map(|(connector, _)| connector).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        match errors.as_slice() {
            [] => "this machine knows no authorities; SSL_CERT_FILE may name a file of them".into(),
            errors => errors.join("; "),
        }
    })
}
