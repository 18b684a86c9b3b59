//! A private Redis with TLS.

use std::net::TcpListener;

use anyhow::Context;
use larder::RedisTls;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use test_servers::Redis;

pub(crate) struct OverTls {
    pub(crate) redis: Redis,
    pub(crate) url: String,
    pub(crate) trust: RedisTls,
    /// Has the certificates.
    _directory: TempDir,
}

/// `None` if the server was built without TLS.
pub(crate) fn start() -> anyhow::Result<Option<OverTls>> {
    let directory = tempfile::tempdir()?;
    let put = |name: &str, text: &str| -> anyhow::Result<String> {
        let path = directory.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_str().context("a path in UTF-8")?.to_owned())
    };
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);

    let server_key = KeyPair::generate()?;
    let mut server = CertificateParams::new(vec!["localhost".to_owned()])?;
    // With the authority's own name, OpenSSL would take it for self-signed.
    server.distinguished_name.push(DnType::CommonName, "localhost");
    let server = server.signed_by(&server_key, &issuer)?.pem();

    let (certificate, key) =
        (put("server.pem", &server)?, put("server.key", &server_key.serialize_pem())?);
    let ca = put("ca.pem", &authority)?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
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
        "no",
    ];
    let Some(redis) = Redis::start_with_tls(&arguments)? else { return Ok(None) };
    let url = format!("rediss://localhost:{port}");
    let trust = RedisTls::new().ca(authority);
    Ok(Some(OverTls { redis, url, trust, _directory: directory }))
}
