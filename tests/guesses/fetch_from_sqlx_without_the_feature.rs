// says: is not what a cached query can be fetched from
// says: a `sqlx::PgPool` needs the feature `sqlx`
use guesses::sqlx;

async fn guess(query: larder::Query, pool: sqlx::PgPool) {
    query.fetch(&pool).await.unwrap();
}
