//! Learns from PostgreSQL what a query reads: the verdict of a query, once, and the questions that go
//! with a load.
//!
//! ```text
//! a verdict, in a transaction that is rolled back     a load, in one round trip
//!
//! the session                                         BEGIN
//! settings, role                                      query
//! PREPARE, for the types of the parameters            locks, session
//! CREATE FUNCTION pg_temp.…                           definitions, now and then
//! its tree; trees and bodies of all that it names     COMMIT
//! ROLLBACK
//! ```

mod judge;
mod on_client;
mod questions;
mod rows;

use std::sync::Arc;

use futures_util::future::BoxFuture;

pub(super) use self::on_client::{on_locked_client, on_pool};
pub(super) use self::questions::with_questions;
#[cfg(feature = "sqlx")]
pub(super) use self::questions::{BACK, SAVE};
pub(crate) use self::questions::{Questions, Replies};
use super::Statements;
use crate::error::Error;
use crate::learn::session::{self, Session};
use crate::learn::{TextRow, Verdict};
use crate::value::setup::Setup;

/// A query that PostgreSQL is asked about.
#[derive(Clone)]
pub struct Lesson {
    pub(crate) sql: Arc<str>,
    pub(crate) setup: Option<Arc<Setup<'static>>>,
    /// Relations that one of its loads has read and that its trees do not name.
    pub(crate) further: Vec<u32>,
    pub(crate) statements: Arc<Statements>,
}

/// What PostgreSQL says about a query, and about the session in which it was asked.
pub struct Taught {
    pub(crate) verdict: Verdict,
    pub(crate) session: Session,
}

/// A session within a transaction, by whatever driver.
pub(super) trait Ask: Send {
    /// Runs one statement by the extended protocol, which takes no more than one. `names` is `$1`, a
    /// list of texts. The columns of its rows are texts.
    fn ask<'a>(
        &'a mut self,
        sql: &'a str,
        names: Option<&'a [String]>,
    ) -> BoxFuture<'a, Result<Vec<TextRow>, Error>>;

    /// Sets what the query is run under, for the rest of the transaction.
    fn set_up<'a>(&'a mut self, setup: &'a Setup<'_>) -> BoxFuture<'a, Result<(), Error>>;
}

/// The beginning of the transaction. Some pools make all their transactions read-only.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// The end of the transaction.
pub(super) const END: &str = "ROLLBACK";

impl Lesson {
    /// Asks everything in a transaction that is open, and that the caller rolls back.
    pub(super) async fn learn(&self, session: &mut dyn Ask) -> Result<Taught, Error> {
        // Before anything is set: the key of a call shows what is set by itself.
        let asked = session.ask(&session::question([]), None).await?;
        let usual = Session::read(&asked, []).ok_or_else(Error::unreadable_session)?;
        if let Some(setup) = &self.setup {
            session.set_up(setup).await?;
        }
        let mut verdict = judge::judge(session, &self.sql, &self.further).await?;
        let is_set =
            |name: &String| self.setup.as_ref().is_some_and(|setup| setup.setting(name).is_some());
        // What is set for each load is in the key, and was set here as well.
        verdict.settings.retain(|name| !is_set(name));
        if verdict.settings.is_empty() {
            return Ok(Taught { verdict, session: usual });
        }
        let further = || verdict.settings.iter().map(String::as_str);
        let asked = session.ask(&session::question(further()), None).await?;
        let all = Session::read(&asked, further()).ok_or_else(Error::unreadable_session)?;
        let session = usual.with_rest_of(all);
        Ok(Taught { verdict, session })
    }
}
