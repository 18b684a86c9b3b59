//! [`Blocker`]: a session that a refresh waits for, and what to do about it.

use std::fmt;
use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Error, Row};

use super::finding::{Finding, FindingKind};
use super::session::Session;

/// The first half of the key of a view's advisory lock. The second half is the view's OID.
pub(super) const LOCK_CLASS: i32 = i32::from_be_bytes(*b"lard");

/// How a view is refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefreshMode {
    Concurrently,
    Plainly,
}

/// A session, or a prepared transaction, that holds a lock which a refresh needs, or that stands
/// before the refresh in the queue for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocker {
    /// Zero for a prepared transaction, which has no process.
    pid: i32,
    /// The SQL literal of its identifier.
    prepared: Option<String>,
    user: Option<String>,
    application: Option<String>,
    /// `None` if this role may not see it.
    state: Option<String>,
    is_autovacuum: bool,
    in_transaction: Option<Duration>,
    in_state: Option<Duration>,
    /// The mode of its lock, and whether it has that lock.
    lock: Option<(String, bool)>,
    /// What is locked, such as a relation by its full name.
    on: String,
}

/// A wait for a lock, as seen at one moment. Its `Display` is what is waited for, and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockWait {
    mode: String,
    on: String,
    waited: Option<Duration>,
    blockers: Vec<Blocker>,
}

/// What is read of a blocker. `b.pid` is its process, `l` its lock, `k` what is locked.
const BLOCKER: &str = "b.pid, quote_literal(x.gid), quote_ident(coalesce(a.usename, x.owner)), \
    nullif(a.application_name, ''), a.state, \
    coalesce(a.backend_type = 'autovacuum worker', false), \
    extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, x.prepared))::float8, \
    extract(epoch FROM clock_timestamp() - a.state_change)::float8, l.mode, l.granted";

/// The name of what a lock `k` is on.
const LOCKED: &str = "CASE WHEN k.locktype IN ('relation', 'extend', 'page', 'tuple') THEN \
      coalesce((SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c \
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = k.relation), \
        'the relation ' || k.relation) \
    WHEN k.locktype IN ('transactionid', 'virtualxid') THEN 'the transaction of another session' \
    WHEN k.locktype = 'advisory' THEN 'an advisory lock' \
    ELSE 'the ' || k.locktype || ' ' || coalesce(k.objid::text, '') END";

/// Finds the prepared transaction that has the lock `l`. It also has the lock of its own number.
const PREPARED: &str = "LEFT JOIN pg_prepared_xacts x ON b.pid = 0 AND x.transaction = \
    (SELECT t.transactionid FROM pg_locks t WHERE t.locktype = 'transactionid' AND t.pid IS NULL \
     AND t.granted AND t.virtualtransaction = l.virtualtransaction LIMIT 1)";

const HERE: &str = "(SELECT oid FROM pg_database WHERE datname = current_database())";

/// What a server process waits for; `None` if it does not wait for a lock.
pub(crate) async fn waits(session: &mut Session, pid: i32) -> Result<Option<LockWait>, Error> {
    let sql = format!(
        "SELECT {BLOCKER}, {LOCKED}, k.mode, \
           extract(epoch FROM clock_timestamp() - k.waitstart)::float8 \
         FROM pg_locks k LEFT JOIN LATERAL \
           (SELECT DISTINCT unnest(pg_blocking_pids(k.pid)) AS pid) b ON true \
         LEFT JOIN LATERAL (SELECT o.mode, o.granted, o.virtualtransaction FROM pg_locks o \
           WHERE coalesce(o.pid, 0) = b.pid AND (o.locktype, o.database, o.relation, o.page, \
             o.tuple, o.virtualxid, o.transactionid, o.classid, o.objid, o.objsubid) \
             IS NOT DISTINCT FROM (k.locktype, k.database, k.relation, k.page, k.tuple, \
             k.virtualxid, k.transactionid, k.classid, k.objid, k.objsubid) \
           ORDER BY o.granted DESC, o.mode LIMIT 1) l ON true \
         LEFT JOIN pg_stat_activity a ON a.pid = b.pid \
         {PREPARED} WHERE k.pid = $1 AND NOT k.granted ORDER BY b.pid"
    );
    let rows = session.query(&sql, &[(&pid, Type::INT4)]).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let named = rows.iter().filter(|row| row.get::<_, Option<i32>>(0).is_some());
    Ok(Some(LockWait {
        on: first.get(10),
        mode: first.get(11),
        waited: seconds(first, 12),
        blockers: named.map(Blocker::read).collect(),
    }))
}

