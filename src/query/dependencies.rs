//! [`QueryDependencies`]: what the results of a query depend on.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::timeout;

use super::{Bound, Query};
use crate::error::Error;
use crate::learn::keys::Keyed;
use crate::learn::learned::Conclusion;
use crate::learn::{QueryClass, REFUSED, Verdict};
use crate::postgres::Source;
use crate::value::param::{OwnedParams, SqlParams};
use crate::value::relation::RelationName;
use crate::value::setup::Setup;

/// What the results of a query depend on, from [`Query::dependencies`](crate::Query::dependencies) and
/// [`Bound::dependencies`](crate::Bound::dependencies).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueryDependencies {
    /// How its results are kept current.
    pub class: QueryClass,
    /// The relations that it reads, such as `public.orders` or `"Sales"."Orders"`, in order: views and
    /// what is below them, materialized views, tables. For partitions their parent.
    pub relations: Vec<String>,
    /// The relations of which it reads only some rows, such as `public.orders[user_id = $1]`, in order. A
    /// change of others leaves its results as they are, if the cache
    /// [follows](crate::QueryCacheBuilder::follow) the database. The column is part of the table's replica
    /// identity.
    pub keys: Vec<String>,
    /// What else decides its rows: names of settings, and `role` for the user who asks. Their values are
    /// part of the key.
    pub needs: Vec<String>,
    /// Why its results are not followed, a sentence each. Empty if they are.
    pub unfollowed: Vec<String>,
    /// The types of its parameters, as PostgreSQL has inferred them.
    pub parameters: Vec<String>,
}

impl QueryDependencies {
    pub(super) fn of(verdict: &Verdict) -> QueryDependencies {
        let mut relations: Vec<String> =
            verdict.relations.values().map(RelationName::canonical).collect();
        relations.sort();
        let shown = |(name, keys): (&RelationName, &BTreeSet<Keyed>)| {
            let name = name.canonical();
            keys.iter().map(|keyed| keyed.shown(&name)).collect::<Vec<_>>()
        };
        let mut keys: Vec<String> = verdict.keys.iter().flat_map(shown).collect();
        keys.sort();
        let reason = |reason: &String| match &verdict.refusal {
            Some(refusal) if reason == REFUSED => format!("{reason}: {refusal}"),
            _ => reason.clone(),
        };
        QueryDependencies {
            class: verdict.class(),
            relations,
            keys,
            needs: verdict.needs.iter().cloned().collect(),
            unfollowed: verdict.reasons.iter().map(reason).collect(),
            parameters: verdict.parameters.clone(),
        }
    }

    pub(super) fn unfollow(&mut self, why: String) {
        self.class = QueryClass::Unfollowed;
        self.unfollowed.push(why);
    }
}

impl Query {
    /// Reports what the results depend on, as far as it is known before the query is run.
    ///
    /// PostgreSQL parses the query, under its [role](Query::as_role) and
    /// [settings](Query::with_setting), in a transaction that is rolled back. It is not run. What the
    /// functions of a [dynamic](QueryClass::Dynamic) query read is not among the relations: that is
    /// found by each load, and by [`Bound::dependencies`]. The query need not be one that
    /// [learns](Query::auto).
    ///
    /// ```no_run
    /// # async fn run(cache: larder::QueryCache, pool: deadpool_postgres::Pool) -> Result<(), larder::Error> {
    /// let query = cache.query("SELECT * FROM recent_orders WHERE at > now() - interval '1 day'");
    /// for reason in &query.dependencies(&pool).await?.unfollowed {
    ///     println!("{reason}");       // it calls now()
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Connect`](crate::ErrorKind::Connect), [`Query`](crate::ErrorKind::Query) if the
    /// connection is lost, and [`Setting`](crate::ErrorKind::Setting) for a source over which nothing can
    /// be learned. A query that PostgreSQL refuses is no error: the refusal is in
    /// [`unfollowed`](QueryDependencies::unfollowed).
    pub async fn dependencies<S: Source>(&self, source: &S) -> Result<QueryDependencies, Error> {
        let taught = self.learn(self.prepared()?, source, self.setup.as_ref()).await;
        let seen = taught.map_err(|error| self.named(error))?;
        Ok(QueryDependencies::of(&seen.learned.verdict))
    }

    pub(super) async fn dependencies_of<S: Source>(
        &self,
        source: &S,
        params: OwnedParams,
        setup: Option<Arc<Setup<'static>>>,
    ) -> Result<QueryDependencies, Error> {
        let found = async {
            let seen = self.learn(self.prepared()?, source, setup.as_ref()).await?;
            let mut found = QueryDependencies::of(&seen.learned.verdict);
            if found.class != QueryClass::Dynamic {
                return Ok(found);
            }
            let load = self.learning_load(seen);
            let call = self.call_of_load(params, setup);
            let deadline = self.prepared()?.config.policy.load_deadline;
            let load = timeout(deadline, load.conclude(source.clone(), call)).await;
            match load.map_err(|_| Error::deadline(deadline))??.1 {
                Conclusion::Depends(read) => found.relations = read.relations().collect(),
                Conclusion::Unfollowed(why) => found.unfollow(why),
                Conclusion::Redefined | Conclusion::Unjudged(_) => {
                    found.unfollow("it was defined anew meanwhile".to_owned());
                }
            }
            Ok(found)
        };
        self.inner().with_timers(found).await.map_err(|error| self.named(error))
    }
}

impl<P: SqlParams> Bound<'_, P> {
    /// Reports what the result of this call depends on.
    ///
    /// A [dynamic](QueryClass::Dynamic) query is run once with these parameters, and its rows are
    /// dropped. Another one is not run; see [`Query::dependencies`].
    ///
    /// # Errors
    ///
    /// Those of [`Query::dependencies`], and of [`fetch`](Bound::fetch) if the query is run.
    pub async fn dependencies<S: Source>(self, source: &S) -> Result<QueryDependencies, Error> {
        let Bound { query, params, .. } = self;
        query.dependencies_of(source, params.into_owned(), query.setup.clone()).await
    }
}
