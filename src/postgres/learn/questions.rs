//! [`Questions`]: what a load asks PostgreSQL besides its rows, in the same round trip.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, join, join_all, join3, select};
use tokio_postgres::Client;

use super::rows::text_rows;
use crate::error::Error;
use crate::learn::known::{Asks, DEFINITIONS, Learned, Plan};
use crate::learn::{TextRow, locks, oids, session};
use crate::postgres::outdated::{Failed, of_postgres};
use crate::postgres::statements::{Compared, Session};
use crate::rows::Image;
use crate::sync::Mutex;

/// How long a connection that nobody else has used is taken to have the settings that it had. They
/// change without a statement when the server's configuration is loaded again.
const SETTINGS_LAST: Duration = Duration::from_secs(1);

/// The questions of one load, and their replies.
pub(crate) struct Questions {
    /// The query and the questions are one transaction, so that its locks are there to be asked for.
    pub(crate) in_transaction: bool,
    /// No parallel workers: their locks are not the session's.
    pub(crate) serially: bool,
    /// Asked before the query.
    pub(crate) before: Option<Arc<str>>,
    pub(crate) questions: Vec<Arc<str>>,
    /// What the session is compared with. Set if it is the only question, which may be skipped on a
    /// connection that nobody has used since the last one.
    skips_for: Option<Arc<Learned>>,
    replies: Mutex<Option<Replies>>,
}

pub(crate) enum Replies {
    Rows(Vec<TextRow>),
    /// The connection is known to have the settings that its source has.
    Skipped,
}

impl Questions {
    /// The questions of a load by this plan.
    pub(crate) fn of(plan: &Plan, learned: &Arc<Learned>) -> Questions {
        let verdict = &learned.verdict;
        let locks = plan.asks == Asks::SessionAndLocks;
        let (mut before, mut questions): (Option<Arc<str>>, Vec<Arc<str>>) = (None, vec![]);
        if locks {
            questions.push(learned.ask_locks.clone());
            if verdict.catches {
                before = Some(locks::scans(locks::BEFORE).into());
                questions.push(locks::scans(locks::AFTER).into());
            }
        } else if plan.asks == Asks::Session {
            questions.push(learned.ask_session.clone());
        }
        if plan.definitions {
            questions.push(
                definitions(verdict.judged.iter(), &verdict.functions, &verdict.domains).into(),
            );
        }
        let skips = plan.asks == Asks::Session && !plan.definitions;
        Questions {
            in_transaction: locks,
            serially: locks && verdict.parallel,
            before,
            questions,
            skips_for: skips.then(|| learned.clone()),
            replies: Mutex::new(None),
        }
    }

    pub(crate) fn take_replies(&self) -> Option<Replies> {
        self.replies.lock().take()
    }

    pub(in crate::postgres) fn answer(&self, rows: Option<Vec<TextRow>>) {
        *self.replies.lock() = rows.map(Replies::Rows);
    }

    /// Whether a connection need not be asked, since nobody has used it since its session was compared.
    /// `uses`: how often it was taken from its pool.
    pub(in crate::postgres) fn skips(&self, session: &Session, uses: usize) -> bool {
        let Some(learned) = &self.skips_for else { return false };
        let Some(compared) = session.compared().filter(|compared| {
            compared.uses + 1 == uses
                && compared.at.elapsed() < SETTINGS_LAST
                && compared.with == learned.digest
        }) else {
            return false;
        };
        session.compare(Compared { uses, ..compared });
        *self.replies.lock() = Some(Replies::Skipped);
        true
    }

    /// Notes that a connection's session was compared, and is that of its source.
    pub(in crate::postgres) fn note(&self, session: &Session, uses: usize) {
        let Some(learned) = &self.skips_for else { return };
        let replies = self.replies.lock();
        let Some(Replies::Rows(rows)) = &*replies else { return };
        let further = learned.verdict.settings.iter().map(String::as_str);
        let same = session::Session::read(rows, further);
        if same.is_some_and(|same| learned.session.differs(&same, None).is_none()) {
            session.compare(Compared { uses, at: Instant::now(), with: learned.digest });
        }
    }
}

