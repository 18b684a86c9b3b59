// says: is not what a transaction can be run on by the cache
// says: statements that others send on a shared client would become part of the transaction
use std::sync::Arc;

async fn guess(cache: larder::QueryCache, client: Arc<tokio_postgres::Client>) {
    cache.write(&client, async |_| Ok::<_, larder::Error>(())).await.unwrap();
}
