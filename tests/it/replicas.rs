//! Are results of a server in recovery, as a replica is, kept from the cache?

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use larder::{Origin, Query, QueryCache, Source, TransactionPooling};

use crate::servers::Postgres;
use crate::support::{namespace, over_redis, until_async};

async fn read(query: &Query, source: &impl Source) -> (i32, Origin) {
    let answer = query.fetch(source).answer().await.unwrap();
    (answer.value().row(0).get(0), answer.origin())
}

/// Restarts a server as a replica that has no primary: it stays in recovery.
pub fn into_recovery(server: &mut Postgres) {
    server.stop().unwrap();
    let data = server.directory().join("data");
    let data = if data.is_dir() { data } else { server.directory().to_owned() };
    let signal = data.join("standby.signal");
    fs::write(&signal, "").unwrap();
    // The server runs as another user, and removes it when it is promoted.
    fs::set_permissions(&signal, fs::Permissions::from_mode(0o666)).unwrap();
    server.restart().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_in_recovery_gives_is_answered_and_not_stored() {
    let mut server = Postgres::start().unwrap();
    let database = server.database().await.unwrap();
    let set_up = "CREATE TABLE price (cents int); INSERT INTO price VALUES (250)";
    database.connect().await.unwrap().batch_execute(set_up).await.unwrap();
    let namespace = namespace();
    let build = async || -> QueryCache { over_redis(&namespace).build().await.unwrap() };
    let (cache, other) = (build().await, build().await);
    let price = |cache: &QueryCache, way: &str| {
        cache.query("SELECT cents FROM price").scope(way).tag("price")
    };
    let ways = ["a pool", "a client", "transaction pooling"];

    into_recovery(&mut server);
    let pool = database.pool(1);
    let client = Arc::new(database.connect().await.unwrap());
    let pooling = TransactionPooling::new(database.pool(1));
    let ask = async |cache: &QueryCache, way: &str| match way {
        "a pool" => read(&price(cache, way), &pool).await,
        "a client" => read(&price(cache, way), &client).await,
        _ => read(&price(cache, way), &pooling).await,
    };
    for (number, way) in ways.into_iter().enumerate() {
        for _ in 0..2 {
            assert_eq!(ask(&cache, way).await, (250, Origin::Loaded), "{way}");
        }
        assert_eq!(ask(&other, way).await, (250, Origin::Loaded), "{way}: nothing in redis");
        assert_eq!(cache.stats().unstorable, 2 * (number as u64 + 1), "{way}: counted");
    }
    assert_eq!((cache.stats().entries, cache.stats().l2_writes), (0, 0));

    // The same connections lead to a primary now, and nothing but a load can notice it.
    client.batch_execute("SELECT pg_promote()").await.unwrap();
    for way in ways {
        until_async("results are stored", async || ask(&cache, way).await.1 == Origin::L1).await;
    }
    assert_eq!(cache.stats().entries, 3);
}
