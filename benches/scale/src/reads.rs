//! Reads from Redis by a cache whose memory knows none of the results, beside `GET` by hand.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use clap::Args;
use futures_util::future::join_all;
use larder::{Origin, QueryCache};
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, cmd};

use crate::fleet::{self, PATIENCE};
use crate::measure::{median, micros, micros_each, own_processor, thousands};
use crate::table::Table;
use crate::target::Target;

#[derive(Args)]
pub(crate) struct Reads {
    /// How many tasks read at once
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    tasks: Vec<usize>,
    /// How many results; each is read once a turn
    #[arg(long, default_value_t = 20_000)]
    results: usize,
    /// The bytes of a result
    #[arg(long, default_value_t = 1_000)]
    bytes: usize,
    /// How many turns, of which the medians are printed
    #[arg(long, default_value_t = 5)]
    turns: usize,
}

/// What one turn took.
#[derive(Clone, Copy)]
struct Took {
    redis: f64,
    own: f64,
    a_second: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Get,
    Look,
    Larder,
}

impl Reads {
    pub(crate) async fn run(&self, target: &Target) -> anyhow::Result<Vec<Table>> {
        let namespace = target.namespace("reads");
        let names = self.write(target, &namespace).await?;
        let mut table = Table::new([
            "tasks",
            "way",
            "reads/s",
            "Redis, each",
            "own processor, each",
            "Redis over `GET`, of the turns' ratios",
        ]);
        for &tasks in &self.tasks {
            let ways = [Way::Get, Way::Look, Way::Larder];
            let mut taken: Vec<Vec<Took>> = ways.iter().map(|_| vec![]).collect();
            for turn in 0..self.turns {
                // In an order that shifts, since the speed of a machine drifts.
                for place in 0..ways.len() {
                    let which = (place + turn) % ways.len();
                    let took = self.turn(target, &namespace, &names, tasks, ways[which]).await?;
                    taken[which].push(took);
                }
            }
            for (way, all) in ways.iter().zip(&taken) {
                let of = |field: fn(&Took) -> f64| median(all.iter().map(field));
                let ratios = all.iter().zip(&taken[0]).map(|(it, get)| it.redis / get.redis);
                table.line([
                    tasks.to_string(),
                    match way {
                        Way::Get => "`GET` by hand",
                        Way::Look => "`GET`, `TIME`, `ZMSCORE` by hand, in one pipeline",
                        Way::Larder => "Larder, strict, cold memory",
                    }
                    .to_owned(),
                    thousands(of(|it| it.a_second) as u64),
                    micros(of(|it| it.redis)),
                    micros(of(|it| it.own)),
                    format!("{:.2}", median(ratios)),
                ]);
            }
        }
        Ok(vec![table])
    }

    /// Writes the results. Returns their keys.
    async fn write(&self, target: &Target, namespace: &str) -> anyhow::Result<Arc<Vec<String>>> {
        let writer = fleet::settings(target.url(), namespace);
        let writer = writer.redis_timeout(Duration::from_secs(5)).build().await?;
        let (all, bytes) = (self.results, self.bytes);
        let writing = parts(all, 16).map(|part| {
            let writer = writer.clone();
            tokio::spawn(async move {
                for number in part {
                    look(&writer, number, bytes).await;
                }
            })
        });
        join_all(writing).await;
        let begin = Instant::now();
        while writer.stats().l2_writes < all as u64 {
            ensure!(begin.elapsed() < PATIENCE, "the results were not written in {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        writer.shutdown().await;
        let names = target.keys(namespace, "{").await?;
        ensure!(names.len() == all, "{} keys were written for {all} results", names.len());
        Ok(Arc::new(names))
    }

    async fn turn(
        &self,
        target: &Target,
        namespace: &str,
        names: &Arc<Vec<String>>,
        tasks: usize,
        way: Way,
    ) -> anyhow::Result<Took> {
        let reader = match way {
            Way::Larder => {
                // The time limit is no part of this question.
                let reader = fleet::settings(target.url(), namespace);
                let reader = reader.redis_timeout(Duration::from_secs(5)).build().await?;
                look(&reader, 0, self.bytes).await;
                Some(reader)
            }
            Way::Get | Way::Look => None,
        };
        let connection = target.connect().await?;
        let (bytes, directory) = (self.bytes, format!("larder:{namespace}:directory"));
        let before = target.info().await?;
        let (begin, own) = (Instant::now(), own_processor());
        let running = join_all(parts(self.results, tasks).map(|part| {
            let (connection, names) = (connection.clone(), names.clone());
            let (reader, directory) = (reader.clone(), directory.clone());
            tokio::spawn(async move {
                match reader {
                    Some(reader) => {
                        let mut found = 0;
                        for number in part.clone() {
                            let origin = look(&reader, number, bytes).await;
                            found += usize::from(origin != Origin::Loaded);
                        }
                        Ok(found == part.len())
                    }
                    None => by_hand(connection, &names[part], &directory, way).await,
                }
            })
        }));
        let done = running.await;
        let (elapsed, own) = (begin.elapsed(), own_processor() - own);
        let after = target.info().await?;
        for task in done {
            if !task?? {
                bail!("a result was not in redis: it was evicted, or redis was too slow");
            }
        }
        if let Some(reader) = reader {
            reader.shutdown().await;
        }
        let processor = after.processor().saturating_sub(before.processor());
        let count = self.results as u64;
        Ok(Took {
            redis: micros_each(processor, count),
            own: micros_each(own, count),
            a_second: count as f64 / elapsed.as_secs_f64(),
        })
    }
}

async fn look(cache: &QueryCache, number: usize, bytes: usize) -> Origin {
    let query = cache.query("SELECT text FROM t WHERE id = $1").tag("texts");
    let number = i32::try_from(number).unwrap_or(i32::MAX);
    let load =
        move || async move { Ok::<_, std::io::Error>(format!("{number:08}").repeat(bytes / 8)) };
    let answer = query.params((number,)).load(load).answer().await;
    answer.map_or(Origin::Loaded, |answer| answer.origin())
}

/// Whether all keys were found.
async fn by_hand(
    mut connection: MultiplexedConnection,
    names: &[String],
    directory: &str,
    way: Way,
) -> anyhow::Result<bool> {
    let mut all = true;
    for name in names {
        let value: Vec<u8> = if way == Way::Get {
            cmd("GET").arg(name).query_async(&mut connection).await?
        } else {
            let mut look = Pipeline::with_capacity(3);
            look.cmd("GET").arg(name).cmd("TIME").ignore();
            look.cmd("ZMSCORE").arg(directory).arg("epoch").arg("seq").ignore();
            let (value,): (Vec<u8>,) = look.query_async(&mut connection).await?;
            value
        };
        all &= !value.is_empty();
    }
    Ok(all)
}

/// Splits `0..all` for so many tasks.
fn parts(all: usize, tasks: usize) -> impl Iterator<Item = Range<usize>> {
    let tasks = tasks.clamp(1, all.max(1));
    (0..tasks).map(move |task| task * all / tasks..(task + 1) * all / tasks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_the_whole() {
        for (all, tasks) in [(10, 3), (3, 10), (0, 4), (20_000, 256), (7, 7)] {
            let each: Vec<usize> = parts(all, tasks).flatten().collect();
            assert_eq!(each, (0..all).collect::<Vec<_>>(), "{all} for {tasks}");
            assert!(parts(all, tasks).count() <= tasks);
        }
    }
}
