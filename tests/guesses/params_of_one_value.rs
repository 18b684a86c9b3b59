// says: is not a tuple of parameters
// says: one parameter is `.bind(7)` or `.params((7,))`
async fn guess(query: larder::Query, pool: deadpool_postgres::Pool) {
    query.params(7_i64).fetch(&pool).await.unwrap();
}
