// says: `&str` is not a list of tags
// says: a single tag is a list of one: `["orders"]`
async fn guess(cache: larder::QueryCache) {
    cache.invalidate("orders").await;
}
