//! The permission to load: a lease from Redis, or a reason to do without.

use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, select};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::cache::config::QueryConfig;
use crate::cache::inner::Inner;
use crate::cache::lookup::{Lookup, MissReason};
use crate::fleet::notices::WakeReason;
use crate::fleet::{Fleet, Lease};
use crate::flight::Loaded;
use crate::l2::{LEASE, LeaseOutcome, LeaseReply, LeaseRequest};
use crate::telemetry::counters::count;
use crate::value::Value;
use crate::value::key::CacheKey;
use crate::value::token::Token;

/// How often what is in Redis is looked at because the lease was refused for it.
const LOOKS: usize = 3;

/// The permission to load.
pub(super) enum Permission {
    /// For all processes, or perhaps so.
    LeaseReply(Lease),
    /// For this one: Redis does not answer, or another process's load came to nothing.
    Unleased,
    /// None is needed: another process has loaded it meanwhile.
    AlreadyLoaded(Loaded),
}

impl Inner {
    /// Asks for the permission to load, and waits while another process has it.
    pub(super) async fn acquire_permission<V: Value>(
        &self,
        key: &CacheKey,
        config: &QueryConfig,
        token: Token,
        mut miss_reason: MissReason,
        skip_permit: &Notify,
    ) -> Permission {
        let usable = |fleet: &&Arc<Fleet>| fleet.is_confirmed() && fleet.store.is_connected();
        let Some(fleet) = self.fleet.as_ref().filter(usable) else {
            return Permission::Unleased;
        };
        let mut looks = 0;
        // Somebody waits for this who holds a turn of this process, which the other process's load
        // may be waiting for in the end. Longer than a lease that is not worth it.
        let mut patience = pin!(async {
            let asked = Instant::now();
            skip_permit.notified().await;
            // Said on for whoever waits for a turn after this.
            skip_permit.notify_one();
            sleep_until(asked + LEASE).await;
        });
        loop {
            let (seen, refused) = match miss_reason {
                MissReason::Absent => (None, false),
                MissReason::Unwanted(token) => (Some(token), false),
                MissReason::Refused(token) => (Some(token), true),
                MissReason::Unreachable => return Permission::Unleased,
            };
            let waiter = fleet.backplane.wait_for(*key);
            let at = self.currency.position();
            let need = self.currency.newest(config.depends.slots());
            let lease = fleet.ask(*key, token);
            match fleet.store.lease(key, LeaseRequest { token, at, need, seen, refused }).await {
                Err(_) => {
                    count(&self.counters.l2_errors);
                    return Permission::LeaseReply(lease);
                }
                Ok(LeaseReply::Granted) => return Permission::LeaseReply(lease.granted()),
                Ok(LeaseReply::Entry) => lease.refused(),
                Ok(LeaseReply::Wait(remaining)) => {
                    lease.refused();
                    count(&self.counters.lease_waits);
                    match select(pin!(waiter.word(remaining)), patience.as_mut()).await {
                        Either::Left((WakeReason::Ended(LeaseOutcome::Filled), _)) => {}
                        Either::Left((WakeReason::Ended(LeaseOutcome::NoResult), _)) => {
                            return Permission::Unleased;
                        }
                        Either::Left((
                            WakeReason::Ended(LeaseOutcome::Superseded) | WakeReason::AskAgain,
                            _,
                        )) => continue,
                        Either::Right(_) => return Permission::Unleased,
                    }
                }
            }
            match self.lookup::<V>(key, config, || {}).await {
                Lookup::Fresh(_, loaded) => return Permission::AlreadyLoaded(loaded),
                Lookup::Nothing(again) => miss_reason = again,
            }
            looks += 1;
            if looks == LOOKS {
                return Permission::Unleased;
            }
        }
    }
}
