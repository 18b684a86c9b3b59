//! The role and the settings that a query is loaded under: [`Query::as_role`] and its relatives.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::auto::CallOn;
use super::dependencies::QueryDependencies;
use super::{Bound, Query};
use crate::cache::config::QueryConfig;
use crate::cache::inner::LoadFn;
use crate::cache::read::{Loader, Read};
use crate::error::Error;
use crate::postgres::Source;
use crate::rows::{Image, Rows};
use crate::value::key::{CacheKey, KeyEncoder, Shape};
use crate::value::param::{Bind, Param, Params, SqlParams};
use crate::value::setup::{Over, SettingValue, Setup};
use crate::value::tag::Tag;

impl Query {
    /// Runs the query as this role, as `SET LOCAL ROLE` does, and makes the role part of the key.
    ///
    /// The role is set in the load's own transaction, together with the
    /// [settings](Query::with_setting), and ends with it. The user that the connection belongs to
    /// must be a member of the role. The name is taken letter for letter, without quotes.
    ///
    /// For a role that differs from call to call, use [`Bound::as_role`], which does not hash the SQL
    /// again.
    ///
    /// # Default
    ///
    /// The role that the connection had when it was opened. If a role or a setting is given, this
    /// holds also for a connection on which somebody left a `SET ROLE` or a
    /// `SET SESSION AUTHORIZATION`. If neither is given, such a connection is used as it is.
    ///
    /// # Errors
    ///
    /// A read ends with [`ErrorKind::Setting`](crate::ErrorKind::Setting), before anything is sent,
    /// if the name is empty, `none` or has a NUL byte. It ends with
    /// [`ErrorKind::Query`](crate::ErrorKind::Query), which names the role, if the role does not
    /// exist or may not be set.
    #[must_use = "setters return the query they changed"]
    pub fn as_role(self, role: impl Into<String>) -> Query {
        self.set_up(|setup| setup.set_role(Cow::Owned(role.into())))
    }

    /// Sets a setting of PostgreSQL for the query, such as `search_path`, `TimeZone` or `app.tenant`,
    /// and makes it part of the key.
    ///
    /// It is set as `SET LOCAL` does, in the load's own transaction, and ends with it. The value is
    /// data: it is sent as a parameter, and it is in no error, log or span of Larder.
    ///
    /// Give *each* setting that the rows depend on. One that is not given has whatever value the
    /// connection has. May be called several times; the last value for a name is used. Names differ
    /// neither by case nor by order. `search_path` is a list, as in `SET`: `"tenant_7, public"`.
    ///
    /// ```no_run
    /// # async fn run(cache: larder::QueryCache, pool: deadpool_postgres::Pool) -> Result<(), larder::Error> {
    /// let by_day = cache
    ///     .query("SELECT date_trunc('day', at), count(*) FROM orders GROUP BY 1")
    ///     .with_setting("TimeZone", "Europe/Berlin");
    /// let rows = by_day.fetch(&pool).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cost
    ///
    /// A hit does not change. A load takes two round trips: the begin of the transaction, the
    /// settings and the preparation of the query are sent at once, then the query and the commit.
    /// The statement is not kept, because it may depend on the settings that it was prepared under.
    ///
    /// # Where it works
    ///
    /// With [`fetch`](Query::fetch), from each [`Source`] but an `Arc` of a client, whose other
    /// statements would run inside the transaction. That is an error, and so are the query functions
    /// [`load`](Query::load), [`load_rows`](Query::load_rows) and [`wrap`](Query::wrap): they run the
    /// query themselves, so they have to set what it needs, with a [`scope`](Query::scope) that names
    /// it.
    ///
    /// # Default
    ///
    /// None: the query runs under whatever the connection has.
    ///
    /// # Errors
    ///
    /// A read ends with [`ErrorKind::Setting`](crate::ErrorKind::Setting), before anything is sent,
    ///
    /// - if the name is empty, or the name or the value has a NUL byte;
    /// - for `role` and `session_authorization`: use [`as_role`](Query::as_role);
    /// - for `transaction_isolation`, `transaction_read_only`, `transaction_deferrable` and their
    ///   defaults, which concern a transaction that has begun by then;
    /// - for `client_encoding`, which must be UTF8.
    ///
    /// It ends with [`ErrorKind::Query`](crate::ErrorKind::Query), which names the setting, if
    /// PostgreSQL refuses it.
    #[must_use = "setters return the query they changed"]
    pub fn with_setting<'v>(self, name: impl Into<String>, value: impl SettingValue<'v>) -> Query {
        let value = Cow::Owned(value.into_text().into_owned());
        self.set_up(|setup| setup.set(Cow::Owned(name.into()), value))
    }

    fn set_up(self, change: impl FnOnce(&mut Setup<'static>)) -> Query {
        self.set(|query| change(Arc::make_mut(query.setup.get_or_insert_default())))
    }

    /// What `setup` sets, over what the query sets.
    pub(super) fn over<'s>(&'s self, setup: &'s Setup<'s>) -> Over<'s> {
        Over { setup, base: self.setup.as_deref() }
    }

    /// The key of a call under `setup`.
    pub(super) fn call_with<P: Params>(
        &self,
        shape: Shape,
        params: &P,
        setup: &Setup<'_>,
    ) -> Result<(CacheKey, &Arc<QueryConfig>), Error> {
        let prepared = self.prepared()?;
        let over = self.over(setup);
        over.check().map_err(|wrong| self.named(Error::setting(wrong)))?;
        let mut encoder = KeyEncoder::new(over.digest(prepared.query), shape);
        params.encode(&mut encoder);
        Ok((encoder.finish(), &prepared.config))
    }
}

