//! Parameters of the reports, for the driver and for the cache alike.

use std::fmt;

use chrono::NaiveDate;
use deadpool_postgres::Pool;
use larder::{Answer, Error, Query, Rows};
use rust_decimal::Decimal;
use tokio_postgres::types::ToSql;

/// The parameters of one report.
///
/// An application binds its values where it asks. Here they are kept, because the same ones go to
/// PostgreSQL past the cache as well.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Params {
    Days(i32),
    Quantity(Decimal),
    Between(NaiveDate, NaiveDate),
    TextSince(&'static str, NaiveDate),
    KeySince(i64, NaiveDate),
    SinceText(NaiveDate, &'static str),
    Discounts(NaiveDate, Decimal, Decimal),
}

impl Params {
    /// Asks the query with these parameters through its cache.
    pub(crate) async fn ask(&self, query: &Query, pool: &Pool) -> Result<Answer<Rows>, Error> {
        match *self {
            Self::Days(days) => query.bind(days).fetch(pool).answer().await,
            Self::Quantity(least) => query.bind(least).fetch(pool).answer().await,
            Self::Between(from, to) => query.bind(from).bind(to).fetch(pool).answer().await,
            Self::TextSince(text, day) => query.bind(text).bind(day).fetch(pool).answer().await,
            Self::KeySince(key, day) => query.bind(key).bind(day).fetch(pool).answer().await,
            Self::SinceText(day, text) => query.bind(day).bind(text).fetch(pool).answer().await,
            Self::Discounts(day, about, below) => {
                query.bind(day).bind(about).bind(below).fetch(pool).answer().await
            }
        }
    }

    /// As tokio-postgres takes them.
    pub(crate) fn list(&self) -> Vec<&(dyn ToSql + Sync)> {
        match self {
            Self::Days(days) => vec![days],
            Self::Quantity(least) => vec![least],
            Self::Between(from, to) => vec![from, to],
            Self::TextSince(text, day) => vec![text, day],
            Self::KeySince(key, day) => vec![key, day],
            Self::SinceText(day, text) => vec![day, text],
            Self::Discounts(day, about, below) => vec![day, about, below],
        }
    }
}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Days(days) => write!(f, "$1 = {days}"),
            Self::Quantity(least) => write!(f, "$1 = {least}"),
            Self::Between(from, to) => write!(f, "$1 = {from}, $2 = {to}"),
            Self::TextSince(text, day) => write!(f, "$1 = {text}, $2 = {day}"),
            Self::KeySince(key, day) => write!(f, "$1 = {key}, $2 = {day}"),
            Self::SinceText(day, text) => write!(f, "$1 = {day}, $2 = {text}"),
            Self::Discounts(day, about, below) => {
                write!(f, "$1 = {day}, $2 = {about}, $3 = {below}")
            }
        }
    }
}
