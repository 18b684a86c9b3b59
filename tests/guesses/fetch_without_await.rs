// says: consider `await`ing on the `Future`
async fn guess(query: larder::Query, pool: deadpool_postgres::Pool) -> Result<(), larder::Error> {
    let rows = query.fetch(&pool)?;
    println!("{}", rows.len());
    Ok(())
}