impl<'q, P> Bound<'q, P> {
    /// Runs the query as this role, for this call; see [`Query::as_role`].
    ///
    /// It replaces the role of the query. The query's SQL is not hashed again, and a hit allocates
    /// nothing, so this is the way for a role, or a tenant, that differs from call to call:
    ///
    /// ```no_run
    /// # async fn run(cache: larder::QueryCache, pool: deadpool_postgres::Pool, tenant: &str) -> Result<(), larder::Error> {
    /// // Made once. Row-level security reads `app.tenant`.
    /// let invoices = cache.query("SELECT id, cents FROM invoices WHERE year = $1");
    ///
    /// let rows = invoices.bind(2026_i32).as_role("app").with_setting("app.tenant", tenant).fetch(&pool);
    /// println!("{} invoices", rows.await?.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Only [`fetch`](BoundWith::fetch) can set a role, so what this returns has no `load`:
    ///
    /// ```compile_fail,E0599
    /// # async fn run(cache: larder::QueryCache) -> Result<(), larder::Error> {
    /// let query = cache.query("SELECT $1::int4");
    /// query.bind(7).as_role("app").load(|| async { Ok::<i64, std::io::Error>(1) }).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn as_role(self, role: impl Into<Cow<'q, str>>) -> BoundWith<'q, P> {
        BoundWith::of(self).as_role(role)
    }

    /// Sets a setting of PostgreSQL for this call; see [`Query::with_setting`].
    ///
    /// It replaces the query's setting of the same name.
    pub fn with_setting(
        self,
        name: impl Into<Cow<'q, str>>,
        value: impl SettingValue<'q>,
    ) -> BoundWith<'q, P> {
        BoundWith::of(self).with_setting(name, value)
    }

    /// Learns what the result of this call depends on; see [`Query::auto`].
    pub fn auto(self) -> BoundWith<'q, P> {
        BoundWith { learns: true, ..BoundWith::of(self) }
    }
}

