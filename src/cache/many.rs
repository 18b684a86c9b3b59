//! Many reads of one query in one call: memory, one question to Redis, one load.
//!
//! Each key is read by the rules of a single read. What is shared is the way: the beat that confirms
//! memory, the lookup in Redis ([`Inner::look_many`]), and, where the caller has a query for many
//! keys, the load ([`Gather`]). Where each key has a load of its own, no more of them are begun at a
//! time than may run.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, select};
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use crate::cache::config::QueryConfig;
use crate::cache::gather::{Gather, LoadMany};
use crate::cache::inner::{Inner, LoadFn, LoadResult};
use crate::cache::read_through::ReadThrough;
use crate::cache::serve::ReadStart;
use crate::error::Error;
use crate::sync::Mutex;
use crate::telemetry::counters::count;
use crate::value::Value;
use crate::value::answer::Answer;
use crate::value::key::{CacheKey, KeyHasher};
use crate::value::tag::{LoadReport, Tag};
use crate::value::token::Token;

/// How many keys one query loads at most. More would hold more leases than Redis can grant within
/// the time limit of a request.
const MOST: usize = 1000;

/// How many entries from Redis are judged at a time. Nearly none of them waits for anything.
const JUDGED: usize = 16;

type Outcome<V> = Result<Answer<V>, Error>;

/// Where the results that are missing come from.
pub(crate) enum Loads<T> {
    /// Each key has its own load, in the order of the keys.
    Each(Vec<LoadFn<T>>),
    /// One load for as many keys as it is given.
    Together(LoadMany<T>),
}

impl<T: Send + 'static> Loads<T> {
    /// The load of each key by itself.
    fn single(self, keys: usize) -> (Vec<LoadFn<T>>, Option<LoadMany<T>>) {
        match self {
            Loads::Each(loads) => (loads, None),
            Loads::Together(load) => {
                let single = |position| -> LoadFn<T> {
                    let load = load.clone();
                    Box::new(move || {
                        async move {
                            let mut values = load(vec![position]).await?;
                            let value = values.pop().ok_or_else(Error::closed)?;
                            Ok(LoadResult::new(value, LoadReport::default()))
                        }
                        .boxed()
                    })
                };
                ((0..keys).map(single).collect(), Some(load))
            }
        }
    }
}

/// The keys of a call, each once.
pub(crate) struct Keys {
    /// For each value of the call, the number of its key.
    numbers: Vec<usize>,
    /// For each key, the first value that has it.
    firsts: Vec<(CacheKey, usize)>,
}

impl Keys {
    pub(crate) fn new(keys: impl Iterator<Item = CacheKey>) -> Keys {
        let mut known: HashMap<CacheKey, usize, KeyHasher> = HashMap::default();
        let (mut numbers, mut firsts) = (vec![], vec![]);
        for (at, key) in keys.enumerate() {
            numbers.push(match known.entry(key) {
                Entry::Occupied(number) => *number.get(),
                Entry::Vacant(vacant) => {
                    firsts.push((key, at));
                    *vacant.insert(firsts.len() - 1)
                }
            });
        }
        Keys { numbers, firsts }
    }
}

/// What memory says to the keys of a call.
pub(crate) struct InMemory<V: Value> {
    keys: Keys,
    /// By the number of the key.
    outcomes: Vec<Option<Outcome<V>>>,
    /// The keys that need a load: those that are missing, and those that are loaded again early.
    wanted: Vec<Wanted>,
}

struct Wanted {
    /// The number of the key.
    number: usize,
    /// For an early refresh, the load to replace.
    seen: Option<Token>,
}

impl<V: Value> InMemory<V> {
    /// The positions, among the values of the call, of the values that a load is needed for.
    pub(crate) fn wanted(&self) -> impl ExactSizeIterator<Item = usize> {
        self.wanted.iter().map(|wanted| self.keys.firsts[wanted.number].1)
    }

    /// The outcome of each value of the call.
    fn finish(self) -> Vec<Outcome<V>>
    where
        V: Clone,
    {
        let InMemory { keys, mut outcomes, .. } = self;
        let mut left = vec![0_usize; outcomes.len()];
        keys.numbers.iter().for_each(|&number| left[number] += 1);
        let outcome = |&number: &usize| {
            left[number] -= 1;
            // The last one takes it.
            let outcome =
                if left[number] == 0 { outcomes[number].take() } else { outcomes[number].clone() };
            outcome.unwrap_or_else(|| Err(Error::closed()))
        };
        keys.numbers.iter().map(outcome).collect()
    }
}

impl Inner {
    /// Asks memory for some keys.
    pub(crate) fn hit_many<V: Value>(&self, keys: Keys, config: &QueryConfig) -> InMemory<V> {
        let (mut outcomes, mut wanted) = (vec![], vec![]);
        for (number, (key, _)) in keys.firsts.iter().enumerate() {
            let hit = self.hit::<V>(key, config);
            let seen = hit.as_ref().and_then(|hit| hit.due);
            if hit.is_none() || seen.is_some() {
                wanted.push(Wanted { number, seen });
            }
            outcomes.push(hit.map(|hit| Ok(hit.answer)));
        }
        InMemory { keys, outcomes, wanted }
    }

