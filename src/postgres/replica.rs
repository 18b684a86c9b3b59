//! [`noting_recovery`]: whether the server that a query ran on was in recovery.
//!
//! A replica may lag behind. A result that it gave after an invalidation can be from before the
//! change, and nothing in it shows that. So such results are answered and not stored.
//!
//! A server that is not in recovery enters it only by a restart, which ends its connections. So a
//! connection is asked until it has once denied it. The question is sent with the query, so it costs
//! no round trip. It is sent first: a replica that is promoted between the two counts as a replica.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use futures_util::future::join;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::rows::Image;
use crate::sync::RwLock;

/// The connections that are known to lead to a server that is not in recovery, by the address of an
/// object that lives as long as the connection. The weak reference keeps the address from being
/// used again.
static PRIMARIES: RwLock<Option<HashMap<usize, Weak<dyn Any + Send + Sync>>>> = RwLock::new(None);

/// From this number on, connections that are gone are removed when another one is added.
const MANY: usize = 64;

/// What a connection is recognized by.
pub(super) type Identity = Arc<dyn Any + Send + Sync>;

fn address(identity: &Identity) -> usize {
    Arc::as_ptr(identity).cast::<()>().addr()
}

fn is_primary(identity: &Identity) -> bool {
    PRIMARIES.read().as_ref().is_some_and(|known| known.contains_key(&address(identity)))
}

fn remember(identity: &Identity) {
    let mut known = PRIMARIES.write();
    let known = known.get_or_insert_default();
    if known.len() >= MANY && known.len() == known.capacity() {
        known.retain(|_, connection| connection.strong_count() > 0);
    }
    known.insert(address(identity), Arc::downgrade(identity));
}

/// Runs a query. Marks its result if the server was in recovery, or if that is not known.
///
/// Without an identity, or behind a pooler, a connection is asked each time.
pub(super) async fn noting_recovery<E>(
    client: &Client,
    identity: Option<Identity>,
    query: impl Future<Output = Result<Image, E>>,
) -> Result<Image, E> {
    if identity.as_ref().is_some_and(is_primary) {
        return query.await;
    }
    let (in_recovery, result) = join(is_in_recovery(client), query).await;
    if in_recovery {
        return result.map(Image::not_to_be_stored);
    }
    if let Some(identity) = &identity {
        remember(identity);
    }
    result
}

async fn is_in_recovery(client: &Client) -> bool {
    match client.simple_query("SELECT pg_catalog.pg_is_in_recovery()").await {
        Ok(replies) => !replies.iter().any(|reply| match reply {
            SimpleQueryMessage::Row(row) => row.get(0) == Some("f"),
            _ => false,
        }),
        // A server of another kind that speaks the protocol: it has no recovery.
        Err(error) => error.code() != Some(&SqlState::UNDEFINED_FUNCTION),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_is_gone_is_not_mistaken_for_a_new_one() {
        let identity: Identity = Arc::new(7_u64);
        assert!(!is_primary(&identity));
        remember(&identity);
        assert!(is_primary(&identity));
        let before = address(&identity);
        drop(identity);
        let others: Vec<Identity> = (0..1000_u64).map(|it| Arc::new(it) as Identity).collect();
        assert!(others.iter().all(|other| address(other) != before && !is_primary(other)));
        others.iter().for_each(remember);
        drop(others);
        // Those that are gone make room.
        (0..10_000_u64).for_each(|it| remember(&(Arc::new(it) as Identity)));
        assert!(PRIMARIES.read().as_ref().unwrap().len() < 5_000);
    }
}
