// says: is not what a cached query can be fetched from
// says: give the pool itself, `&pool`
use std::sync::Arc;

async fn guess(query: larder::Query, pool: Arc<deadpool_postgres::Pool>) {
    query.fetch(&pool).await.unwrap();
}
