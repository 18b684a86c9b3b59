//! [`RedisTls`]: the certificates of connections to Redis.

use std::fmt;

use redis::{ClientTlsConfig, TlsCertificates};

/// The certificates of `rediss://` connections, for
/// [`redis_tls`](crate::QueryCacheBuilder::redis_tls).
///
/// Certificates and keys are PEM text. Redis's certificate is always verified, and so is its name:
/// that cannot be switched off.
///
/// ```no_run
/// use larder::{QueryCache, RedisTls};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = RedisTls::new()
///     .ca(std::fs::read("/etc/shop/redis-ca.pem")?)
///     .client_certificate(std::fs::read("/etc/shop/client.pem")?, std::fs::read("/etc/shop/client.key")?);
/// let cache = QueryCache::builder()
///     .namespace("shop")
///     .redis("rediss://redis.internal:6380")
///     .redis_tls(tls)
///     .build()
///     .await?;
/// # let _ = cache;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use = "these settings do nothing until they are given to `redis_tls`"]
pub struct RedisTls {
    ca: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
}

impl RedisTls {
    /// The authorities that the system trusts (or the file that `SSL_CERT_FILE` names), and no
    /// certificate of the client's own. It is what `rediss://` uses without these settings.
    pub fn new() -> RedisTls {
        RedisTls::default()
    }

    /// The authorities to trust instead of the system's: one or more certificates.
    pub fn ca(mut self, certificates: impl Into<Vec<u8>>) -> RedisTls {
        self.ca = Some(certificates.into());
        self
    }

    /// The client's certificate, with the chain to its authority, and its private key: for a Redis
    /// that asks for one (`tls-auth-clients yes`).
    pub fn client_certificate(
        mut self,
        certificates: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> RedisTls {
        self.client = Some((certificates.into(), key.into()));
        self
    }

    pub(crate) fn certificates(&self) -> TlsCertificates {
        let client_tls = self.client.clone();
        TlsCertificates {
            client_tls: client_tls
                .map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key }),
            root_cert: self.ca.clone(),
        }
    }
}

impl fmt::Debug for RedisTls {
    /// Shows no key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTls")
            .field("ca", &self.ca.is_some())
            .field("client_certificate", &self.client.is_some())
            .finish()
    }
}

/// Selects the cryptography provider of rustls. rustls does not choose by itself if a build
/// contains two, and another feature may bring a second one.
pub(super) fn prepare() {
    // An error means that the program has selected one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
