//! The causes of an error: what PostgreSQL reported, whoever wrapped it, and what may be shown.

use std::error::Error as StdError;
use std::io;

use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::types::{WasNull, WrongType};

type Link<'e> = &'e (dyn StdError + 'static);

/// An error and its sources.
fn chain(error: Link<'_>) -> impl Iterator<Item = Link<'_>> {
    std::iter::successors(Some(error), |error| next(*error))
}

fn next(error: Link<'_>) -> Option<Link<'_>> {
    // An `io::Error` hides the error that it was made of: its source is the source of that one.
    let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    within.map(|within| within as Link<'_>).or_else(|| error.source())
}

/// PostgreSQL's report. It is the source of `tokio_postgres::Error`, also of a boxed or shared one.
pub(super) fn db_error(error: Link<'_>) -> Option<&DbError> {
    chain(error).find_map(|link| link.downcast_ref())
}

/// PostgreSQL's code, by whatever driver the query ran.
pub(super) fn sqlstate(error: Link<'_>) -> Option<SqlState> {
    chain(error).find_map(report).map(|report| SqlState::from_code(report.code))
}

/// The routine in PostgreSQL that reported the error.
pub(super) fn routine(error: Link<'_>) -> Option<&str> {
    chain(error).find_map(report).and_then(|report| report.routine)
}

/// PostgreSQL's message, which may quote a value.
pub(super) fn reported(error: Link<'_>) -> Option<&str> {
    chain(error).find_map(report).map(|report| report.message)
}

/// What PostgreSQL says of an error.
struct Report<'e> {
    code: &'e str,
    message: &'e str,
    routine: Option<&'e str>,
}

/// PostgreSQL's report, if this very error is one.
fn report(link: Link<'_>) -> Option<Report<'_>> {
    if let Some(db) = link.downcast_ref::<DbError>() {
        return Some(Report {
            code: db.code().code(),
            message: db.message(),
            routine: db.routine(),
        });
    }
    of_sqlx(link)
}

#[cfg(feature = "sqlx")]
fn of_sqlx(link: Link<'_>) -> Option<Report<'_>> {
    use sqlx::postgres::PgDatabaseError;

    let db = match link.downcast_ref::<sqlx::Error>() {
        Some(sqlx::Error::Database(db)) => db.try_downcast_ref::<PgDatabaseError>(),
        _ => link.downcast_ref(),
    }?;
    Some(Report { code: db.code(), message: db.message(), routine: db.routine() })
}

#[cfg(not(feature = "sqlx"))]
fn of_sqlx(_: Link<'_>) -> Option<Report<'_>> {
    None
}

/// The messages of an error and its sources, each once, without the values that PostgreSQL quotes.
pub(super) fn message(error: Link<'_>, is_private: bool) -> String {
    let reported = chain(error).find_map(report);
    let code = reported.as_ref().map(|report| format!("(SQLSTATE {})", report.code));
    // Messages of class 22 (data exceptions) and P0 (a function's own RAISE) may quote values, and an
    // error around it may repeat the message.
    let quotes = |code: &str| code.starts_with("22") || code.starts_with("P0");
    if is_private || reported.is_some_and(|report| quotes(report.code)) {
        return code.unwrap_or_default();
    }
    let mut out = String::new();
    for link in chain(error) {
        match report(link) {
            Some(report) => add(&mut out, report.message),
            None => add(&mut out, link.to_string().trim()),
        }
        if report(link).is_some() || hides_its_source(link) {
            break;
        }
    }
    if let Some(code) = code {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&code);
    }
    out
}

/// Many errors repeat the message of their source, at the end or as a whole.
fn add(out: &mut String, text: &str) {
    // `tokio_postgres` says no more than this about a report, which comes next.
    if let Some(before) = out.strip_suffix("db error") {
        out.truncate(before.trim_end_matches([':', ' ']).len());
    }
    if text.is_empty() || out.contains(text) {
        return;
    }
    if !out.is_empty() {
        out.push_str(": ");
    }
    out.push_str(text);
}

/// Whether a parameter could not be written, though its type is right.
pub(super) fn is_of_a_parameter(error: Link<'_>) -> bool {
    chain(error).any(|link| {
        link.is::<tokio_postgres::Error>()
            && link.to_string().starts_with("error serializing")
            && !link.source().is_some_and(|it| it.is::<WrongType>())
    })
}

/// Whether the source of a driver's error may quote a value: of a parameter that could not be
/// written, or of a column that could not be read.
fn hides_its_source(link: Link<'_>) -> bool {
    let converts = link.is::<tokio_postgres::Error>()
        && ["error serializing", "error deserializing"]
            .iter()
            .any(|text| link.to_string().starts_with(text));
    converts && !link.source().is_some_and(|it| it.is::<WrongType>() || it.is::<WasNull>())
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::Arc;

    use super::*;

    #[derive(Debug)]
    struct Outer<E>(&'static str, E);

    impl<E> fmt::Display for Outer<E> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl<E: StdError + 'static> StdError for Outer<E> {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.1)
        }
    }

    #[test]
    fn each_message_of_the_chain_is_shown_once() {
        let refused = || io::Error::other("connection refused");
        let shown = |error: &(dyn StdError + 'static)| message(error, false);
        assert_eq!(shown(&refused()), "connection refused");
        assert_eq!(shown(&Outer("no pool", refused())), "no pool: connection refused");
        let repeated = Outer("no pool: connection refused", Arc::new(refused()));
        assert_eq!(shown(&repeated), "no pool: connection refused");
        let hidden = io::Error::other(Outer("read", Box::new(Outer("no answer", refused()))));
        assert_eq!(shown(&hidden), "read: no answer: connection refused");
        assert_eq!(message(&hidden, true), "");
    }
}
