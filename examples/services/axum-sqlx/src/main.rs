//! Reports of a shop with axum and sqlx: a tenant's revenue and customers under row-level security,
//! a ranking from a materialized view, and orders that make stale what reads them.
//! `examples/services/README.md` says how to run it.

mod failure;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{StatusCode, request::Parts};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use larder::refresh::{MaterializedView, Refresher};
use larder::{Answer, PrometheusRecorder, Query, QueryCache, RedisTls, Rows};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::signal::unix::{SignalKind, signal};

use self::failure::{FAILED, Failure, NO_TOKEN};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What the handlers share. Each query is made once.
struct Shop {
    pool: PgPool,
    cache: QueryCache,
    revenue: Query,
    customers: Query,
    ranking: Query,
    tenant_of_token: HashMap<String, i64>,
}

impl Shop {
    fn new(pool: PgPool, cache: QueryCache, view: &MaterializedView) -> Result<Shop, Failed> {
        // The policies hold for this role. The tenant is set for each call.
        let query = |name: &str, sql: &str| cache.query(sql).as_role("shop_app").name(name);
        let revenue = "SELECT day, count(*) AS orders, sum(cents)::int8 AS cents
                       FROM orders WHERE region = $1 GROUP BY day ORDER BY day";
        let customers = "SELECT id, name FROM customers ORDER BY name, id";
        let ranking = "SELECT region, orders FROM ranking ORDER BY orders DESC, region";
        Ok(Shop {
            revenue: query("revenue", revenue).tag("orders"),
            customers: query("customers", customers).tag("customers"),
            ranking: query("ranking", ranking).reads(view),
            tenant_of_token: serde_json::from_str(&variable("TENANTS", "{}"))?,
            pool,
            cache,
        })
    }
}

/// The tenant whose token a request shows. No handler takes it from elsewhere.
struct Tenant(String);

impl FromRequestParts<Arc<Shop>> for Tenant {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, shop: &Arc<Shop>) -> Result<Tenant, Failure> {
        let given = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = given.and_then(|value| value.strip_prefix("Bearer "));
        let tenant = token.and_then(|token| shop.tenant_of_token.get(token));
        Ok(Tenant(tenant.ok_or(NO_TOKEN)?.to_string()))
    }
}

async fn revenue(
    State(shop): State<Arc<Shop>>,
    Tenant(tenant): Tenant,
    Path(region): Path<String>,
) -> Result<impl IntoResponse, Failure> {
    let bound = shop.revenue.bind(region).tag(orders_of(&tenant));
    let report = bound.with_setting("app.tenant", tenant);
    Ok(reply(report.fetch(&shop.pool).answer().await?))
}

async fn customers(
    State(shop): State<Arc<Shop>>,
    Tenant(tenant): Tenant,
) -> Result<impl IntoResponse, Failure> {
    let report = shop.customers.params(()).with_setting("app.tenant", tenant);
    Ok(reply(report.fetch(&shop.pool).answer().await?))
}

/// The rows as JSON, and where they came from.
fn reply(answer: Answer<Rows>) -> impl IntoResponse {
    ([("x-cache", format!("{:?}", answer.origin()))], Json(answer.into_value()))
}

/// The same for everybody, and asked for often: the bytes are made once.
async fn ranking(State(shop): State<Arc<Shop>>) -> Result<impl IntoResponse, Failure> {
    let json = shop.ranking.fetch_json(&shop.pool).await?;
    Ok(([(CONTENT_TYPE, "application/json")], json))
}

#[derive(Deserialize)]
struct NewOrder {
    region: String,
    cents: i64,
}

/// The tag of one tenant: its orders leave the reports of the others.
fn orders_of(tenant: &str) -> String {
    format!("orders:{tenant}")
}

