//! [`Server`]: the primary that is followed, and whether its address still leads to it.

use std::time::Duration;

use futures_util::future::join_all;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::decoded::OWN_MESSAGE;
use super::failure::{Failure, FailureKind};
use crate::patience::within;
use crate::postgres::replication::connection::ReplicationConnection;
use crate::postgres::replication::dial::{Address, Endpoint, Sql};
use crate::postgres::replication::error::ReplicationError;
use crate::postgres::replication::test_decoding::Encoding;
use crate::value::lsn::{History, Lsn};

/// How long a statement of ours may take. The longest reads the catalogs of all tables.
const LIMIT: Duration = Duration::from_secs(10);

/// The server that is followed, with a session for SQL beside the stream.
pub(super) struct Server {
    pub(super) sql: Sql,
    pub(super) identity: Identity,
    pub(super) address: Address,
    /// Of the names that the plugin writes.
    pub(super) encoding: Encoding,
    /// The length of a page of the log.
    block: u64,
}

/// What tells one server from another, and one start of it from the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    system: String,
    /// `None` in recovery.
    timeline: Option<String>,
    started: String,
    database: String,
}

/// What a session says of its server.
struct Facts {
    identity: Identity,
    wal_level: String,
    encoding: String,
    block: u64,
}

/// The same on a session for SQL and on one for replication, as text.
const FACTS: &str = "\
    SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system())::text, \
      CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
        THEN pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8) \
        END, \
      pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time())::text, \
      pg_catalog.current_database()::text, \
      pg_catalog.current_setting('wal_level'), \
      pg_catalog.current_setting('server_encoding'), \
      pg_catalog.current_setting('wal_block_size')";

/// For the session beside the stream. A commit that has the log flushed waits for no standby.
const SETTINGS: &str = "\
    SET synchronous_commit = local; SET statement_timeout = 0; SET lock_timeout = 0; \
    SET idle_session_timeout = 0; SET default_transaction_read_only = off; SET jit = off; \
    SET default_transaction_isolation = 'read committed'; SET search_path = pg_catalog";

impl Facts {
    fn read(row: &[Option<String>]) -> Option<Facts> {
        let [system, timeline, started, database, wal_level, encoding, block] = row else {
            return None;
        };
        let identity = Identity {
            system: system.clone()?,
            timeline: timeline.clone(),
            started: started.clone()?,
            database: database.clone()?,
        };
        Some(Facts {
            identity,
            wal_level: wal_level.clone()?,
            encoding: encoding.clone()?,
            block: block.as_ref()?.parse().ok()?,
        })
    }

    async fn of(client: &Client) -> Result<Facts, ReplicationError> {
        let messages =
            limited("asking the server who it is", async { Ok(client.simple_query(FACTS).await?) });
        let rows = messages.await?.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect::<Vec<_>>())
            }
            _ => None,
        });
        rows.as_deref().and_then(Facts::read).ok_or(UNREADABLE)
    }
}

const UNREADABLE: ReplicationError =
    ReplicationError::Protocol("the server does not say which server it is");

impl Server {
    /// Connects to the first address that is a primary's: for SQL and for replication.
    pub(super) async fn connect(
        endpoint: &Endpoint,
    ) -> Result<(Server, ReplicationConnection), Failure> {
        let addresses = endpoint.addresses().await;
        let addresses = addresses.map_err(|error| Failure::of("resolving the host", error))?;
        let mut why = None;
        for address in addresses {
            match Server::connect_to(&address).await {
                Ok(connected) => return Ok(connected),
                // A server that answers says more than one that does not.
                Err(failure) => match &why {
                    Some(Failure { kind, .. }) if *kind != FailureKind::Connection => {}
                    _ => why = Some(failure),
                },
            }
        }
        Err(why.unwrap_or_else(|| {
            Failure::new(FailureKind::Connection, "following the database: there is no address")
        }))
    }

