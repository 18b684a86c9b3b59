//! Certificates, and a Redis that speaks TLS.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::guard::Directory;
use super::{Redis, ServerError};

/// An authority that nobody trusts who is not told to.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// Makes an authority with a new key.
    pub fn new() -> Result<Self, ServerError> {
        let failed = |error| ServerError::caused("make an authority for certificates", &error);
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(vec![]).map_err(failed)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Its own certificate, as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Makes a certificate of this authority for a host or a user of this name.
    pub fn sign(&self, name: &str) -> Result<Identity, ServerError> {
        let attempt = format!("make a certificate for {name}");
        let failed = |error| ServerError::caused(&attempt, &error);
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
        // With the authority's own name, OpenSSL would take it for self-signed.
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

/// A Redis with a certificate for `localhost`.
#[derive(Debug)]
pub struct OverTls {
    // Dropped in this order: first the server, then its certificates.
    /// The server.
    pub redis: Redis,
    /// Its URL, with TLS.
    pub url: String,
    directory: Directory,
}

impl OverTls {
    /// Starts a Redis with a certificate of this authority. `wants_clients`: it asks its clients for
    /// certificates of the same authority. `None`, [said aloud](crate::skipped), if the server was
    /// built without TLS.
    pub fn start(authority: &Authority, wants_clients: bool) -> Result<Option<Self>, ServerError> {
        let directory = Directory::new(&super::template::temporary())?;
        let put = |name: &str, text: &str| -> Result<String, ServerError> {
            let path = directory.path().join(name);
            let failed = |error| ServerError::caused(format!("write {}", path.display()), &error);
            fs::write(&path, text).map_err(failed)?;
            Ok(path.to_string_lossy().into_owned())
        };
        let server = authority.sign("localhost")?;
        let certificate = put("server.pem", &server.certificate)?;
        let (key, ca) = (put("server.key", &server.key)?, put("ca.pem", authority.certificate())?);
        let port = super::redis::free_port()?.to_string();
        let arguments = [
            "--tls-port",
            &port,
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &ca,
            "--tls-auth-clients",
            if wants_clients { "yes" } else { "no" },
            "--bind",
            "127.0.0.1",
        ];
        let redis = Redis::start_with_tls(&arguments)?;
        let url = format!("rediss://localhost:{port}");
        Ok(redis.map(|redis| Self { redis, url, directory }))
    }

    /// The file with the authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }
}
