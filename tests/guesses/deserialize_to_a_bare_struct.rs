// says: consider adding `#[derive(serde::Deserialize)]` to your `Totals` type
struct Totals {
    orders: i64,
}

async fn guess(query: larder::Query, pool: deadpool_postgres::Pool) -> i64 {
    query.fetch_one::<Totals>(&pool).await.unwrap().orders
}
