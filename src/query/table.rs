//! [`Query::table`]: a relation that a query reads.

use super::Query;
use crate::value::relation;

impl Query {
    /// Declares that the query reads a table, a partition, a view or a foreign table, so that
    /// [`QueryCache::write`](crate::QueryCache::write) makes its results stale.
    ///
    /// Write the name as in SQL, with the schema or without. `orders`, `ORDERS`, `public.orders` and
    /// `"orders"` are one table. Without a schema, a write to a table of this name in any schema makes
    /// the results stale, since the connection's `search_path` decides which one is meant.
    ///
    /// Declare each table that the results depend on, also those that a view or a function reads. May
    /// be called several times. It adds [tags](Query::tag): the name as it is given, and its usual
    /// spelling.
    ///
    /// If the cache [follows](crate::QueryCacheBuilder::follow) the database, its results follow what
    /// anybody writes to the table.
    #[must_use = "setters return the query they changed"]
    pub fn table(self, name: &str) -> Query {
        let query = relation::tags_of_query(name).into_iter().fold(self, Query::tag);
        query.set(|query| query.reads_tables = true)
    }
}
