// says: `usize` cannot be bound to a query
// says: PostgreSQL has no unsigned integers: convert a `usize` or `u64` to `i64`
async fn guess(query: larder::Query, pool: deadpool_postgres::Pool) {
    let page: usize = 7;
    query.bind(page).fetch(&pool).await.unwrap();
}
