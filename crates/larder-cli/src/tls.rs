//! TLS to PostgreSQL: `sslmode`, `sslrootcert`, `sslcert` and `sslkey`.

use std::fmt::Display;
use std::path::PathBuf;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Files with certificates and keys, as PEM.
#[derive(Debug, Clone, Default)]
pub(super) struct Files {
    /// The authorities to trust; if there is none, those of this machine.
    pub(super) authorities: Option<PathBuf>,
    /// A client's certificate, and its key.
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

impl Files {
    pub(super) fn is_empty(&self) -> bool {
        self.authorities.is_none() && self.certificate.is_none()
    }
}

/// Selects the cryptography provider of rustls, which does not choose by itself between two.
pub(super) fn prepare() {
    // An error means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Makes connections whose certificates are checked against the authorities in a file, or those that
/// this machine knows, or those in the file that SSL_CERT_FILE names.
pub(super) fn connector(files: &Files) -> Result<MakeRustlsConnect, String> {
    prepare();
    // No message shows a path, which may be part of a password.
    let wrong = |setting: &str, error: &dyn Display| {
        format!("the file that {setting} names cannot be used: {error}")
    };
    let authorities = match &files.authorities {
        None => native()?,
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let all = CertificateDer::pem_file_iter(path)
                .map_err(|error| wrong("sslrootcert", &error))?;
            for certificate in all {
                let certificate = certificate.map_err(|error| wrong("sslrootcert", &error))?;
                roots.add(certificate).map_err(|error| wrong("sslrootcert", &error))?;
            }
            if roots.is_empty() {
                return Err(wrong("sslrootcert", &"it has no certificate"));
            }
            roots
        }
    };
    let config = ClientConfig::builder().with_root_certificates(authorities);
    let config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect)
                .map_err(|error| wrong("sslcert", &error));
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong("sslkey", &error))?;
            config.with_client_auth_cert(chain?, key).map_err(|error| wrong("sslcert", &error))?
        }
        _ => config.with_no_client_auth(),
    };
    Ok(MakeRustlsConnect::new(config))
}

/// The authorities that this machine knows.
fn native() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Authorities that cannot be read do no harm where others can.
    roots.add_parsable_certificates(found.certs);
    if !roots.is_empty() {
        return Ok(roots);
    }
    let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    let reason = match errors.as_slice() {
        [] => "this machine knows no authorities".to_owned(),
        errors => errors.join("; "),
    };
    Err(format!(
        "an encrypted connection needs authorities to trust: {reason}; sslrootcert or SSL_CERT_FILE may \
         name a file of them"
    ))
}