/// Who holds, or is queued for, a lock that a refresh of this view has to wait for. `reads`: the
/// relations that the view reads.
pub(crate) async fn held(
    session: &mut Session,
    view: u32,
    reads: &[u32],
    how: RefreshMode,
) -> Result<Vec<Blocker>, Error> {
    // CONCURRENTLY takes EXCLUSIVE, which lets readers of the view be. A plain refresh takes ACCESS
    // EXCLUSIVE. What the view reads is taken with ACCESS SHARE, and so are all partitions.
    let beside = match how {
        RefreshMode::Concurrently => "l.mode <> 'AccessShareLock'",
        RefreshMode::Plainly => "true",
    };
    let sql = format!(
        "WITH RECURSIVE family AS ( \
           SELECT unnest($2::oid[]) AS oid \
           UNION SELECT i.inhrelid FROM pg_inherits i JOIN family f ON i.inhparent = f.oid) \
         SELECT {BLOCKER}, {LOCKED} \
         FROM pg_locks l CROSS JOIN LATERAL (SELECT coalesce(l.pid, 0) AS pid) b \
         CROSS JOIN LATERAL (SELECT l.*) k \
         LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
         {PREPARED} WHERE l.locktype = 'relation' AND l.database = {HERE} \
           AND l.pid IS DISTINCT FROM pg_backend_pid() \
           AND (l.relation = $1 AND {beside} OR l.mode = 'AccessExclusiveLock' AND \
             (l.relation IN (SELECT oid FROM family) OR l.relation IN \
               (SELECT i.indexrelid FROM pg_index i \
                WHERE i.indrelid = $1 OR i.indrelid IN (SELECT oid FROM family)))) \
         ORDER BY l.granted DESC, b.pid, l.relation <> $1, l.mode"
    );
    let reads = reads.to_vec();
    let rows = session.query(&sql, &[(&view, Type::OID), (&reads, Type::OID_ARRAY)]).await?;
    let mut all: Vec<Blocker> = rows.iter().map(Blocker::read).collect();
    // A session that has locked a table has mostly locked its indexes too.
    all.dedup_by(|next, kept| next.pid == kept.pid && next.prepared == kept.prepared);
    Ok(all)
}

/// The session that is refreshing a view through Larder.
pub(crate) async fn refresher(session: &mut Session, oid: u32) -> Result<Option<Blocker>, Error> {
    let sql = format!(
        "SELECT {BLOCKER}, 'it' \
         FROM pg_locks l CROSS JOIN LATERAL (SELECT l.pid) b \
         LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
         LEFT JOIN pg_prepared_xacts x ON false \
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.database = {HERE} \
           AND l.classid = $1 AND l.objid = $2 AND l.pid <> pg_backend_pid()"
    );
    let class = LOCK_CLASS as u32;
    let rows = session.query(&sql, &[(&class, Type::OID), (&oid, Type::OID)]).await?;
    Ok(rows.first().map(Blocker::read))
}

fn seconds(row: &Row, at: usize) -> Option<Duration> {
    let seconds: Option<f64> = row.get(at);
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok())
}

impl LockWait {
    pub(crate) fn blockers(&self) -> &[Blocker] {
        &self.blockers
    }

    /// The same wait, seen so long ago and not ended since.
    pub(crate) fn lasts_for(self, more: Duration) -> LockWait {
        LockWait { waited: self.waited.map(|waited| waited + more), ..self }
    }

    /// One finding for each session that is waited for.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.blockers.iter().map(|blocker| blocker.finding("a refresh is waiting for")).collect()
    }
}

impl fmt::Display for LockWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.mode, self.on)?;
        match self.waited {
            Some(waited) => write!(f, " for {}", Rounded(waited)),
            None => Ok(()),
        }
    }
}

