// says: is not what a cached query can be fetched from
// says: give the pool itself, `&pool`, and not a connection of it
async fn guess(query: larder::Query, pool: deadpool_postgres::Pool) {
    let client = pool.get().await.unwrap();
    query.fetch(&client).await.unwrap();
}
