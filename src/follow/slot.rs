//! [`Slot`]: a replication slot of the namespace, and what was known when it was made.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::Statement;

use super::definitions::Definitions;
use super::failure::{Failure, FailureKind};
use super::schema::Schema;
use super::server::{Server, limited};
use super::snapshot::Snapshot;
use super::stream::Stream;
use crate::postgres::replication::connection::ReplicationConnection;
use crate::postgres::replication::dial::Endpoint;
use crate::postgres::replication::error::ReplicationError;
use crate::value::checksum;
use crate::value::lsn::{History, Lsn};

/// The names of the slots of one namespace. A name is a lock: PostgreSQL gives it to one session.
#[derive(Debug, Clone)]
pub(super) struct SlotNames(Vec<String>);

impl SlotNames {
    /// For the processes that share a directory: one that leads and one that stands by.
    pub(super) fn shared(namespace: &str) -> SlotNames {
        let hash = checksum::of_name(namespace);
        SlotNames((0..2).map(|number| format!("larder_{hash:016x}_{number}")).collect())
    }

    /// For a process that follows for itself.
    pub(super) fn alone() -> SlotNames {
        SlotNames(vec![format!("larder_{:016x}", fastrand::u64(..))])
    }
}

/// How long the making of a slot takes before it is told what it waits for.
const TOLD_AFTER: Duration = Duration::from_secs(2);

/// A slot that is read. It is temporary: it ends with its connection.
pub(super) struct Slot {
    pub(super) server: Server,
    pub(super) stream: Stream,
    /// Everything that is committed from here on is read.
    pub(super) start: Lsn,
    /// Sampled after the slot was made.
    pub(super) high: Lsn,
    /// The transactions that may have been committed before `start` and were not visible after that.
    /// The stream will not show them.
    pub(super) unknown: BTreeSet<u64>,
    pub(super) definitions: Definitions,
    /// Definitions may have changed just before they were read first, and nobody may have announced it.
    pub(super) redefined_unseen: bool,
    pub(super) history: History,
    pub(super) queries: Queries,
}

/// The prepared statements of each round.
pub(super) struct Queries {
    sample: Statement,
    snapshot: Statement,
}

/// A snapshot, and then positions in the log: what is committed and visible in the snapshot is
/// before the first of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) snapshot: Snapshot,
    pub(super) insert: Lsn,
    pub(super) flushed: Lsn,
}

const UNREADABLE: ReplicationError =
    ReplicationError::Protocol("a snapshot or a position that cannot be read");

impl Queries {
    async fn prepare(server: &Server) -> Result<Queries, ReplicationError> {
        // The statement's snapshot is taken before its functions are called.
        let sample = "\
            SELECT pg_catalog.pg_current_snapshot()::text, \
              pg_catalog.pg_current_wal_insert_lsn()::text, \
              pg_catalog.pg_current_wal_flush_lsn()::text";
        let snapshot = "SELECT pg_catalog.pg_current_snapshot()::text";
        limited("preparing the questions of a round", async {
            let client = server.client();
            Ok(Queries {
                sample: client.prepare(sample).await?,
                snapshot: client.prepare(snapshot).await?,
            })
        })
        .await
    }
}

impl Slot {
    /// Connects, and makes a slot. PostgreSQL makes it when every transaction has ended that has
    /// written something by then, in any of its databases.
    ///
    /// `waits` is called with the reason while that takes long.
    pub(super) async fn make(
        endpoint: &Endpoint,
        names: &SlotNames,
        waits: impl Fn(&Failure),
    ) -> Result<Slot, Failure> {
        let (server, mut connection) = Server::connect(endpoint).await?;
        let (name, start) = create(&server, &mut connection, names, waits).await?;
        let failed = |error| Failure::of(format!("reading the slot {name}"), error);
        let start_command = format!(
            "START_REPLICATION SLOT \"{name}\" LOGICAL 0/0 (\"include-xids\" '1', \
             \"skip-empty-xacts\" '0', \"include-timestamp\" '0')"
        );
        limited("starting the stream", connection.start(&start_command)).await.map_err(failed)?;
        let queries = Queries::prepare(&server).await.map_err(failed)?;
        let stream = Stream::new(connection, start, server.encoding);
        let history = server.history();
        let first = sample(&server, &queries).await.map_err(failed)?;
        let elsewhere = of_other_databases(&server).await.map_err(failed)?;
        let unknown = first
            .snapshot
            .in_progress()
            .iter()
            .copied()
            .filter(|&xid| !elsewhere.contains(&(xid as u32)))
            .collect();
        let since = Instant::now();
        let definitions = Definitions::new(Schema::read(&server).await.map_err(failed)?, since);
        let high = server.reachable(first.insert);
        let redefined_unseen = false;
        Ok(Slot {
            server,
            stream,
            start,
            high,
            unknown,
            definitions,
            redefined_unseen,
            history,
            queries,
        })
    }

    /// A snapshot, and the positions after it.
    pub(super) async fn sample(&mut self) -> Result<Sample, ReplicationError> {
        sample(&self.server, &self.queries).await
    }

    /// A snapshot.
    pub(super) async fn snapshot(&mut self) -> Result<Snapshot, ReplicationError> {
        let client = self.server.client();
        let asked = async { Ok(client.query_one(&self.queries.snapshot, &[]).await?) };
        let row = limited("taking a snapshot", asked).await?;
        Snapshot::parse(row.get(0)).ok_or(UNREADABLE)
    }

