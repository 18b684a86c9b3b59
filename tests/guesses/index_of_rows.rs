// says: rows are not indexed
// says: write `rows.row(0)`, which panics like an index, or `rows.get(0)`
async fn guess(query: larder::Query, pool: deadpool_postgres::Pool) {
    let rows = query.fetch(&pool).await.unwrap();
    let total: i64 = rows[0].get("total");
    println!("{total}");
}
