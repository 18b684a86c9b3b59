//! [`Webhook`]: a hook that posts events over HTTP.

mod failure;
mod message;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, StatusCode, Url};
use tokio::time::{Instant, sleep};

pub use self::failure::WebhookError;
use self::failure::{End, Miss, Undelivered, root};
use self::message::Message;
use super::event::RefreshEvent;
use super::hook::{HookError, RefreshHook};
use crate::backoff;

/// The longest duration of a setting: beyond any practical wait, and sums of it do not overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// What the hook's timeout allows beyond the `limit`, so that the webhook itself reports the
/// failure.
const GRACE: Duration = Duration::from_secs(5);

/// A hook that posts each event, as signed JSON, to an address.
///
/// ```no_run
/// use larder::refresh::{RefreshHook, Webhook};
///
/// # fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let hook: RefreshHook = Webhook::new("https://ops.example.com/hooks/refresh")?
///     .secret(std::env::var("HOOK_SECRET")?)?
///     .into();
/// # Ok(())
/// # }
/// ```
///
/// # What is posted
///
/// A JSON object, with the header `content-type: application/json`:
///
/// ```json
/// {
///   "type": "refresh.failed",
///   "view": "daily_revenue",
///   "started_at": "2024-05-01T03:00:00.125Z",
///   "duration_ms": 1250,
///   "rows": null,
///   "changed": false,
///   "error": {
///     "kind": "no_unique_index",
///     "sqlstate": "55000",
///     "message": "refresh the materialized view \"daily_revenue\": …"
///   },
///   "failures_in_a_row": 3,
///   "process": "worker-7"
/// }
/// ```
///
/// | field | |
/// | --- | --- |
/// | `type` | `refresh.starting`, `refresh.succeeded`, `refresh.skipped` (no refresh was needed) or `refresh.failed` |
/// | `view` | the name of the view, as given to the refresher |
/// | `started_at` | when the refresh began: RFC 3339, UTC, in milliseconds |
/// | `duration_ms` | how long the refresh took; 0 before a refresh |
/// | `rows` | `{"inserted": 2, "updated": 0, "deleted": 1}`, or `null` if there was no refresh or the server does not count rows |
/// | `changed` | whether results that read the view may be different now |
/// | `error` | `null`, or its `kind` ([`RefreshErrorKind`](crate::refresh::RefreshErrorKind) in snake case), its `sqlstate` or `null`, and its `message`, which contains no values of rows |
/// | `failures_in_a_row` | how many times the refresh has failed since it last succeeded, including this failure |
/// | `process` | only if [set](Webhook::process) |
///
/// Later versions may add fields.
///
/// # How the receiver verifies a message
///
/// With a [`secret`](Webhook::secret), messages are signed according to the [Standard Webhooks]
/// specification, for which most languages have libraries:
///
/// - `webhook-id`: the same for all attempts to deliver one message. Delivery is at least once, so
///   receivers recognize repetitions by it.
/// - `webhook-timestamp`: the time of the attempt, in seconds since 1970. Reject timestamps older
///   than five minutes: the message may have been recorded and sent again.
/// - `webhook-signature`: `v1,` and, in base64, the HMAC-SHA256 under the secret of id, timestamp
///   and body, joined by dots. Without a secret, only this header is missing.
///
/// To verify it by hand, use the bytes of the body as they arrived:
///
/// ```
/// use base64::{Engine, engine::general_purpose::STANDARD};
/// use hmac::{Hmac, KeyInit, Mac};
/// use sha2::Sha256;
///
/// fn is_genuine(secret: &[u8], id: &str, timestamp: &str, signature: &str, body: &[u8]) -> bool {
///     let Some(Ok(signature)) = signature.strip_prefix("v1,").map(|text| STANDARD.decode(text))
///     else {
///         return false;
///     };
///     let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length will do");
///     mac.update(format!("{id}.{timestamp}.").as_bytes());
///     mac.update(body);
///     // Compares in constant time. What remains to be done: compare the timestamp with the clock.
///     mac.verify_slice(&signature).is_ok()
/// }
/// # let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
/// # let (id, timestamp) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
/// # let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
/// # assert!(is_genuine(&secret, id, timestamp, signature, br#"{"test": 2432232314}"#));
/// # assert!(!is_genuine(&secret, id, "1614265331", signature, br#"{"test": 2432232314}"#));
/// ```
///
/// # When delivery fails
///
/// A message is delivered when it is answered with a status of 2xx. If there is no connection, no
/// answer within the [`timeout`](Webhook::timeout), or a status of 408, 429 or 5xx, delivery is
/// [retried](Webhook::attempts) after a pause drawn at random from zero to a bound that
/// [doubles](Webhook::backoff) each time. With 429 or 503, a `Retry-After` replaces the pause; if
/// it goes beyond the [`limit`](Webhook::limit), there is no further attempt. Any other status ends
/// delivery at once, also a redirect: the signed message is for the configured address and for no
/// other.
///
/// A message that could not be delivered is lost, and the hook reports a failure with the last
/// reason. Reports and debug output contain only scheme, host and port of the URL, since its path
/// and query may be as secret as a password in it.
///
/// As a `before_refresh` hook, a webhook delays the refresh by up to its `limit`: set a short one.
///
/// The proxies that `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` configure are used.
///
/// [Standard Webhooks]: https://www.standardwebhooks.com
#[derive(Clone)]
pub struct Webhook {
    client: Client,
    url: Url,
    headers: HeaderMap,
    secret: Option<Vec<u8>>,
    process: Option<String>,
    timeout: Duration,
    attempts: u32,
    backoff: (Duration, Duration),
    limit: Duration,
}