    /// Whether a transaction of which nothing is known has been rolled back.
    pub(super) async fn was_aborted(&mut self, xid: u64) -> Result<bool, ReplicationError> {
        let sql = format!("SELECT pg_xact_status('{xid}'::xid8) = 'aborted'");
        let asked = async { Ok(self.server.client().query_one(&sql, &[]).await?) };
        let row = limited("asking what became of a transaction", asked).await?;
        Ok(row.get::<_, Option<bool>>(0).unwrap_or(false))
    }
}

impl Slot {
    /// Whether another process has a slot of the namespace, and may stand by.
    pub(super) async fn has_companion(
        &mut self,
        names: &SlotNames,
    ) -> Result<bool, ReplicationError> {
        let sql = "\
            SELECT pg_catalog.count(*) > 1 FROM pg_catalog.pg_replication_slots \
            WHERE slot_name = ANY ($1::text[])";
        let asked = async { Ok(self.server.client().query_one(sql, &[&names.0]).await?) };
        Ok(limited("asking for slots", asked).await?.get(0))
    }
}

async fn sample(server: &Server, queries: &Queries) -> Result<Sample, ReplicationError> {
    let asked = async { Ok(server.client().query_one(&queries.sample, &[]).await?) };
    let row = limited("sampling the position of the log", asked).await?;
    let lsn = |at: usize| Lsn::parse(row.get(at)).ok_or(UNREADABLE);
    let snapshot = Snapshot::parse(row.get(0)).ok_or(UNREADABLE)?;
    Ok(Sample { snapshot, insert: lsn(1)?, flushed: lsn(2)? })
}

/// The transactions of other databases, as far as the role may see them: the lower half of their
/// numbers. They write to no table of this one.
async fn of_other_databases(server: &Server) -> Result<BTreeSet<u32>, ReplicationError> {
    let sql = "\
        SELECT backend_xid::text FROM pg_catalog.pg_stat_activity \
        WHERE datname <> pg_catalog.current_database() AND backend_xid IS NOT NULL \
        UNION ALL \
        SELECT transaction::text FROM pg_catalog.pg_prepared_xacts \
        WHERE database <> pg_catalog.current_database()";
    let asked = async { Ok(server.client().query(sql, &[]).await?) };
    let rows = limited("asking for transactions of other databases", asked).await?;
    Ok(rows.iter().filter_map(|row| row.get::<_, &str>(0).parse().ok()).collect())
}

/// What the making of a slot waits for, as far as the role may see it.
async fn waited_for(server: &Server, name: &str) -> Failure {
    let sql = "\
        SELECT pid FROM pg_catalog.pg_stat_activity \
        WHERE backend_xid IS NOT NULL AND backend_type <> 'walsender' ORDER BY xact_start LIMIT 1";
    let asked = async { Ok(server.client().query_opt(sql, &[]).await?) };
    let oldest = limited("asking for the oldest transaction", asked).await.ok().flatten();
    let whose = oldest.map_or_else(String::new, |row| {
        format!(", the oldest of which is that of process {}", row.get::<_, i32>(0))
    });
    let attempt = format!(
        "making the slot {name}: it is made when all transactions have ended that have written \
         something, in any database of the server{whose}"
    );
    Failure::new(FailureKind::Waits, attempt)
}

async fn create(
    server: &Server,
    connection: &mut ReplicationConnection,
    names: &SlotNames,
    waits: impl Fn(&Failure),
) -> Result<(String, Lsn), Failure> {
    for name in &names.0 {
        let command = format!(
            "CREATE_REPLICATION_SLOT \"{name}\" TEMPORARY LOGICAL test_decoding NOEXPORT_SNAPSHOT"
        );
        // Without a time limit: it waits for transactions, which may last for hours.
        let mut making = pin!(connection.run(&command));
        let made = loop {
            match timeout(TOLD_AFTER, &mut making).await {
                Ok(made) => break made,
                Err(_) => waits(&waited_for(server, name).await),
            }
        };
        let rows = match made {
            Err(error) if error.sqlstate() == Some("42710") => continue,
            made => made.map_err(|error| Failure::of(format!("making the slot {name}"), error))?,
        };
        let start = rows.first().and_then(|row| Lsn::parse(row.get(1)?.as_deref()?));
        let start = start.ok_or_else(|| {
            let wrong = ReplicationError::Protocol("a slot without a position");
            Failure::of(format!("making the slot {name}"), wrong)
        })?;
        return Ok((name.clone(), start));
    }
    let attempt = || format!("making one of the slots {}", names.0.join(" and "));
    let sql = "\
        SELECT pg_catalog.count(*) > 0 FROM pg_catalog.pg_replication_slots \
        WHERE slot_name = ANY ($1::text[]) AND database <> pg_catalog.current_database()";
    let asked = async { Ok(server.client().query_one(sql, &[&names.0]).await?) };
    let row = limited("asking for slots", asked).await;
    let row = row.map_err(|error| Failure::of(attempt(), error))?;
    if row.get(0) {
        let attempt = format!("{}: another database has the same namespace", attempt());
        return Err(Failure::new(FailureKind::OtherDatabase, attempt));
    }
    Err(Failure::new(FailureKind::Taken, format!("{}: two processes have them", attempt())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_a_namespace_have_names_that_postgresql_accepts() {
        let names = SlotNames::shared("Shop-1.eu");
        assert_eq!(names.0.len(), 2);
        for name in names.0.iter().chain(&SlotNames::alone().0) {
            assert!(name.len() < 64, "{name}");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            );
        }
        assert_eq!(names.0, SlotNames::shared("Shop-1.eu").0);
        assert_ne!(names.0, SlotNames::shared("Shop-1.us").0);
    }
}
