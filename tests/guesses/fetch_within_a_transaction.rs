// says: `deadpool_postgres::Transaction<'_>` is not what a cached query can be fetched from
// says: a transaction sees what others do not
// says: run its queries on itself
async fn guess(query: larder::Query, pool: deadpool_postgres::Pool) {
    let mut client = pool.get().await.unwrap();
    let tx = client.transaction().await.unwrap();
    query.fetch(&tx).await.unwrap();
}
