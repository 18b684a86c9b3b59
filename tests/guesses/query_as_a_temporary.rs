// says: temporary value dropped while borrowed
// says: consider using a `let` binding to create a longer lived value
async fn guess(cache: larder::QueryCache, pool: deadpool_postgres::Pool) {
    let bound = cache.query("SELECT count(*) FROM orders WHERE region = $1").bind("eu");
    bound.fetch(&pool).await.unwrap();
}
