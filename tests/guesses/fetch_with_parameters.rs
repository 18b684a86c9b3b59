// says: this method takes 1 argument but 2 arguments were supplied
async fn guess(query: larder::Query, pool: deadpool_postgres::Pool) {
    query.fetch(&pool, &[&"eu"]).await.unwrap();
}
