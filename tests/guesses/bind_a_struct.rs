// says: `Region` cannot be bound to a query
// says: bind the fields of a struct one by one
// says: for a newtype or an enum, implement `larder::params::Param` and `SqlParam`
struct Region(String);

async fn guess(query: larder::Query, pool: deadpool_postgres::Pool) {
    query.bind(Region("eu".to_owned())).fetch(&pool).await.unwrap();
}
