//! Runs a query on a pool of sqlx, in a transaction of its own.
//!
//! sqlx waits for each reply before it sends the next message, so a load takes these round trips:
//!
//! ```text
//! BEGIN, the session's pid, whether the server is in recovery
//! settings, role                        if there are any; two each
//! prepare                               once per connection and query
//! descriptions of types                 if the statement has types of a user
//! what was scanned before               if the query learns and a function of its catches errors
//! query
//! versions of types                     if the statement has types of a user
//! what a query that learns has read, COMMIT
//! ```

use ::sqlx::Arguments as _;
use ::sqlx::pool::PoolConnection;
use ::sqlx::postgres::{PgArguments, PgConnection, PgPool, PgStatement, PgTypeInfo};
use ::sqlx::{
    AssertSqlSafe, Column, ConnectOptions, Connection, Either, Executor, Postgres, Row, SqlSafeStr,
    Statement,
};
use futures_util::{TryStreamExt, pin_mut};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::of_sqlx;
use super::params::Sent;
use super::rows::text_rows;
use super::types::Types;
use crate::error::Error;
use crate::postgres::cancel::LIMIT;
use crate::postgres::learn::{BACK, SAVE};
use crate::postgres::open::{BEGIN, SERIALLY, WORKERS};
use crate::postgres::outdated::Failed;
use crate::postgres::run::{Call, Pooling};
use crate::postgres::transaction::{FORGET_ROLE, FORGET_STATEMENTS, SET_ALL, SET_ROLE};
use crate::rows::{Described, Image, ImageWriter};
use crate::value::setup::Setup;

/// Runs a query in its own task. If the returned future is dropped before the query has ended, the
/// query is cancelled in PostgreSQL; see [`cancelled_on_drop`](crate::postgres::cancel).
pub(super) async fn on_pool(pool: PgPool, call: Call, pooling: Pooling) -> Result<Image, Error> {
    let (awaited, given_up) = oneshot::channel::<()>();
    let task = tokio::spawn(run(pool, call, pooling, given_up));
    // Dropped together with this future, which completes `given_up` in the task.
    let _awaited = awaited;
    task.await.unwrap_or_else(|ended| match ended.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Err(Error::closed()),
    })
}

async fn run(
    pool: PgPool,
    call: Call,
    pooling: Pooling,
    mut given_up: oneshot::Receiver<()>,
) -> Result<Image, Error> {
    let connection = tokio::select! {
        connection = pool.acquire() => connection.map_err(|error| Error::connect(error.into()))?,
        _ = &mut given_up => return Err(Error::closed()),
    };
    // The session that runs the query: behind a pooler, another one in each transaction.
    let (says, pid) = oneshot::channel();
    let mut lent = Lent { connection, is_idle: false };
    let query = async move {
        let mut says = Some(says);
        let mut outcome = lent.transaction(&call, pooling, false, &mut says).await;
        if matches!(outcome, Err(Failed::Statement(_) | Failed::Types(_))) && lent.is_idle {
            outcome = match lent.connection.clear_cached_statements().await {
                Ok(()) => lent.transaction(&call, pooling, true, &mut says).await,
                Err(error) => Err(Failed::Connection(of_sqlx(error))),
            };
        }
        (outcome.map_err(Failed::into_error), lent)
    };
    pin_mut!(query);
    tokio::select! {
        (outcome, _lent) = &mut query => return outcome,
        _ = &mut given_up => {}
    }
    // The connection is kept until PostgreSQL has answered, and then closed: a request that comes late
    // would hit its next user's query.
    let cancelled = async {
        if let Ok(pid) = pid.await {
            cancel(&pool, pid).await;
        }
    };
    let ended = async {
        let (_, mut lent) = query.await;
        lent.is_idle = false;
    };
    let _ = timeout(LIMIT, async { tokio::join!(cancelled, ended) }).await;
    Err(Error::closed())
}

/// Cancels what a session runs, over a new connection with the pool's own options, TLS included. Any
/// user may cancel the queries of sessions of the same user.
async fn cancel(pool: &PgPool, pid: i32) {
    let sent = async {
        let mut connection = pool.connect_options().connect().await?;
        let query = ::sqlx::query("SELECT pg_catalog.pg_cancel_backend($1)").persistent(false);
        query.bind(pid).execute(&mut connection).await?;
        connection.close().await
    };
    let _: Result<Result<(), ::sqlx::Error>, _> = timeout(LIMIT, sent).await;
}

/// A pool's connection while a query runs on it. If it is dropped in the middle of one, it is closed:
/// its next user would wait for the query, and would be inside its transaction.
pub(super) struct Lent {
    connection: PoolConnection<Postgres>,
    is_idle: bool,
}

impl Lent {
    /// A connection that is closed unless it [is idle](Lent::is_idle) in the end.
    pub(super) async fn of(pool: &PgPool) -> Result<Lent, Error> {
        let connection = pool.acquire().await.map_err(|error| Error::connect(error.into()))?;
        Ok(Lent { connection, is_idle: false })
    }

    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    pub(super) fn is_idle(&mut self) {
        self.is_idle = true;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.is_idle {
            self.connection.close_on_drop();
        }
    }
}