impl Blocker {
    fn read(row: &Row) -> Blocker {
        let mode: Option<String> = row.get(8);
        Blocker {
            pid: row.get(0),
            prepared: row.get(1),
            user: row.get(2),
            application: row.get(3),
            state: row.get(4),
            is_autovacuum: row.get(5),
            in_transaction: seconds(row, 6),
            in_state: seconds(row, 7),
            lock: mode.map(|mode| (mode, row.get::<_, Option<bool>>(9).unwrap_or(false))),
            on: row.get(10),
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// The session, without what it has locked.
    pub(crate) fn session(&self) -> String {
        let mut who = match &self.prepared {
            Some(name) => format!("the prepared transaction {name}"),
            None => format!("postgresql's process {}", self.pid),
        };
        let user = self.user.as_ref().map(|user| format!("user {user}"));
        let application = self.application.as_ref().map(|it| format!("application {it}"));
        let known: Vec<String> = user.into_iter().chain(application).collect();
        if !known.is_empty() {
            who.push_str(&format!(" ({})", known.join(", ")));
        }
        who
    }

    /// How long its transaction has been open.
    pub(crate) fn age(&self) -> String {
        self.in_transaction.map(|age| format!(", for {}", Rounded(age))).unwrap_or_default()
    }

    /// `why`: how a refresh relates to it, such as "a refresh is waiting for".
    pub(crate) fn finding(&self, why: &str) -> Finding {
        let (who, on) = (self.session(), &self.on);
        let mut message = match &self.lock {
            Some((mode, true)) => format!("{who} holds {mode} on {on}, which {why}"),
            Some((mode, false)) => format!("{who} is queued for {mode} on {on} first, which {why}"),
            None => format!("{who} blocks {on}, which {why}"),
        };
        if let Some(age) = self.in_transaction {
            message.push_str(&format!(", in a transaction of {}", Rounded(age)));
        }
        let is_idle = self.state.as_deref().is_some_and(|state| state.starts_with("idle in"));
        let cancel = format!("SELECT pg_cancel_backend({});", self.pid);
        let (advice, sql) = match &self.prepared {
            Some(name) => {
                let advice = "commit it or roll it back: it stays until somebody does";
                (advice.to_owned(), format!("ROLLBACK PREPARED {name};"))
            }
            None if is_idle => {
                let idle = self.in_state.map(|it| format!(" for {}", Rounded(it)));
                let idle = idle.unwrap_or_default();
                let advice = format!(
                    "it has been idle{idle} with its transaction open: let its program end the \
                     transaction, or end the session"
                );
                (advice, format!("SELECT pg_terminate_backend({});", self.pid))
            }
            None if self.is_autovacuum => {
                let advice = "autovacuum gives way by itself, except when it prevents transaction \
                              id wraparound";
                (advice.to_owned(), cancel)
            }
            None if self.state.is_none() => {
                let advice = "what it does is shown to members of pg_read_all_stats only: wait \
                              until it has ended, or cancel it";
                (advice.to_owned(), cancel)
            }
            None => ("wait until it has ended, or cancel it".to_owned(), cancel),
        };
        Finding::new(FindingKind::Held, format!("{message}; {advice}")).mend(sql)
    }
}

/// A duration as people write it: `1.2s`, `3m 20s`, `5h 7m`, `2d 3h`.
pub(crate) struct Rounded(pub(crate) Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{:.1}s", self.0.as_secs_f64()),
            (0, 0, _) => write!(f, "{minutes}m {}s", seconds % 60),
            (0, ..) => write!(f, "{hours}h {}m", minutes % 60),
            _ => write!(f, "{days}d {}h", hours % 24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocker() -> Blocker {
        Blocker {
            pid: 42,
            prepared: None,
            user: Some("app".into()),
            application: Some("backup".into()),
            state: Some("active".into()),
            is_autovacuum: false,
            in_transaction: Some(Duration::from_secs(200)),
            in_state: Some(Duration::from_millis(1250)),
            lock: Some(("ShareLock".into(), true)),
            on: "public.t".into(),
        }
    }

    #[test]
    fn the_advice_fits_what_the_session_does() {
        let says = |blocker: Blocker| {
            let finding = blocker.finding("a refresh is waiting for");
            (finding.message().to_owned(), finding.mending_sql()[0].clone())
        };
        let (message, sql) = says(blocker());
        assert_eq!(
            message,
            "postgresql's process 42 (user app, application backup) holds ShareLock on public.t, \
             which a refresh is waiting for, in a transaction of 3m 20s; wait until it has ended, \
             or cancel it"
        );
        assert_eq!(sql, "SELECT pg_cancel_backend(42);");
        // Cancelling does nothing to a session that runs no statement.
        let idle = Blocker { state: Some("idle in transaction".into()), ..blocker() };
        let (message, sql) = says(idle);
        assert!(message.contains("idle for 1.2s with its transaction open"), "{message}");
        assert_eq!(sql, "SELECT pg_terminate_backend(42);");
        let prepared = Blocker { pid: 0, prepared: Some("'it''s'".into()), ..blocker() };
        let (message, sql) = says(prepared);
        assert!(message.starts_with("the prepared transaction 'it''s' ("), "{message}");
        assert_eq!(sql, "ROLLBACK PREPARED 'it''s';");
        let (message, _) = says(Blocker { state: None, ..blocker() });
        assert!(message.contains("pg_read_all_stats"), "{message}");
    }

    #[test]
    fn durations_are_short() {
        let shown = |seconds| Rounded(Duration::from_secs(seconds)).to_string();
        assert_eq!(
            [shown(7), shown(61), shown(3_700), shown(90_000)],
            ["7.0s", "1m 1s", "1h 1m", "1d 1h"]
        );
    }
}
