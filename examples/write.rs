//! A transaction that nobody tells what it writes: a trigger keeps a total, and readers of the total
//! follow.

use larder::{Error, QueryCache};

mod support;

const SCHEMA: &str = "
    CREATE TABLE larder_example_sales (region text, amount int8);
    CREATE TABLE larder_example_totals (region text PRIMARY KEY, total int8);
    CREATE TABLE larder_example_staff (name text);
    CREATE FUNCTION larder_example_add() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO larder_example_totals VALUES (NEW.region, NEW.amount)
        ON CONFLICT (region) DO UPDATE SET total = larder_example_totals.total + NEW.amount;
      RETURN NEW;
    END $$;
    CREATE TRIGGER add AFTER INSERT ON larder_example_sales
      FOR EACH ROW EXECUTE FUNCTION larder_example_add();";

const GONE: &str = "
    DROP TABLE IF EXISTS larder_example_sales, larder_example_totals, larder_example_staff;
    DROP FUNCTION IF EXISTS larder_example_add();";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let servers = support::servers().await?;
    let pool = servers.pool;
    pool.get().await?.batch_execute(&format!("{GONE}{SCHEMA}")).await?;
    let build = || QueryCache::builder().namespace("write").redis(&servers.redis_url).build();
    let (writer, reader) = (build().await?, build().await?);

    let total = reader
        .query("SELECT coalesce(sum(total), 0)::int8 FROM larder_example_totals")
        .table("larder_example_totals");
    let staff =
        reader.query("SELECT count(*) FROM larder_example_staff").table("larder_example_staff");

    for amount in [100_i64, 20, 3] {
        let written = writer
            .write(&pool, async |tx| {
                let sql = "INSERT INTO larder_example_sales VALUES ('eu', $1)";
                Ok::<u64, Error>(tx.execute(sql, &[&amount]).await?)
            })
            .await?;
        println!(
            "a sale of {amount} wrote to {}",
            written.relations().unwrap_or(&[]).join(" and ")
        );
        for (name, query) in [("total", &total), ("staff", &staff), ("total", &total)] {
            let answer = query.fetch(&pool).answer().await?;
            let value: i64 = answer.value().row(0).get(0);
            println!("  {name} {value:3}   from {:?}", answer.origin());
        }
    }
    pool.get().await?.batch_execute(GONE).await?;
    writer.shutdown().await;
    reader.shutdown().await;
    Ok(())
}
