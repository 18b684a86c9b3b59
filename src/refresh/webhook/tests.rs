//! A webhook, used as a hook, against a receiver that wiremock plays.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpSocket};
use wiremock::matchers::{any, header, method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::refresh::hook::{FailureKind, HookFailure};
use crate::refresh::postgres::{RefreshError, RefreshErrorKind};
use crate::refresh::report::{RefreshOutcome, RefreshReport, RowChanges, SkipReason};

const KEY: &[u8] = b"sixteen bytes, or more";
const LONG: Duration = Duration::from_secs(60);

/// A webhook that retries at once, and that waits long unless a test says otherwise. It uses no
/// proxy from the environment of this machine.
fn webhook(url: &str) -> Webhook {
    let webhook = Webhook::new(url)
        .unwrap()
        .timeout(LONG)
        .backoff(Duration::from_millis(1), Duration::from_millis(2))
        .limit(LONG);
    Webhook { client: client(Client::builder().no_proxy()).unwrap(), ..webhook }
}

fn to(server: &MockServer) -> Webhook {
    webhook(&format!("{}/hooks", server.uri()))
}

fn at(milliseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(milliseconds)
}

fn after(outcome: RefreshOutcome) -> RefreshEvent {
    RefreshEvent::after(Arc::new(RefreshReport {
        view: "daily_revenue".into(),
        started: at(1_714_532_400_125),
        duration: Duration::from_micros(1_250_900),
        outcome,
        warnings: vec![],
    }))
}

fn refreshed() -> RefreshEvent {
    let rows = RowChanges { inserted: 2, deleted: 1, counted: true, ..RowChanges::default() };
    after(RefreshOutcome::Refreshed(rows))
}

async fn run(webhook: Webhook, event: RefreshEvent) -> Result<(), HookFailure> {
    RefreshHook::from(webhook).run(event).await
}

/// The failure that the hook reports.
async fn failure(webhook: Webhook) -> String {
    match run(webhook, refreshed()).await.unwrap_err().kind {
        FailureKind::Failed(why) => why,
        other => panic!("{other:?}"),
    }
}

async fn answering(status: u16) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(status)).mount(&server).await;
    server
}

/// Answers only the first request, with this response. Mount another mock for the others.
async fn first(server: &MockServer, response: ResponseTemplate) {
    Mock::given(any()).respond_with(response).up_to_n_times(1).expect(1).mount(server).await;
}

async fn then_ok(server: &MockServer) {
    Mock::given(method("POST"))
        .and(path("/hooks"))
        .respond_with(ResponseTemplate::new(204))
        .expect(1)
        .mount(server)
        .await;
}

fn said<'a>(request: &'a Request, name: &str) -> &'a str {
    request.headers[name].to_str().unwrap()
}

async fn received(server: &MockServer) -> Vec<Request> {
    server.received_requests().await.unwrap()
}