impl Lent {
    async fn transaction(
        &mut self,
        call: &Call,
        pooling: Pooling,
        again: bool,
        says: &mut Option<oneshot::Sender<i32>>,
    ) -> Result<Image, Failed> {
        self.is_idle = false;
        let in_recovery = self.begin(call, pooling, says).await.map_err(Failed::Connection)?;
        let connection = &mut *self.connection;
        let mut set = set_up(connection, call.setup.as_deref()).await;
        let allows = |setup: &Setup<'_>| setup.setting(WORKERS).is_some();
        if set.is_ok() && call.is_serial() && call.setup.as_deref().is_some_and(allows) {
            set = ::sqlx::raw_sql(SERIALLY)
                .execute(&mut *connection)
                .await
                .map(drop)
                .map_err(of_sqlx);
        }
        let mut before = vec![];
        if let Some(sql) = call.questions.as_ref().and_then(|it| it.before.clone())
            && set.is_ok()
        {
            let all = AssertSqlSafe(format!("{SAVE}; {sql}; {BACK}"));
            match ::sqlx::raw_sql(all).fetch_all(&mut *connection).await {
                Ok(rows) => before = text_rows(&rows).unwrap_or_default(),
                Err(error) => set = Err(of_sqlx(error)),
            }
        }
        let outcome = match set {
            Ok(()) => query(connection, call, again).await,
            Err(error) => Err(Failed::Query(error)),
        };
        if outcome.as_ref().is_err_and(Failed::is_too_large) {
            // The rows that were not read are still arriving.
            return outcome;
        }
        // Where statements are not kept, none is left behind in the session.
        let keeps = pooling == Pooling::Sessions && connection.cached_statements_size() > 0;
        let mut end = match (&outcome, keeps) {
            (Err(_), true) => "ROLLBACK",
            (Ok(_), true) => "COMMIT",
            (Err(_), false) => "ROLLBACK; DEALLOCATE ALL",
            (Ok(_), false) => "DEALLOCATE ALL; COMMIT",
        };
        // Asked together with the end, which is a message of several statements.
        let questions = call.questions.as_ref().filter(|_| outcome.is_ok());
        if let Some(questions) = questions {
            let all = [&questions.questions.join("; "), "; ", end].concat();
            let asked = ::sqlx::raw_sql(AssertSqlSafe(all)).fetch_all(&mut *self.connection).await;
            if let Ok(rows) = asked {
                let rows = text_rows(&rows).ok();
                questions.answer(rows.map(|rows| before.into_iter().chain(rows).collect()));
                self.is_idle = true;
                return outcome
                    .map(|image| if in_recovery { image.not_to_be_stored() } else { image });
            }
            // PostgreSQL did not answer them, so the transaction failed.
            questions.answer(None);
            end = if keeps { "ROLLBACK" } else { "ROLLBACK; DEALLOCATE ALL" };
        }
        match (::sqlx::raw_sql(end).execute(&mut *self.connection).await, outcome) {
            (Ok(_), outcome) => {
                self.is_idle = true;
                let image = outcome?;
                Ok(if in_recovery { image.not_to_be_stored() } else { image })
            }
            (Err(error), Ok(_)) => Err(Failed::Connection(of_sqlx(error))),
            (Err(_), Err(failed)) => Err(Failed::Connection(failed.into_error())),
        }
    }

    /// Begins the transaction. Returns whether the server is in recovery.
    async fn begin(
        &mut self,
        call: &Call,
        pooling: Pooling,
        says: &mut Option<oneshot::Sender<i32>>,
    ) -> Result<bool, Error> {
        let connection = &mut *self.connection;
        let begin = [
            BEGIN,
            if call.is_serial() { "; " } else { "" },
            if call.is_serial() { SERIALLY } else { "" },
            if pooling == Pooling::Transactions { FORGET_STATEMENTS } else { "" },
            if call.setup.is_some() { FORGET_ROLE } else { "" },
            "; SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery()",
        ]
        .concat();
        let rows = ::sqlx::raw_sql(AssertSqlSafe(begin)).fetch_all(&mut *connection);
        let rows = rows.await.map_err(of_sqlx)?;
        let last = rows.last().ok_or_else(Error::closed)?;
        let (pid, in_recovery) = (last.try_get(0), last.try_get(1));
        if let Some(says) = says.take() {
            let _ = says.send(pid.map_err(of_sqlx)?);
        }
        if pooling == Pooling::Transactions {
            // sqlx takes statements of other sessions for those of this one.
            connection.clear_cached_statements().await.map_err(of_sqlx)?;
        }
        in_recovery.map_err(of_sqlx)
    }
}

