// says: consider adding `#[derive(serde::Serialize)]` to your `Totals` type
struct Totals {
    orders: i64,
}

async fn guess(query: larder::Query) -> i64 {
    query.load(|| async { Ok::<_, std::io::Error>(Totals { orders: 7 }) }).await.unwrap().orders
}
