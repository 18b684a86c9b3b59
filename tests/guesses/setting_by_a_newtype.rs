// says: `Tenant` is not a value of a setting
// says: a setting of PostgreSQL is text: `value.to_string()`
struct Tenant(i64);

async fn guess(query: larder::Query, pool: deadpool_postgres::Pool, tenant: Tenant) {
    query.params(()).with_setting("app.tenant", tenant).fetch(&pool).await.unwrap();
}