impl Webhook {
    /// A webhook that posts to this address. A user name and password in it are sent as basic
    /// authentication.
    ///
    /// # Errors
    ///
    /// If the address is not an absolute URL with `http` or `https`, or TLS cannot be set up, such
    /// as on a system without root certificates.
    pub fn new(url: &str) -> Result<Webhook, WebhookError> {
        // The value is never quoted: it may be a password that was put into the wrong variable.
        let wrong = |why: String| {
            WebhookError::of(
                "url",
                format!("{why}; allowed: an address such as https://example.com/hooks/refresh"),
            )
        };
        let url = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("its scheme is neither http nor https".to_owned()));
        }
        let client = client(Client::builder()).map_err(|error| WebhookError {
            setting: None,
            why: format!("http could not be set up: {}", root(&error)),
        })?;
        Ok(Webhook {
            client,
            url,
            headers: HeaderMap::new(),
            secret: None,
            process: None,
            timeout: Duration::from_secs(5),
            attempts: 5,
            backoff: (Duration::from_millis(500), Duration::from_secs(30)),
            limit: Duration::from_secs(120),
        })
    }

    /// The secret that signs messages: at least 16 random bytes, known only to you and the
    /// receiver. Text of the form `whsec_…`, as libraries for Standard Webhooks generate it, stands
    /// for the bytes that it contains in base64.
    ///
    /// # Default
    ///
    /// None: messages are not signed.
    ///
    /// # Errors
    ///
    /// If the secret is too short, or the text after `whsec_` is not base64.
    pub fn secret(mut self, secret: impl Into<Vec<u8>>) -> Result<Webhook, WebhookError> {
        let wrong = |why: &str| WebhookError::of("secret", why.to_owned());
        let mut secret = secret.into();
        if let Some(text) = secret.strip_prefix(b"whsec_") {
            secret = BASE64.decode(text).map_err(|_| wrong("not base64 after `whsec_`"))?;
        }
        if secret.len() < 16 {
            return Err(wrong("too short; allowed: at least 16 bytes, chosen at random"));
        }
        self.secret = Some(secret);
        Ok(self)
    }

    /// Adds a header, such as `authorization`. If it was added before, its value is replaced. The
    /// headers that a webhook sets itself cannot be replaced.
    ///
    /// # Errors
    ///
    /// If HTTP does not allow the name or the value.
    pub fn header(mut self, name: &str, value: &str) -> Result<Webhook, WebhookError> {
        let wrong = |what| WebhookError::of("header", format!("not a valid {what}"));
        let name = HeaderName::try_from(name).map_err(|_| wrong("name"))?;
        let mut value = HeaderValue::try_from(value).map_err(|_| wrong("value"))?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(self)
    }

    /// The content of the field `process`, such as a host or pod, so that the receiver knows which
    /// process of the fleet has made the refresh.
    ///
    /// # Default
    ///
    /// None: there is no such field.
    #[must_use = "a webhook with this process is returned, the one it was called on is used up"]
    pub fn process(mut self, process: impl Into<String>) -> Webhook {
        self.process = Some(process.into());
        self
    }

    /// How long one attempt may take, from the connection to the status of the answer.
    ///
    /// # Default
    ///
    /// 5 seconds.
    #[must_use = "a webhook with this timeout is returned, the one it was called on is used up"]
    pub fn timeout(mut self, timeout: Duration) -> Webhook {
        self.timeout = timeout.min(LONGEST);
        self
    }

    /// How many attempts are made to deliver one message, including the first. 0 counts as 1.
    ///
    /// # Default
    ///
    /// 5.
    #[must_use = "a webhook with this many attempts is returned, the one it was called on is used up"]
    pub fn attempts(mut self, attempts: u32) -> Webhook {
        self.attempts = attempts.max(1);
        self
    }

    /// The longest pause after the first attempt. It doubles with each further attempt, up to the
    /// cap. A base beyond the cap counts as the cap.
    ///
    /// The pause is drawn at random between zero and that bound, so that many processes do not all
    /// retry at the same time after an outage.
    ///
    /// # Default
    ///
    /// 500 milliseconds, and at most 30 seconds.
    #[must_use = "a webhook with this backoff is returned, the one it was called on is used up"]
    pub fn backoff(mut self, base: Duration, cap: Duration) -> Webhook {
        let cap = cap.min(LONGEST);
        self.backoff = (base.min(cap), cap);
        self
    }

    /// How long all attempts to deliver one message may take, including the pauses between them.
    ///
    /// Later messages about the same view wait for earlier ones. The
    /// [`timeout`](RefreshHook::timeout) of the hook is this limit and a few seconds.
    ///
    /// # Default
    ///
    /// 2 minutes.
    #[must_use = "a webhook with this limit is returned, the one it was called on is used up"]
    pub fn limit(mut self, limit: Duration) -> Webhook {
        self.limit = limit.min(LONGEST);
        self
    }

    /// Makes attempts until one succeeds, or another one would be useless.
    async fn deliver(&self, event: &RefreshEvent) -> Result<(), Undelivered> {
        let message = Message::new(event, self.process.as_deref());
        let deadline = Instant::now() + self.limit;
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut attempts = 1;
        loop {
            let Err(miss) = self.attempt(&message, self.timeout.min(left())).await else {
                return Ok(());
            };
            match self.delay(&miss, attempts, left()) {
                Ok(delay) => sleep(delay).await,
                Err(end) => return Err(Undelivered { to: self.shown(), attempts, miss, end }),
            }
            attempts += 1;
        }
    }

    async fn attempt(&self, message: &Message, time: Duration) -> Result<(), Miss> {
        let headers = message.headers(&self.headers, self.secret.as_deref(), SystemTime::now());
        let request = self.client.post(self.url.clone()).timeout(time).headers(headers);
        match request.body(message.body.clone()).send().await {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => {
                let asked =
                    response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                let retry_after = asked.and_then(|value| retry_after(value, SystemTime::now()));
                Err(Miss::Status { status: response.status(), retry_after })
            }
            Err(error) if error.is_timeout() => Err(Miss::Timeout(time)),
            Err(error) => Err(Miss::Transport(root(&error.without_url()))),
        }
    }

    /// How long to wait after this attempt before the next one, or why there is none.
    fn delay(&self, miss: &Miss, attempt: u32, left: Duration) -> Result<Duration, End> {
        if !miss.may_pass() {
            return Err(End::Final);
        }
        if attempt >= self.attempts {
            return Err(End::Attempts);
        }
        let delay = match miss {
            Miss::Status {
                status: StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE,
                retry_after: Some(asked),
            } => *asked,
            _ => backoff::delay(attempt - 1, self.backoff.0, self.backoff.1),
        };
        // A receiver that asks for a longer pause than that gets no further attempt.
        if delay < left { Ok(delay) } else { Err(End::Limit(self.limit)) }
    }

    /// The address without anything that may be secret.
    fn shown(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("to", &self.shown())
            .field("signed", &self.secret.is_some())
            .field("timeout", &self.timeout)
            .field("attempts", &self.attempts)
            .field("backoff", &self.backoff)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl From<Webhook> for RefreshHook {
    fn from(webhook: Webhook) -> RefreshHook {
        let timeout = webhook.limit + GRACE;
        let hook = RefreshHook::new(format!("webhook {}", webhook.shown()), move |event| {
            let webhook = webhook.clone();
            async move { webhook.deliver(&event).await.map_err(HookError::from) }
        });
        hook.timeout(timeout)
    }
}

fn client(builder: ClientBuilder) -> reqwest::Result<Client> {
    // Refreshes are minutes apart: the receiver would close an idle connection meanwhile.
    builder.redirect(Policy::none()).pool_max_idle_per_host(0).build()
}

/// Parses the header `Retry-After`: seconds, or a point in time.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(value.trim()).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}
