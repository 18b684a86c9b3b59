// says: consider borrowing here
async fn guess(query: larder::Query, pool: deadpool_postgres::Pool) {
    query.fetch(pool).await.unwrap();
}
