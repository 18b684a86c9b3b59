//! The permission to load: a lease from Redis, or the decision to load without one.

use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, select};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::cache::config::QueryConfig;
use crate::cache::gather::Member;
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

/// How many lookups a load makes for entries that are reported while it requests its lease. After
/// that it loads without a lease.
const LOOKS: usize = 3;

/// The permission to load.
pub(super) enum Permission {
    /// For all processes: Redis has granted the lease, or may have done so without its reply
    /// arriving.
    Leased(Lease),
    /// For this process only: Redis cannot be used, or another process's load had no result.
    Unleased,
    /// For this process only: there is a current entry, which this process cannot fetch. The result
    /// is not written to Redis.
    OutOfReach,
    /// None is needed: another process has loaded the result meanwhile.
    AlreadyLoaded(Loaded),
}

impl Inner {
    /// Acquires the permission to load. Waits while another process has it.
    pub(super) async fn acquire_permission<V: Value>(
        &self,
        (key, token): (&CacheKey, Token),
        config: &QueryConfig,
        mut miss_reason: MissReason,
        skip_permit: &Notify,
        member: Option<&Member>,
    ) -> Permission {
        if miss_reason == MissReason::OutOfReach {
            return Permission::OutOfReach;
        }
        let usable = |fleet: &&Arc<Fleet>| fleet.is_confirmed() && fleet.store.is_connected();
        let Some(fleet) = self.fleet.as_ref().filter(usable) else {
            return Permission::Unleased;
        };
        let mut looks = 0;
        // A load of this process that holds a permit may wait for this one. The load of the other
        // process may, through further loads, wait for that permit: a deadlock across processes. So
        // once `skip_permit` is notified, the wait for the other process lasts no longer than a
        // lease.
        let mut patience = pin!(async {
            let asked = Instant::now();
            skip_permit.notified().await;
            // This consumed the notification. `run` waits for it as well, instead of a permit.
            skip_permit.notify_one();
            sleep_until(asked + LEASE).await;
        });
        loop {
            let (seen, refused) = match miss_reason {
                MissReason::Absent => (None, false),
                MissReason::Unwanted(token) => (Some(token), false),
                MissReason::Refused(token) => (Some(token), true),
                MissReason::OutOfReach => return Permission::OutOfReach,
                MissReason::Unreachable => return Permission::Unleased,
            };
            let turn = Member::turn(member, Member::LEASE).await;
            let waiter = fleet.notices.wait_for(*key);
            let at = self.currency.position();
            let need = self.currency.newest(config.depends.slots());
            let lease = fleet.ask(*key, token);
            let reply =
                fleet.store.lease(key, LeaseRequest { token, at, need, seen, refused }).await;
            drop(turn);
            match reply {
                Err(_) => {
                    count(&self.counters.l2_errors);
                    return Permission::Leased(lease);
                }
                Ok(LeaseReply::Granted) => return Permission::Leased(lease.granted()),
                Ok(LeaseReply::Entry) => lease.refused(),
                Ok(LeaseReply::Wait(remaining)) => {
                    lease.refused();
                    count(&self.counters.lease_waits);
                    // The others of its batch do not wait for that process.
                    if let Some(member) = member {
                        member.step_aside();
                    }
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
            let found = match self.lookup::<V>(key, config, || {}).await {
                Lookup::Large(large) => self.fetch(key, config, &large).await,
                found => found,
            };
            match found {
                Lookup::Fresh(_, loaded) => {
                    let loaded = Loaded { looked_up: false, ..loaded };
                    return Permission::AlreadyLoaded(loaded);
                }
                Lookup::Nothing(again) => miss_reason = again,
                Lookup::Large(_) => miss_reason = MissReason::OutOfReach,
            }
            looks += 1;
            if looks == LOOKS {
                return Permission::Unleased;
            }
        }
    }
}
