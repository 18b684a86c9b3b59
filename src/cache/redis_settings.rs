//! [`RedisSettings`]: the settings of a cache that are about Redis.

use std::fmt;
use std::time::Duration;

use crate::credentials::CredentialsProvider;
use crate::l2::redis::MinReplicas;
use crate::l2::redis::credentials::RedisCredentials;
#[cfg(feature = "tls")]
use crate::l2::redis::tls::RedisTls;
use crate::l2::redis::url::without_credentials;

#[derive(Clone)]
pub(super) struct RedisSettings {
    pub(super) url: String,
    pub(super) optional: bool,
    pub(super) timeout: Duration,
    pub(super) min_replicas: MinReplicas,
    pub(super) credentials: Option<CredentialsProvider<RedisCredentials>>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<RedisTls>,
}

impl Default for RedisSettings {
    fn default() -> RedisSettings {
        RedisSettings {
            url: String::new(),
            optional: false,
            timeout: Duration::from_millis(50),
            min_replicas: MinReplicas::default(),
            credentials: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("url", &without_credentials(&self.url))
            .field("optional", &self.optional)
            .field("timeout", &self.timeout)
            .field("min_replicas", &self.min_replicas)
            .field("credentials", &self.credentials)
            .finish()
    }
}
