// says: `Client` is not what a cached query can be fetched from
// says: put a client into an `Arc`: `Arc::new(client)`
async fn guess(query: larder::Query, client: tokio_postgres::Client) -> Result<(), larder::Error> {
    query.fetch(&client).await?;
    Ok(())
}
