//! What is compared.

use std::future::Future;

use crate::work::{Database, Failed};

/// A cache in front of the report, set up as its own documentation recommends.
pub trait Peer: Send + Sync + Sized + 'static {
    const NAME: &'static str;
    /// What it does not do, or what has to be known to read its figures.
    const REMARK: &'static str;
    /// Whether it can be opened twice in a process, as in two processes.
    const TWICE: bool = true;

    /// What a read hands out.
    type Answer: Send + 'static;

    /// A cache with nothing in its memory.
    fn open(redis: &str, database: &Database) -> impl Future<Output = Self> + Send;

    fn read(
        &self,
        id: i64,
        region: &'static str,
    ) -> impl Future<Output = Result<Self::Answer, Failed>> + Send;

    /// The number of lines, and the version they are of.
    fn seen(answer: &Self::Answer) -> (usize, i64);

    /// Makes the result stale: by its tag, or by its key where there are no tags.
    fn invalidate(
        &self,
        id: i64,
        region: &'static str,
    ) -> impl Future<Output = Result<(), Failed>> + Send;
}
