// says: expected `Duration`, found integer
fn guess(cache: larder::QueryCache) -> larder::Query {
    cache.query("SELECT count(*) FROM orders").ttl(60)
}
