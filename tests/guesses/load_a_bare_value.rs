// says: to be a future that resolves to `Result<_, _>`
async fn guess(query: larder::Query) {
    query.load(|| async { 7_i64 }).await.unwrap();
}
