// says: several parameters are `.bind(a).bind(b)` or `.params((a, b))`
async fn guess(query: larder::Query, pool: deadpool_postgres::Pool) {
    query.bind((7_i64, "eu")).fetch(&pool).await.unwrap();
}