/// A [`Bound`] query with a role or settings of the call.
#[derive(Clone)]
#[must_use = "a bound query does nothing until it is fetched"]
pub struct BoundWith<'q, P> {
    pub(super) bound: Bound<'q, P>,
    pub(super) setup: Setup<'q>,
    pub(super) learns: bool,
}

impl<'q, P> BoundWith<'q, P> {
    fn of(bound: Bound<'q, P>) -> BoundWith<'q, P> {
        let learns = bound.query.learns;
        BoundWith { bound, setup: Setup::default(), learns }
    }

    /// Learns what the result of this call depends on; see [`Query::auto`].
    pub fn auto(self) -> BoundWith<'q, P> {
        BoundWith { learns: true, ..self }
    }

    /// What is set for the load: by the call, and by the query.
    fn into_setup(self) -> (Bound<'q, P>, Option<Arc<Setup<'static>>>) {
        let BoundWith { bound, setup, .. } = self;
        let setup = if setup.is_empty() {
            bound.query.setup.clone()
        } else {
            Some(Arc::new(bound.query.over(&setup).into_owned()))
        };
        (bound, setup)
    }

    /// Runs the query as this role; see [`Query::as_role`]. The last role is used.
    pub fn as_role(mut self, role: impl Into<Cow<'q, str>>) -> BoundWith<'q, P> {
        self.setup.set_role(role.into());
        self
    }

    /// Sets a setting of PostgreSQL; see [`Query::with_setting`].
    pub fn with_setting(
        mut self,
        name: impl Into<Cow<'q, str>>,
        value: impl SettingValue<'q>,
    ) -> BoundWith<'q, P> {
        self.setup.set(name.into(), value.into_text());
        self
    }
}

impl<P> BoundWith<'_, P> {
    /// Adds a tag for this call; see [`Bound::tag`].
    pub fn tag(mut self, tag: impl Into<Tag>) -> Self {
        self.bound = self.bound.tag(tag);
        self
    }
}

impl<'q, P: Params> BoundWith<'q, P> {
    /// Binds the next parameter.
    pub fn bind<V: Param>(self, value: V) -> BoundWith<'q, Bind<P, V>> {
        BoundWith { bound: self.bound.bind(value), setup: self.setup, learns: self.learns }
    }

    /// Returns the rows of the query under its role and settings: from memory, from Redis, or from
    /// PostgreSQL through `source`.
    ///
    /// # Errors
    ///
    /// Those of [`Bound::fetch`], of [`Query::as_role`] and of [`Query::with_setting`].
    pub fn fetch<S: Source>(mut self, source: &S) -> Read<'q, Rows, impl Loader<Rows>>
    where
        P: SqlParams,
    {
        let query = self.bound.query;
        match query.call_on(source, &self.bound.params, Some(&self.setup), self.learns) {
            CallOn::Key(call, seen) => {
                let tags = std::mem::take(&mut self.bound.tags);
                Read::new(query.inner(), call, tags, move || -> LoadFn<Image> {
                    let (Bound { params, .. }, setup) = self.into_setup();
                    query.load_of(source.clone(), params.into_owned(), setup, seen.into())
                })
            }
            CallOn::Unknown => {
                let (Bound { params, tags, .. }, setup) = self.into_setup();
                let read = query.learn_and_read(source, params, setup, tags);
                Read::of_unknown_key(query.inner(), read)
            }
        }
    }

    /// Reports what the result depends on; see [`Bound::dependencies`].
    ///
    /// # Errors
    ///
    /// Those of [`Bound::dependencies`].
    pub async fn dependencies<S: Source>(self, source: &S) -> Result<QueryDependencies, Error>
    where
        P: SqlParams,
    {
        let (Bound { query, params, .. }, setup) = self.into_setup();
        query.dependencies_of(source, params.into_owned(), setup).await
    }
}

impl<P> fmt::Debug for BoundWith<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither parameters nor values of settings.
        f.debug_struct("BoundWith").field("bound", &self.bound).field("setup", &self.setup).finish()
    }
}