/// Sets everything for the rest of the transaction. The role comes last: what may be set is decided by
/// the rights of the connection's user.
pub(super) async fn set_up(
    connection: &mut PgConnection,
    setup: Option<&Setup<'_>>,
) -> Result<(), Error> {
    let Some(setup) = setup else { return Ok(()) };
    let (names, values): (Vec<&str>, Vec<&str>) = setup.settings().into_iter().unzip();
    if !names.is_empty() {
        let query = ::sqlx::query(SET_ALL).persistent(false).bind(&names).bind(&values);
        let set = query.execute(&mut *connection).await;
        set.map_err(|error| of_step(error, |error| Error::of_settings(&names, error.into())))?;
    }
    if let Some(role) = setup.role() {
        let query = ::sqlx::query(SET_ROLE).persistent(false).bind(role);
        let set = query.execute(&mut *connection).await;
        set.map_err(|error| of_step(error, |error| Error::role(role, error.into())))?;
    }
    Ok(())
}

/// The error of a step, by `named` if PostgreSQL refused it.
fn of_step(error: ::sqlx::Error, named: impl FnOnce(::sqlx::Error) -> Error) -> Error {
    if error.as_database_error().is_some() { named(error) } else { of_sqlx(error) }
}

async fn query(connection: &mut PgConnection, call: &Call, again: bool) -> Result<Image, Failed> {
    // A program that runs the same text by itself must not find our statement: its parameters have the
    // types that PostgreSQL gives them, not those that sqlx asks for.
    let text = if again {
        format!("{}\n/* larder, prepared again: {:08x} */", call.sql, fastrand::u32(..))
    } else {
        format!("{}\n/* larder */", call.sql)
    };
    let before = connection.cached_statements_size();
    let prepared = (&mut *connection).prepare(AssertSqlSafe(text).into_sql_str()).await;
    let statement = prepared.map_err(|error| Failed::of_prepare(of_sqlx(error)))?;
    // A full cache does not grow either. Then a failure is tried again in vain, once.
    let is_known = before > 0 && connection.cached_statements_size() == before;
    let parameters = parameters(&statement);
    let columns = statement.columns().iter().map(|column| oid_of(column.type_info()));
    let oids = parameters.iter().copied().chain(columns);
    let types = Types::describe(connection, oids).await.map_err(Failed::Query)?;
    let may_be_outdated = is_known || !types.is_empty();
    let failed = |error| Failed::of_run(error, may_be_outdated);
    let arguments = arguments(call, &parameters, &types).map_err(failed)?;
    let image = collect(connection, call, &statement, arguments, &types).await.map_err(failed)?;
    if types.is_empty() || types.are_current(connection).await.map_err(Failed::Query)? {
        Ok(image)
    } else {
        Err(Failed::outdated_types())
    }
}

/// Zero if sqlx does not know it, which no type of PostgreSQL is.
fn oid_of(type_: &PgTypeInfo) -> u32 {
    type_.oid().map_or(0, |oid| oid.0)
}

fn parameters(statement: &PgStatement) -> Vec<u32> {
    match statement.parameters() {
        Some(Either::Left(types)) => types.iter().map(oid_of).collect(),
        Some(Either::Right(_)) | None => vec![],
    }
}

fn arguments(call: &Call, parameters: &[u32], types: &Types) -> Result<PgArguments, Error> {
    let given = call.params.len();
    if given != parameters.len() {
        let expected = parameters.len();
        return Err(Error::query(format!("expected {expected} parameters but got {given}").into()));
    }
    let mut arguments = PgArguments::default();
    for (param, oid) in call.params.iter().zip(parameters) {
        let type_ = types.get(*oid).ok_or_else(Error::changed_types)?;
        let sent = Sent::new(param, &type_).map_err(Error::query)?;
        arguments.add(sent).map_err(Error::query)?;
    }
    Ok(arguments)
}

async fn collect(
    connection: &mut PgConnection,
    call: &Call,
    statement: &PgStatement,
    arguments: PgArguments,
    types: &Types,
) -> Result<Image, Error> {
    let columns = statement.columns();
    let described = columns.iter().map(|column| types.get(oid_of(column.type_info())));
    let described: Vec<_> = described.collect::<Option<_>>().ok_or_else(Error::changed_types)?;
    let columns = columns.iter().zip(&described).map(|(column, type_)| Described {
        name: column.name(),
        table_oid: column.relation_id().map(|oid| oid.0),
        column_id: column.relation_attribute_no(),
        // sqlx does not say.
        type_modifier: -1,
        type_,
    });
    let mut image = ImageWriter::new(call.sets.of_described(columns)?);
    // Without a cache, sqlx would leave a named statement behind.
    let keeps = connection.cached_statements_size() > 0;
    let rows = statement.query_with(arguments).persistent(keeps).fetch(connection);
    pin_mut!(rows);
    while let Some(row) = rows.try_next().await.map_err(of_sqlx)? {
        let cells: Result<Vec<_>, _> = (0..described.len()).map(|at| row.try_get_raw(at)).collect();
        let cells = cells.map_err(of_sqlx)?;
        image.push_cells(cells.iter().map(|cell| cell.as_bytes().ok()))?;
    }
    Ok(image.finish())
}