/// HMAC by its definition, without the crate that signs.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    assert!(key.len() <= 64);
    let pad = |with: u8| {
        let mut block = [with; 64];
        key.iter().zip(&mut block).for_each(|(key, byte)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

fn assert_signed(request: &Request) {
    let (id, timestamp) = (said(request, "webhook-id"), said(request, "webhook-timestamp"));
    assert!(timestamp.parse::<u64>().unwrap() > 1_700_000_000);
    let message = [id.as_bytes(), b".", timestamp.as_bytes(), b".", &request.body].concat();
    let expected = format!("v1,{}", BASE64.encode(hmac(KEY, &message)));
    assert_eq!(said(request, "webhook-signature"), expected);
}

#[tokio::test]
async fn a_refresh_is_posted_as_documented_and_signed() {
    let server = MockServer::start().await;
    then_ok(&server).await;
    let webhook = to(&server).secret(KEY).unwrap().process("worker-7");
    run(webhook.header("authorization", "Bearer t").unwrap(), refreshed()).await.unwrap();

    let requests = received(&server).await;
    assert_eq!(
        requests[0].body_json::<Value>().unwrap(),
        json!({
            "type": "refresh.succeeded",
            "view": "daily_revenue",
            "started_at": "2024-05-01T03:00:00.125Z",
            "duration_ms": 1250,
            "rows": {"inserted": 2, "updated": 0, "deleted": 1},
            "changed": true,
            "error": null,
            "failures_in_a_row": 0,
            "process": "worker-7",
        })
    );
    assert_eq!(said(&requests[0], "content-type"), "application/json");
    assert_eq!(said(&requests[0], "authorization"), "Bearer t");
    let agent = format!("larder/{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(said(&requests[0], "user-agent"), agent);
    assert_signed(&requests[0]);
}

#[tokio::test]
async fn a_failure_is_posted_with_its_error_and_without_secret_unsigned() {
    let server = answering(200).await;
    let error = RefreshError::new(RefreshErrorKind::NoUniqueIndex, "sales", "there is none");
    let message = error.to_string();
    let took = Duration::from_millis(7);
    let failed = RefreshEvent::failed("sales".into(), at(0), took, error, 3);
    run(to(&server), failed).await.unwrap();

    let requests = received(&server).await;
    assert_eq!(
        requests[0].body_json::<Value>().unwrap(),
        json!({
            "type": "refresh.failed",
            "view": "sales",
            "started_at": "1970-01-01T00:00:00.000Z",
            "duration_ms": 7,
            "rows": null,
            "changed": false,
            "error": {"kind": "no_unique_index", "sqlstate": null, "message": message},
            "failures_in_a_row": 3,
        })
    );
    assert!(!requests[0].headers.contains_key("webhook-signature"));
    assert!(said(&requests[0], "webhook-id").starts_with("msg_"));
}

#[tokio::test]
async fn other_events_say_what_they_are() {
    let server = answering(200).await;
    let uncounted = RowChanges { inserted: 9, ..RowChanges::default() };
    for (event, what, changed) in [
        (RefreshEvent::before("sales".into(), at(0)), "refresh.starting", false),
        (after(RefreshOutcome::Skipped(SkipReason::Unchanged)), "refresh.skipped", false),
        (after(RefreshOutcome::Refreshed(uncounted)), "refresh.succeeded", true),
    ] {
        run(to(&server), event).await.unwrap();
        let body: Value = received(&server).await.last().unwrap().body_json().unwrap();
        assert_eq!((&body["type"], &body["changed"]), (&json!(what), &json!(changed)));
        assert_eq!((&body["rows"], &body["error"]), (&Value::Null, &Value::Null));
    }
}

#[tokio::test]
async fn a_repetition_is_the_same_message() {
    let server = MockServer::start().await;
    for status in [500, 408, 429] {
        first(&server, ResponseTemplate::new(status)).await;
    }
    then_ok(&server).await;
    run(to(&server).secret(KEY).unwrap(), refreshed()).await.unwrap();

    let requests = received(&server).await;
    assert_eq!(requests.len(), 4);
    for request in &requests {
        assert_signed(request);
        assert_eq!(said(request, "webhook-id"), said(&requests[0], "webhook-id"));
        assert_eq!(request.body, requests[0].body);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_again() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let call = tokio::spawn(run(webhook(&format!("http://{address}/hooks")), refreshed()));
    let (connection, _) = listener.accept().await.unwrap();
    let server = MockServer::builder().listener(listener.into_std().unwrap()).start().await;
    then_ok(&server).await;
    // The first connection is closed only now: the receiver has the same socket, and its answer is
    // set. So the next attempt cannot come too early.
    drop(connection);
    call.await.unwrap().unwrap();
}

/// An address that refuses connections for as long as the socket is held: nobody listens there.
fn dead() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test]
async fn a_dead_receiver_is_given_up_and_reported_without_secrets() {
    let (_socket, address) = dead();
    let url = format!("http://user:hunter2@{address}/T0/hunter3?token=hunter4");
    let why = failure(webhook(&url).attempts(3)).await;
    let begin = format!("post to http://{address}: not delivered in 3 attempts; the last one: ");
    assert!(why.starts_with(&begin) && why.to_lowercase().contains("refused"), "{why}");

    let webhook = webhook(&url).secret("hunter5, and some more").unwrap();
    let webhook = webhook.header("authorization", "hunter6").unwrap();
    let hook = RefreshHook::from(webhook.clone());
    let shown = format!("{webhook:?} {hook:?} {why}");
    assert!(!shown.contains("hunter") && !shown.contains("user"), "{shown}");
}

#[tokio::test]
async fn what_will_not_pass_is_not_tried_again() {
    for status in [400, 401, 404, 410, 422, 304] {
        let server = answering(status).await;
        let why = failure(to(&server)).await;
        assert!(
            why.contains("in 1 attempt;") && why.contains(&format!("status {status}")),
            "{why}"
        );
        assert_eq!(received(&server).await.len(), 1);
    }
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_not_followed() {
    let target = MockServer::start().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(200)).expect(0).mount(&target).await;
    for status in [301, 302, 307, 308] {
        let server = MockServer::start().await;
        let elsewhere = ResponseTemplate::new(status).insert_header("location", target.uri());
        Mock::given(any()).respond_with(elsewhere).expect(1).mount(&server).await;
        let why = failure(to(&server)).await;
        assert!(why.contains("redirects are not followed"), "{why}");
    }
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_costs_its_timeout_for_each_attempt() {
    let server = MockServer::start().await;
    let late = ResponseTemplate::new(200).set_delay(LONG * 60);
    Mock::given(any()).respond_with(late).mount(&server).await;
    let why = failure(to(&server).timeout(Duration::from_millis(5)).attempts(2)).await;
    assert!(why.contains("in 2 attempts; the last one: no answer within 5ms"), "{why}");
}

#[tokio::test]
async fn no_attempt_goes_beyond_the_limit() {
    let server = MockServer::start().await;
    let late = ResponseTemplate::new(200).set_delay(LONG * 60);
    Mock::given(any()).respond_with(late).mount(&server).await;
    let limit = Duration::from_millis(20);
    // Each attempt may take far longer than the limit for all of them.
    let why = failure(to(&server).limit(limit).attempts(u32::MAX)).await;
    assert!(why.contains("no answer within") && why.contains("`limit` of 20ms"), "{why}");
}

#[tokio::test]
async fn a_receiver_that_asks_for_more_time_than_there_is_is_left_alone() {
    let server = MockServer::start().await;
    let busy = ResponseTemplate::new(429).insert_header("retry-after", "3600");
    Mock::given(any()).respond_with(busy).expect(1).mount(&server).await;
    let why = failure(to(&server)).await;
    assert!(why.contains("429") && why.contains("after 3600s") && why.contains("60s"), "{why}");
}

#[tokio::test]
async fn a_receiver_that_says_when_gets_the_message_again() {
    for status in [429, 503] {
        let server = MockServer::start().await;
        first(&server, ResponseTemplate::new(status).insert_header("retry-after", "0")).await;
        then_ok(&server).await;
        // It would not retry by itself within the limit.
        run(to(&server).backoff(LONG * 60, LONG * 60), refreshed()).await.unwrap();
    }
}

#[test]
fn the_receiver_rules_the_delay_if_it_fits_and_chance_does_otherwise() {
    let busy = |status, seconds| Miss::Status {
        status: StatusCode::from_u16(status).unwrap(),
        retry_after: Some(Duration::from_secs(seconds)),
    };
    let second = Duration::from_secs(1);
    let webhook = webhook("http://localhost/").attempts(40).backoff(second, second * 8);
    for status in [429, 503] {
        assert_eq!(webhook.delay(&busy(status, 1), 1, LONG), Ok(second));
        assert_eq!(webhook.delay(&busy(status, 60), 1, LONG), Err(End::Limit(LONG)));
        assert_eq!(webhook.delay(&busy(status, 1), 40, LONG), Err(End::Attempts));
    }
    assert_eq!(webhook.delay(&busy(404, 1), 1, LONG), Err(End::Final));
    for attempt in 1..40 {
        let most = second * 8.min(1 << (attempt - 1).min(3));
        let drawn: Vec<_> =
            (0..50).map(|_| webhook.delay(&busy(500, 30), attempt, LONG).unwrap()).collect();
        assert!(drawn.iter().all(|delay| *delay <= most), "{drawn:?}");
        assert!(drawn.iter().any(|delay| *delay < most / 2), "{drawn:?}");
    }
}

#[test]
fn a_retry_after_is_seconds_or_a_date() {
    let now = at(1_714_532_400_000);
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(retry_after("120", now), seconds(120));
    assert_eq!(retry_after("Wed, 01 May 2024 03:00:05 GMT", now), seconds(5));
    assert_eq!(retry_after("Wed, 01 May 2024 02:00:00 GMT", now), seconds(0));
    assert_eq!(retry_after("soon", now), None);
    assert_eq!(retry_after("-1", now), None);
}

#[test]
fn a_setting_that_cannot_be_used_is_named_and_not_quoted() {
    let wrong = [
        ("url", Webhook::new("hunter2")),
        ("url", Webhook::new("localhost:8080/hunter2")),
        ("url", Webhook::new("ftp://user:hunter2@example.com/")),
        ("url", Webhook::new("http://user:hunter2@:80/")),
        ("secret", webhook("http://localhost/").secret("hunter2")),
        ("secret", webhook("http://localhost/").secret("whsec_hunter2 hunter2 hunter2")),
        ("header", webhook("http://localhost/").header("hunter 2", "")),
        ("header", webhook("http://localhost/").header("authorization", "hunter2\n")),
    ];
    for (setting, result) in wrong {
        let error = result.unwrap_err();
        let message = error.to_string();
        assert_eq!(error.setting(), Some(setting), "{message}");
        assert!(
            message.contains(&format!("`{setting}`")) && !message.contains("hunter"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_secret_in_text_stands_for_its_bytes_and_a_webhooks_own_headers_stay() {
    let server = MockServer::start().await;
    Mock::given(header("content-type", "application/json"))
        .respond_with(ResponseTemplate::new(200))
        .expect(1)
        .mount(&server)
        .await;
    let text = format!("whsec_{}", BASE64.encode(KEY));
    let webhook = to(&server).secret(text).unwrap().header("content-type", "text/plain").unwrap();
    run(webhook, refreshed()).await.unwrap();
    assert_signed(&received(&server).await[0]);
}

#[test]
fn settings_out_of_range_are_brought_into_it() {
    let most = Duration::MAX;
    let webhook =
        webhook("http://localhost/").attempts(0).timeout(most).limit(most).backoff(most, LONG);
    assert_eq!((webhook.attempts, webhook.backoff), (1, (LONG, LONG)));
    let endless = webhook.clone().backoff(most, most).attempts(u32::MAX);
    assert!(backoff::delay(u32::MAX - 2, endless.backoff.0, endless.backoff.1) <= LONGEST);
    let _ = RefreshHook::from(webhook);
}
