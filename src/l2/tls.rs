//! TLS for the command: to Redis by `rediss://`, to PostgreSQL by `sslmode=require`.

use tokio_postgres_rustls::MakeRustlsConnect;

/// Selects the cryptography provider of rustls. rustls does not choose by itself if a build
/// contains two, and another feature may bring a second one.
pub(crate) fn prepare() {
    // An error means that a provider has been selected already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Creates connections whose certificates are checked against the machine's certificate
/// authorities, or against those in the file that SSL_CERT_FILE names.
pub(crate) fn connector() -> Result<MakeRustlsConnect, String> {
    prepare();
    // Authorities that cannot be read are ignored if others can.
    MakeRustlsConnect::with_native_certs().map(|(connector, _)| connector).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        match errors.as_slice() {
            [] => "this machine knows no authorities; SSL_CERT_FILE may name a file of them".into(),
            errors => errors.join("; "),
        }
    })
}
