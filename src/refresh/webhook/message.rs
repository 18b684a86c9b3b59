//! [`Message`]: one event as bytes, with the signature that proves its origin.

use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::refresh::event::RefreshEvent;
use crate::refresh::postgres::{RefreshError, RefreshErrorKind};
use crate::refresh::report::RefreshOutcome;

/// What all attempts to deliver one event have in common, so that a receiver can recognize
/// repetitions.
pub(super) struct Message {
    pub(super) id: String,
    pub(super) body: Bytes,
}

impl Message {
    pub(super) fn new(event: &RefreshEvent, process: Option<&str>) -> Message {
        Message { id: new_id(), body: Bytes::from(body(event, process).to_string()) }
    }

    /// The headers of an attempt at this time. They replace those that the user has set.
    pub(super) fn headers(
        &self,
        users: &HeaderMap,
        secret: Option<&[u8]>,
        at: SystemTime,
    ) -> HeaderMap {
        let timestamp = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut headers = users.clone();
        let mut set = |name, value: &str| {
            let value = HeaderValue::try_from(value).expect("all of them are ASCII");
            headers.insert(name, value);
        };
        set(CONTENT_TYPE, "application/json");
        set(USER_AGENT, concat!("larder/", env!("CARGO_PKG_VERSION")));
        set(HeaderName::from_static("webhook-id"), &self.id);
        set(HeaderName::from_static("webhook-timestamp"), &timestamp.to_string());
        if let Some(secret) = secret {
            let signature = signature(secret, &self.id, timestamp, &self.body);
            set(HeaderName::from_static("webhook-signature"), &signature);
        }
        headers
    }
}

/// A random id of 128 bits. Each `RandomState` is keyed from the system's randomness. `fastrand` is
/// not: its seed is a clock and the number of a thread, and may be that of another process of the
/// fleet.
fn new_id() -> String {
    let half = || RandomState::new().hash_one(SystemTime::now());
    format!("msg_{:016x}{:016x}", half(), half())
}

fn signature(secret: &[u8], id: &str, timestamp: u64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("hmac takes keys of any length");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
}

fn body(event: &RefreshEvent, process: Option<&str>) -> Value {
    let what = match (event.report().map(|report| report.outcome()), event.error()) {
        (Some(RefreshOutcome::Refreshed(_)), _) => "refresh.succeeded",
        (Some(RefreshOutcome::Skipped(_)), _) => "refresh.skipped",
        (None, Some(_)) => "refresh.failed",
        (None, None) => "refresh.starting",
    };
    let started = jiff::Timestamp::try_from(event.started());
    let rows = event.rows().filter(|rows| rows.counted).map(
        |rows| json!({"inserted": rows.inserted, "updated": rows.updated, "deleted": rows.deleted}),
    );
    let mut body = json!({
        "type": what,
        "view": event.view(),
        "started_at": started.ok().map(|started| format!("{started:.3}")),
        "duration_ms": u64::try_from(event.duration().as_millis()).unwrap_or(u64::MAX),
        "rows": rows,
        "changed": event.changed(),
        "error": event.error().map(described),
        "failures_in_a_row": event.failures_in_a_row(),
    });
    if let Some(process) = process {
        body["process"] = json!(process);
    }
    body
}

fn described(error: &RefreshError) -> Value {
    let kind = match error.kind() {
        RefreshErrorKind::Missing => "missing",
        RefreshErrorKind::NotMaterialized => "not_materialized",
        RefreshErrorKind::NoUniqueIndex => "no_unique_index",
        RefreshErrorKind::NotPopulated => "not_populated",
        RefreshErrorKind::Duplicates => "duplicates",
        RefreshErrorKind::Forbidden => "forbidden",
        RefreshErrorKind::InUse => "in_use",
        RefreshErrorKind::ReadOnly => "read_only",
        RefreshErrorKind::LockTimeout => "lock_timeout",
        RefreshErrorKind::Cancelled => "cancelled",
        RefreshErrorKind::Connection => "connection",
        RefreshErrorKind::Closed => "closed",
        RefreshErrorKind::Postgres => "postgres",
    };
    let sqlstate = error.sqlstate().map(|state| state.code());
    json!({"kind": kind, "sqlstate": sqlstate, "message": error.to_string()})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in the documentation of Standard Webhooks.
    #[test]
    fn a_signature_is_that_of_the_specification() {
        let secret = BASE64.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signature = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn ids_differ() {
        let (one, other) = (new_id(), new_id());
        assert_ne!(one, other);
        assert_ne!(one[4..20], one[20..]);
        assert_eq!(one.len(), "msg_".len() + 32);
    }
}
