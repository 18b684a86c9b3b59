// says: is not a tuple of parameters
// says: several are `.params((7, "eu"))`
async fn guess(query: larder::Query, pool: deadpool_postgres::Pool) {
    query.params(&["eu", "us"]).fetch(&pool).await.unwrap();
}
