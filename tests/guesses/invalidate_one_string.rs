// says: `String` is not a list of tags
// says: a single tag is a list of one: `["orders"]`
async fn guess(cache: larder::QueryCache, tenant: i64) {
    cache.invalidate(format!("orders:{tenant}")).await;
}
