//! Commands that reach Redis too late.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::runtime::Handle;

use super::*;
use crate::background::Background;
use crate::l2::Notice;
use crate::l2::redis::endpoint::Endpoint;

pub(super) struct Unsubscribed;

impl Listener for Unsubscribed {
    fn hear(&self, _: Notice) {}
}

#[tokio::test]
async fn a_lease_is_not_granted_to_one_who_has_ceased_to_wait() {
    let server = test_servers::Redis::start().unwrap();
    let background = Background::on(Handle::current());
    let endpoint = Endpoint::new(&server.url()).unwrap();
    let link = Connection::new(endpoint, Duration::from_secs(30), None, &background);
    link.connect().await.unwrap();
    let store = RedisStore::new(link, "late", Arc::new(Unsubscribed));
    store.beat(Position { epoch: 0, seq: 0 }, 1000, false, Duration::from_secs(30)).await.unwrap();
    let (key, token) = (CacheKey::random(), Token::random());
    let ask = || LeaseRequest {
        token,
        at: Position { epoch: 0, seq: 0 },
        need: 0,
        seen: None,
        refused: false,
    };
    let reply = async |latest| store.link.call(&store.lease_command(&key, &ask(), latest)).await;
    let now = store.time_of(store.now()).unwrap();
    // As after a freeze: the request was sent in time, and is executed now.
    let late = reply(Some(now - 1_000)).await.unwrap().0;
    assert_eq!(bytes(&late), Some(&b"late"[..]), "{late:?}");
    assert_eq!(server.command(&["EXISTS", &store.names.lease(&key)]).unwrap().trim(), "0");
    for latest in [Some(now + 60_000), None] {
        let granted: Value = reply(latest).await.unwrap().0;
        assert_eq!(bytes(&granted), Some(&b"granted"[..]), "{granted:?}");
    }
    assert!(matches!(store.lease(&CacheKey::random(), ask()).await, Ok(LeaseReply::Granted)));
    store.close();
}
