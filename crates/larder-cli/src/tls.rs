//! TLS to PostgreSQL, for `sslmode=require`.

use tokio_postgres_rustls::MakeRustlsConnect;

/// Selects the cryptography provider of rustls, which does not choose by itself between two.
pub(super) fn prepare() {
    // An error means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Makes connections whose certificates are checked against the authorities that this machine
/// knows, or those in the file that SSL_CERT_FILE names.
pub(super) fn connector() -> Result<MakeRustlsConnect, String> {
    prepare();
    // Authorities that cannot be read do no harm where others can.
    MakeRustlsConnect::with_native_certs().map(|(connector, _)| connector).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        match errors.as_slice() {
            [] => "this machine knows no authorities; SSL_CERT_FILE may name a file of them".into(),
            errors => errors.join("; "),
        }
    })
}
