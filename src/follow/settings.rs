//! [`Follow`]: where the database is that a cache follows, and how late a change may be noticed.

use std::fmt;
use std::time::Duration;

use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};

use crate::postgres::replication::dial::Endpoint;

/// How a cache follows the database, for
/// [`QueryCacheBuilder::follow`](crate::QueryCacheBuilder::follow).
#[derive(Clone)]
#[must_use = "these settings do nothing until they are given to `follow`"]
pub struct Follow {
    pub(crate) endpoint: Endpoint,
    pub(crate) max_blind: Duration,
    /// Tests turn it off, to show what would happen.
    pub(crate) is_gated: bool,
}

/// How late a change may be noticed, by default.
const MAX_BLIND: Duration = Duration::from_secs(2);

impl Follow {
    /// Follows the database that `config` connects to.
    ///
    /// `config` must lead to the primary itself, past any pooler. With several hosts, the first one
    /// that is a primary is followed. Its role needs the attribute `REPLICATION` and nothing else;
    /// note that such a role can read all changes of all tables. `tls` is the connector of the
    /// application's own connections, or [`NoTls`](tokio_postgres::NoTls).
    pub fn new<C>(config: Config, tls: C) -> Follow
    where
        C: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        C::Stream: Send,
        C::TlsConnect: Send,
        <C::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        Follow { endpoint: Endpoint::new(config, tls), max_blind: MAX_BLIND, is_gated: true }
    }

    /// Sets how late a change of the database may be noticed, whatever fails. From 200 ms to 1 hour.
    ///
    /// While a follower is at work, changes are noticed within milliseconds. If there is none, a
    /// result that is followed is loaded again after this time.
    ///
    /// # Default
    ///
    /// 2 seconds
    pub fn max_blind(mut self, max_blind: Duration) -> Follow {
        self.max_blind = max_blind;
        self
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow")
            .field("endpoint", &self.endpoint)
            .field("max_blind", &self.max_blind)
            .finish()
    }
}
