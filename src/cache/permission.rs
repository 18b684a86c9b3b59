//! The permission to load: a lease from Redis, or a reason to do without.

use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, select};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::cache::config::QueryConfig;
use crate::cache::inner::Core;
use crate::cache::lookup::{Missed, Sight};
use crate::fleet::notices::Word;
use crate::fleet::{Fleet, Lease};
use crate::flight::Landing;
use crate::l2::{Ask, Done, LEASE, Leased};
use crate::telemetry::counters::count;
use crate::value::Value;
use crate::value::key::CacheKey;
use crate::value::token::Token;

/// How often what is in Redis is looked at because the lease was refused for it.
const LOOKS: usize = 3;

/// The right to load.
pub(super) enum Right {
    /// For all processes, or perhaps so.
    Leased(Lease),
    /// For this one: Redis does not answer, or another process's load came to nothing.
    Alone,
    /// None is needed: another process has loaded it meanwhile.
    Found(Landing),
}

impl Core {
    /// Asks for the right to load, and waits while another process has it.
    pub(super) async fn right<V: Value>(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
        token: Token,
        mut missed: Missed,
        urgent: &Notify,
    ) -> Right {
        let usable = |fleet: &&Arc<Fleet>| fleet.is_confirmed() && fleet.store.is_connected();
        let Some(fleet) = self.fleet.as_ref().filter(usable) else {
            return Right::Alone;
        };
        let mut looks = 0;
        // Somebody waits for this who holds a turn of this process, which the other process's load
        // may be waiting for in the end. Longer than a lease that is not worth it.
        let mut patience = pin!(async {
            let asked = Instant::now();
            urgent.notified().await;
            // Said on for whoever waits for a turn after this.
            urgent.notify_one();
            sleep_until(asked + LEASE).await;
        });
        loop {
            let (seen, refused) = match missed {
                Missed::Absent => (None, false),
                Missed::Unwanted(token) => (Some(token), false),
                Missed::Refused(token) => (Some(token), true),
                Missed::Unreachable => return Right::Alone,
            };
            let waiter = fleet.backplane.wait_for(*key);
            let at = self.currency.position();
            let need = self.currency.newest(config.depends.cells());
            let lease = fleet.ask(*key, token);
            match fleet.store.lease(key, Ask { token, at, need, seen, refused }).await {
                Err(_) => {
                    count(&self.counters.l2_errors);
                    return Right::Leased(lease);
                }
                Ok(Leased::Granted) => return Right::Leased(lease.granted()),
                Ok(Leased::Entry) => lease.refused(),
                Ok(Leased::Wait(remaining)) => {
                    lease.refused();
                    count(&self.counters.lease_waits);
                    match select(pin!(waiter.word(remaining)), patience.as_mut()).await {
                        Either::Left((Word::Done(Done::Filled), _)) => {}
                        Either::Left((Word::Done(Done::Without), _)) => return Right::Alone,
                        Either::Left((Word::Done(Done::Again) | Word::Ask, _)) => continue,
                        Either::Right(_) => return Right::Alone,
                    }
                }
            }
            match self.find::<V>(key, config, || {}).await {
                Sight::Fresh(_, landing) => return Right::Found(landing),
                Sight::Nothing(again) => missed = again,
            }
            looks += 1;
            if looks == LOOKS {
                return Right::Alone;
            }
        }
    }
}
