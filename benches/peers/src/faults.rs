//! What may go wrong: an invalidation at the wrong time, and a Redis that is gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::peer::Peer;
use test_servers::Redis;
use crate::work::{Database, Failed, SMALL};

/// Reads after a fault, one after the other, each of a result that is nowhere yet.
pub const READS: usize = 3;

/// What takes longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy)]
pub enum Fault {
    Killed,
    /// It accepts connections and answers nobody.
    Frozen,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Answered,
    Error,
    Hung,
}

/// What became of a read.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub outcome: Outcome,
    pub after: Duration,
}

/// Invalidates a result while it is being loaded, after the query has seen the rows, and asks again.
pub async fn keeps_overtaken<P: Peer>(redis: &str, database: &Database) -> Result<bool, Failed> {
    let peer = Arc::new(P::open(redis, database).await);
    let id = 7;
    peer.read(0, SMALL).await?;
    database.set_pause(Duration::from_millis(200)).await;
    let before = database.asked().await;
    let reader = peer.clone();
    let load = tokio::spawn(async move { reader.read(id, SMALL).await });
    while database.asked().await == before {
        tokio::task::yield_now().await;
    }
    database.change().await;
    peer.invalidate(id, SMALL).await?;
    // Who asked before the invalidation may have the old value.
    load.await.map_err(Failed::of)??;
    database.set_pause(Duration::ZERO).await;
    let answer = peer.read(id, SMALL).await?;
    Ok(P::seen(&answer) != (10, database.version().await))
}

/// Reads from a cache that was well before its Redis was not.
pub fn under<P: Peer>(
    runtime: &Runtime,
    database: &Database,
    fault: Fault,
) -> Result<[Asked; READS], Failed> {
    let mut redis = Redis::start_tcp().unwrap();
    let peer = Arc::new(runtime.block_on(P::open(&redis.url(), database)));
    let well = runtime.block_on(peer.read(0, SMALL))?;
    assert_eq!(P::seen(&well).0, 10);
    match fault {
        Fault::Killed => redis.kill().unwrap(),
        Fault::Frozen => redis.pause().unwrap(),
    }
    Ok(std::array::from_fn(|read| {
        let peer = peer.clone();
        runtime.block_on(async move {
            let begin = Instant::now();
            // A task of its own: should it block its thread, the timer still runs.
            let read = tokio::spawn(async move { peer.read(1 + read as i64, SMALL).await });
            let outcome = match timeout(PATIENCE, read).await {
                Err(_) => Outcome::Hung,
                Ok(Ok(Ok(_))) => Outcome::Answered,
                Ok(_) => Outcome::Error,
            };
            Asked { outcome, after: begin.elapsed() }
        })
    }))
}
