// says: type annotations needed
// says: consider giving `total` an explicit type
async fn guess(query: larder::Query, pool: deadpool_postgres::Pool) {
    let rows = query.fetch(&pool).await.unwrap();
    for row in &rows {
        let total = row.get("total");
        println!("{total}");
    }
}
