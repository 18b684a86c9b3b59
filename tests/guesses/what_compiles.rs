// compiles
use std::io::Error;
use std::sync::Arc;

use guesses::Json;
use larder::{Query, QueryCache, Rows};

async fn lists(query: Query, pool: deadpool_postgres::Pool, ids: Vec<i64>) -> Result<(), larder::Error> {
    query.bind(&ids).fetch(&pool).await?;
    query.bind(&ids[..]).bind(Some("eu")).bind([1_i32, 2]).bind(&String::new()).fetch(&pool).await?;
    Ok(())
}

async fn handler(query: Query, pool: deadpool_postgres::Pool) -> Json<Rows> {
    Json(query.fetch(&pool).await.unwrap())
}

async fn by_value(query: Query, pool: deadpool_postgres::Pool) -> i64 {
    let mut sum = 0;
    for row in query.fetch(&pool).await.unwrap() {
        sum += row.get::<_, i64>("total");
    }
    sum
}

async fn chained(query: Query, pool: deadpool_postgres::Pool) -> Result<i64, larder::Error> {
    Ok(query.fetch(&pool).await?.row(0).get("total"))
}

async fn temporary(cache: QueryCache, pool: deadpool_postgres::Pool) -> Result<Rows, larder::Error> {
    cache.query("SELECT count(*) FROM orders WHERE region = $1").bind("eu").fetch(&pool).await
}

async fn an_async_closure(query: Query, pool: deadpool_postgres::Pool) -> Result<i64, larder::Error> {
    query.load(async || Ok::<_, Error>(7_i64)).await?;
    let count = query.load(async move || {
        let client = pool.get().await?;
        let row = client.query_one("SELECT 7", &[]).await?;
        Ok::<i64, Box<dyn std::error::Error + Send + Sync>>(row.get(0))
    });
    count.await.map(|count| *count)
}

async fn an_error_that_is_text(query: Query) -> Result<String, larder::Error> {
    let text = query.load(|| async { Err::<String, _>("no") }).await?;
    Ok((*text).clone())
}

async fn tags(cache: QueryCache, owned: String, many: Vec<String>, known: &[&str]) -> Query {
    cache.invalidate(["orders"]).await;
    cache.invalidate([&owned]).await;
    cache.invalidate(&many).await;
    cache.invalidate(many.iter().map(|name| format!("{name}:7"))).await;
    cache.invalidate(known).await;
    cache.query("SELECT 1").tag(&owned).tag(owned.clone()).tag("orders").tag(Arc::<str>::from("x"))
}

async fn tenants(query: Query, pool: deadpool_postgres::Pool, tenant: i64) -> Result<Rows, larder::Error> {
    let query = query.with_setting("app.year", 2026).with_setting("app.strict", true);
    query.bind("eu").with_setting("app.tenant", tenant).fetch(&pool).await
}

async fn a_client(query: Query, client: tokio_postgres::Client) -> Result<Rows, larder::Error> {
    query.fetch(&Arc::new(client)).await
}

async fn a_task(query: Query, pool: deadpool_postgres::Pool) -> Rows {
    let task = tokio::spawn(async move { query.bind("eu").fetch(&pool).await });
    task.await.unwrap().unwrap()
}

async fn a_write(cache: QueryCache, pool: deadpool_postgres::Pool, id: i64) -> Result<u64, larder::Error> {
    let written = cache.write(&pool, async |tx| {
        Ok::<u64, larder::Error>(tx.execute("DELETE FROM orders WHERE id = $1", &[&id]).await?)
    });
    written.await.map(|written| written.into_value())
}