    /// Answers the reads that memory has not answered. `loads` and `tags` are those of the
    /// [wanted](InMemory::wanted) keys, in their order; `tags` is empty if they have none of their
    /// own.
    pub(crate) async fn miss_many<V: Value + Clone>(
        self: Arc<Self>,
        mut memory: InMemory<V>,
        config: Arc<QueryConfig>,
        tags: Vec<Vec<Tag>>,
        loads: Loads<V::Stored>,
    ) -> Vec<Outcome<V>> {
        let wanted = std::mem::take(&mut memory.wanted);
        if wanted.is_empty() {
            return memory.finish();
        }
        let is_open = self.settle().await;
        let (begin, asked) =
            (Instant::now(), ReadStart { at: self.clock.now(), order: self.currency.order() });
        let newly_confirmed = is_open && self.confirm().await;
        let (singles, together) = loads.single(wanted.len());
        let mut reads = vec![];
        for (position, (Wanted { number, seen }, load)) in wanted.iter().zip(singles).enumerate() {
            let key = memory.keys.firsts[*number].0;
            let config = config.tagged(tags.get(position).map_or(&[][..], |tags| tags));
            if let Some(seen) = seen {
                self.reload::<V>(key, &config, Arc::new(Mutex::new(Some(load))), *seen);
                continue;
            }
            count(&self.counters.misses);
            let known = if is_open {
                self.recheck_memory::<V>(&key, &config, asked, newly_confirmed)
            } else {
                Some(Err(Error::closed()))
            };
            match known {
                Some(outcome) => memory.outcomes[*number] = Some(self.counted(&config, outcome)),
                None => {
                    let read = ReadThrough::new(&self, key, config, load, begin, asked);
                    reads.push(OneOfMany { number: *number, position, key, read });
                }
            }
        }
        let mut done = vec![];
        let reads = self.look_up_all(&config, reads, &mut done).await;
        match together {
            None => {
                let runs = reads.into_iter().map(OneOfMany::run);
                let runs = stream::iter(runs).buffer_unordered(self.concurrent_loads);
                runs.for_each(|outcome| {
                    done.push(outcome);
                    std::future::ready(())
                })
                .await;
            }
            Some(load) => self.load_together(&config, &load, reads, &mut done).await,
        }
        for (number, outcome) in done {
            memory.outcomes[number] = Some(self.counted(&config, outcome));
        }
        memory.finish()
    }

    fn counted<V>(&self, config: &QueryConfig, outcome: Outcome<V>) -> Outcome<V> {
        let outcome = outcome.map_err(|error| error.of_query(config.counters.name()));
        config.counters.answered(&outcome);
        outcome
    }

    /// Answers the reads that Redis has fresh results for. Returns the others.
    async fn look_up_all<V: Value>(
        &self,
        config: &QueryConfig,
        reads: Vec<OneOfMany<V>>,
        done: &mut Vec<(usize, Outcome<V>)>,
    ) -> Vec<OneOfMany<V>> {
        // What is being looked up or loaded here is waited for.
        let (mut rest, mut asking): (Vec<_>, Vec<_>) =
            reads.into_iter().partition(|one| self.flights.has(&one.key));
        while !asking.is_empty() {
            let keys: Vec<_> = asking.iter().map(|one| one.key).collect();
            let looks = self.look_many(config, &keys).await;
            if looks.is_empty() {
                break;
            }
            let later = asking.split_off(looks.len());
            let judged = asking.into_iter().zip(looks).map(async |(mut one, look)| {
                let answer = one.read.answer_from(look).await;
                (one, answer)
            });
            let mut judged = pin!(stream::iter(judged).buffer_unordered(JUDGED));
            while let Some((one, answer)) = judged.next().await {
                match answer {
                    Some(answer) => done.push((one.number, Ok(answer))),
                    None => rest.push(one),
                }
            }
            asking = later;
        }
        rest.extend(asking);
        rest
    }

    /// Loads what is missing by as few queries as possible.
    async fn load_together<V: Value>(
        self: &Arc<Self>,
        config: &QueryConfig,
        load: &LoadMany<V::Stored>,
        mut reads: Vec<OneOfMany<V>>,
        done: &mut Vec<(usize, Outcome<V>)>,
    ) {
        // In the order in which they were asked for.
        reads.sort_by_key(|one| one.position);
        let mut reads = reads.into_iter();
        let mut running = FuturesUnordered::new();
        loop {
            let round: Vec<_> = reads.by_ref().take(MOST).collect();
            if round.is_empty() {
                break;
            }
            let positions: Vec<_> = round.iter().map(|one| one.position).collect();
            let deadline = config.policy.load_deadline;
            let (gather, members) = Gather::start(self, load, &positions, deadline);
            for (mut one, (member, load)) in round.into_iter().zip(members) {
                one.read.join(member, load);
                running.push(one.run());
            }
            // The next ones do not wait for those that wait for somebody else.
            let mut is_idle = pin!(gather.is_idle());
            while let Either::Left((Some(outcome), _)) =
                select(running.next(), is_idle.as_mut()).await
            {
                done.push(outcome);
            }
        }
        while let Some(outcome) = running.next().await {
            done.push(outcome);
        }
    }
}

/// One of many reads.
struct OneOfMany<V: Value> {
    /// The number of its key.
    number: usize,
    /// Its position among the keys that need a load.
    position: usize,
    key: CacheKey,
    read: ReadThrough<V>,
}

impl<V: Value> OneOfMany<V> {
    async fn run(self) -> (usize, Outcome<V>) {
        (self.number, self.read.run().await)
    }
}
