// says: `Tag: From<i64>` is not satisfied
// says: From<String>
async fn guess(cache: larder::QueryCache, order: i64) {
    let query = cache.query("SELECT * FROM orders WHERE id = $1").tag(order);
    drop(query);
}
