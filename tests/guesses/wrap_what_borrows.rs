// says: use the `move` keyword
fn guess(query: larder::Query, pool: deadpool_postgres::Pool) -> larder::Wrapped<(i64,), i64> {
    query.wrap(|sql, (id,): (i64,)| async {
        let client = pool.get().await?;
        let row = client.query_one(&*sql, &[&id]).await?;
        Ok::<i64, Box<dyn std::error::Error + Send + Sync>>(row.get(0))
    })
}