async fn place_order(
    State(shop): State<Arc<Shop>>,
    Tenant(tenant): Tenant,
    Json(order): Json<NewOrder>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    // A client that hangs up ends its handler. This task goes on, from the commit to the invalidation.
    let placed = tokio::spawn(async move {
        let mut tx = shop.pool.begin().await?;
        let set = "SELECT set_config('role', 'shop_app', true), set_config('app.tenant', $1, true)";
        sqlx::query(set).bind(&tenant).execute(&mut *tx).await?;
        let sql = "INSERT INTO orders (tenant, region, cents)
                   VALUES (current_setting('app.tenant')::int8, $1, $2) RETURNING id";
        let order = sqlx::query_scalar(sql).bind(order.region).bind(order.cents);
        let id: i64 = order.fetch_one(&mut *tx).await?;
        let committed = tx.commit().await;
        // After an error as well: the connection may have been lost when PostgreSQL had committed.
        if let Some(error) = shop.cache.invalidate([orders_of(&tenant)]).await.error() {
            tracing::warn!(%error, "other processes will hear later of an order");
        }
        committed?;
        Ok::<_, Failure>(Json(json!({ "id": id })))
    });
    Ok((StatusCode::CREATED, placed.await.map_err(|_| FAILED)??))
}

/// Without Redis the service is slower and not ill, so PostgreSQL alone is asked.
async fn health(State(shop): State<Arc<Shop>>) -> Result<(), Failure> {
    Ok(sqlx::query("SELECT 1").execute(&shop.pool).await.map(drop)?)
}

fn routes(shop: Arc<Shop>, metrics: PrometheusRecorder) -> Router {
    let text = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    Router::new()
        .route("/reports/revenue/{region}", get(revenue))
        .route("/reports/customers", get(customers))
        .route("/reports/ranking", get(ranking))
        .route("/orders", post(place_order))
        .route("/health", get(health))
        .with_state(shop)
        .route("/metrics", get(move || async move { (text, metrics.render()) }))
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

async fn cache() -> Result<QueryCache, Failed> {
    let mut cache = QueryCache::builder()
        .namespace("shop-sqlx") // not that of a service with other tags
        .redis(variable("REDIS_URL", "rediss://localhost:6379"))
        .redis_optional() // it may be away at any time, at the start as well
        .ttl(Duration::from_secs(600))
        .load_deadline(Duration::from_secs(30));
    if let Ok(path) = std::env::var("REDIS_CA") {
        let ca = std::fs::read(&path).map_err(|error| format!("read {path}: {error}"))?;
        cache = cache.redis_tls(RedisTls::new().ca(ca));
    }
    Ok(cache.build().await?)
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let metrics = PrometheusRecorder::install()?;
    let database = variable("DATABASE_URL", "postgres://localhost/shop");
    let pool = PgPoolOptions::new().max_connections(16).acquire_timeout(Duration::from_secs(5));
    let (pool, cache) = (pool.connect_lazy(&database)?, cache().await?);

    let every = Duration::from_secs(variable("REFRESH_SECONDS", "60").parse()?);
    let view = MaterializedView::new("ranking").every(every);
    // Connections of its own: one refreshes, one looks for refreshes by others.
    let manager = deadpool_postgres::Manager::new(database.parse()?, tokio_postgres::NoTls);
    let two = deadpool_postgres::Pool::builder(manager).max_size(2).build()?;
    let refresher = Refresher::builder(two).cache(&cache).view(view.clone()).start().await?;

    let shop = Arc::new(Shop::new(pool, cache.clone(), &view)?);
    let mut told_to_end = signal(SignalKind::terminate())?;
    let listener = tokio::net::TcpListener::bind(variable("ADDRESS", "127.0.0.1:8080")).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, routes(shop, metrics))
        .with_graceful_shutdown(async move { told_to_end.recv().await.unwrap_or_default() })
        .await?;
    // All requests have been answered. What is pending is announced.
    refresher.shutdown().await;
    cache.shutdown().await;
    Ok(())
}