/// Around what is asked before a query.
pub(in crate::postgres) const SAVE: &str = "SAVEPOINT larder_scans";
pub(in crate::postgres) const BACK: &str =
    "ROLLBACK TO SAVEPOINT larder_scans; RELEASE SAVEPOINT larder_scans";

/// Asks the questions after a query, which sends its own messages at its first poll.
pub(in crate::postgres) async fn with_questions(
    client: &Client,
    session: Option<&Session>,
    questions: &Questions,
    query: impl Future<Output = Result<Image, Failed>>,
) -> Result<Image, Failed> {
    let before = join_all(questions.before.iter().map(|sql| async move {
        // What it locks is given back, since the locks of the query are asked for later.
        let begun = client.batch_execute(SAVE);
        let (_, rows, _) =
            join3(begun, ask(client, session, sql), client.batch_execute(BACK)).await;
        rows
    }));
    let asked = join_all(questions.questions.iter().map(|sql| ask(client, session, sql)));
    // The first poll of each sends its messages, in this order.
    let work = join(before, query);
    let (before, outcome, asked) = match select(pin!(work), pin!(asked)).await {
        // The replies come after rows that are not read.
        Either::Left(((_, outcome @ Err(_)), _)) => return outcome,
        Either::Left(((before, outcome), asked)) => (before, outcome, asked.await),
        Either::Right((asked, work)) => {
            let (before, outcome) = work.await;
            (before, outcome, asked)
        }
    };
    questions.answer(together(before.into_iter().chain(asked)));
    outcome
}

fn together(replies: impl Iterator<Item = Result<Vec<TextRow>, Error>>) -> Option<Vec<TextRow>> {
    let mut all = vec![];
    for reply in replies {
        all.extend(reply.ok()?);
    }
    Some(all)
}

/// Asks one question. A connection that keeps statements prepares it for the next time, in the same
/// round trip.
async fn ask(
    client: &Client,
    session: Option<&Session>,
    sql: &Arc<str>,
) -> Result<Vec<TextRow>, Error> {
    let Some(session) = session.filter(|session| session.keeps_statements()) else {
        return client.query_typed(sql, &[]).await.map_err(of_postgres).and_then(text_rows);
    };
    if let Some(known) = session.statement(sql) {
        let rows = client.query(&known.statement, &[]).await.map_err(of_postgres);
        if rows.is_err() {
            session.forget(sql);
        }
        return rows.and_then(text_rows);
    }
    // Behind the query, so that it does not wait for this.
    let (rows, prepared) = join(client.query_typed(sql, &[]), client.prepare(sql)).await;
    if let Ok(statement) = prepared {
        session.keep_statement(sql, statement);
    }
    rows.map_err(of_postgres).and_then(text_rows)
}

/// The question for the version of everything that a verdict was made of.
///
/// Views, policies, functions and checks change with their catalog rows. The row of a relation changes
/// by a `TRUNCATE` as well, so only what decides is compared.
pub(super) fn definitions<'o>(
    relations: impl IntoIterator<Item = &'o u32>,
    functions: impl IntoIterator<Item = &'o u32>,
    domains: impl IntoIterator<Item = &'o u32>,
) -> String {
    let (relations, functions) = (oids(relations), oids(functions));
    let domains = oids(domains);
    let rows = |of: &str, columns: &str, table: &str, by: &str, oids: &str| {
        format!(
            "(SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', {columns}), ' ' ORDER BY {of}) \
             FROM pg_catalog.{table} WHERE {by} = ANY ({oids}))"
        )
    };
    format!(
        "SELECT '{DEFINITIONS}', NULL, NULL, NULL, \
         pg_catalog.hashtextextended(pg_catalog.concat_ws('|', {}, {}, {}, {}, {}), 0)::pg_catalog.text, \
         NULL",
        rows(
            "oid",
            "oid, relname, relnamespace, relkind, relpersistence, relrowsecurity, relforcerowsecurity",
            "pg_class",
            "oid",
            &relations
        ),
        rows("oid", "oid, xmin", "pg_rewrite", "ev_class", &relations),
        rows("oid", "oid, xmin", "pg_policy", "polrelid", &relations),
        rows("oid", "oid, xmin", "pg_proc", "oid", &functions),
        rows("oid", "oid, xmin", "pg_constraint", "contypid", &domains),
    )
}