    async fn connect_to(address: &Address) -> Result<(Server, ReplicationConnection), Failure> {
        let failed = |error| Failure::of(format!("connecting to {address} to follow it"), error);
        let sql = address.sql().await.map_err(failed)?;
        let Facts { identity, wal_level, encoding, block } =
            Facts::of(&sql.client).await.map_err(failed)?;
        if identity.timeline.is_none() {
            let attempt = format!("following the server at {address}: it is a standby");
            return Err(Failure::new(FailureKind::Standby, attempt));
        }
        if wal_level != "logical" {
            let attempt = format!(
                "following the server at {address}: its `wal_level` is `{wal_level}`, which does \
                 not record what is needed"
            );
            return Err(Failure::new(FailureKind::WalLevel, attempt));
        }
        let mut stream = address.replication().await.map_err(failed)?;
        let rows = limited("asking the walsender who it is", stream.run(FACTS)).await;
        let rows = rows.map_err(failed)?;
        let other = rows.first().and_then(|row| Facts::read(row));
        if other.is_none_or(|other| other.identity != identity) {
            // A name with several addresses behind it, or a pooler that routes.
            let attempt = format!("connecting to {address}: two connections met two servers");
            return Err(Failure::new(FailureKind::OtherServer, attempt));
        }
        let settings = async { Ok(sql.client.batch_execute(SETTINGS).await?) };
        limited("setting the session up", settings).await.map_err(failed)?;
        let encoding = if encoding == "UTF8" { Encoding::Utf8 } else { Encoding::Other };
        let server = Server { sql, identity, address: address.clone(), encoding, block };
        Ok((server, stream))
    }

    /// Names the course of this server's log.
    pub(super) fn history(&self) -> History {
        let Identity { system, timeline, started, database } = &self.identity;
        let timeline = timeline.as_deref().unwrap_or_default();
        History::of(&format!("{system} {timeline} {started} {database}"))
    }

    pub(super) fn client(&self) -> &Client {
        &self.sql.client
    }

    /// A position that the log is written at, as a stream can reach it. Behind the header of a page
    /// that nothing is written to yet, it stands for the end of the page before.
    pub(super) fn reachable(&self, insert: Lsn) -> Lsn {
        // The header of a page, and the longer one of a file's first page.
        const HEADERS: [u64; 2] = [24, 40];
        let within = insert.number() % self.block;
        if HEADERS.contains(&within) { Lsn::of(insert.number() - within) } else { insert }
    }

    /// Has the log flushed up to its end, without waiting for a standby.
    pub(super) async fn flush(&self) -> Result<(), ReplicationError> {
        let sql = format!("SELECT pg_logical_emit_message(true, '{OWN_MESSAGE}', '')");
        let flush = async { Ok(self.client().batch_execute(&sql).await?) };
        limited("having the log flushed", flush).await
    }
}

/// Whether the addresses still lead to the server that is followed. A primary that was deposed and
/// does not know it may go on for a while; then its name leads to another server, or another address
/// is that of a primary on a later timeline.
pub(super) async fn verify(endpoint: &Endpoint, followed: &Identity) -> Result<(), Failure> {
    let addresses = endpoint.addresses().await;
    let addresses = addresses.map_err(|error| Failure::of("resolving the host", error))?;
    let asked = addresses.iter().map(async |address| {
        let sql = address.sql().await?;
        Ok::<_, ReplicationError>(Facts::of(&sql.client).await?.identity)
    });
    let mut lost = None;
    let mut is_met = false;
    for (identity, address) in join_all(asked).await.into_iter().zip(&addresses) {
        match identity {
            Ok(identity) if identity == *followed => is_met = true,
            Ok(Identity { timeline: None, .. }) => {}
            Ok(other) if is_met && other.system == followed.system => {
                if other.timeline > followed.timeline {
                    let attempt = format!("following the database: {address} is the primary now");
                    return Err(Failure::new(FailureKind::OtherServer, attempt));
                }
            }
            Ok(_) if !is_met => {
                let attempt = format!("following the database: another server is at {address}");
                return Err(Failure::new(FailureKind::OtherServer, attempt));
            }
            Ok(_) => {}
            Err(error) => lost = Some(Failure::of(format!("connecting to {address}"), error)),
        }
    }
    match lost {
        _ if is_met => Ok(()),
        Some(failure) => Err(failure),
        None => {
            let attempt = "following the database: the server is a standby by now";
            Err(Failure::new(FailureKind::OtherServer, attempt))
        }
    }
}

/// A time limit for what the server does.
pub(super) async fn limited<T>(
    what: &'static str,
    done: impl Future<Output = Result<T, ReplicationError>>,
) -> Result<T, ReplicationError> {
    within(LIMIT, done).await.unwrap_or(Err(ReplicationError::TimedOut(what)))
}
