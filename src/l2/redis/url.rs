//! [`connection_info`]: what a URL says about a Redis, and [`WrongUrl`]: why it says nothing.
//!
//! The client library reads URLs leniently: it passes over parameters that it does not know, and takes
//! what comes after an unescaped `/`, `?` or `#` of a password for a part of the address. What it would
//! misread is refused here instead, by an error that shows no part of a password.

use std::borrow::Cow;

use redis::io::tcp::TcpSettings;
use redis::{ConnectionInfo, IntoConnectionInfo};

/// Why a URL is not one of a Redis. It shows no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WrongUrl {
    Malformed,
    /// The URL demands TLS, which this build does not have.
    NeedsTls,
    /// The client library would take this for a wish not to verify certificates.
    Unverified,
    /// A fragment: most likely the rest of a password.
    Fragment,
    /// A `%` without two hexadecimal digits.
    Percent,
    /// The database is no number, or two different ones.
    Database,
    /// A parameter that there is not, or whose value is not allowed. `None` if it may be a part of the
    /// password.
    Parameter {
        name: Option<String>,
        known: &'static str,
    },
}

/// The parameters of a URL with a host, and those of a socket.
const OF_HOST: &str = "`db` and `protocol`";
const OF_SOCKET: &str = "`db`, `user`, `pass` and `protocol`";

impl WrongUrl {
    /// The URLs that are allowed.
    pub(crate) fn allowed(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            WrongUrl::Malformed => {
                "redis://[user:password@]host[:port][/database] or unix:///path/to.sock; write `@` \
                 in a user or password as %40, `/` as %2F, `?` as %3F, `#` as %23 and `%` as %25"
            }
            WrongUrl::Unverified => {
                "a URL without `#insecure`: certificates are always verified; give a private \
                 authority with `redis_tls`"
            }
            WrongUrl::NeedsTls => {
                "redis://, valkey:// or unix://, since larder was built without its feature `tls`; \
                 rediss:// and valkeys:// need that feature"
            }
            WrongUrl::Fragment => "a URL without `#`; write it in a user or password as %23",
            WrongUrl::Percent => {
                "`%` only before two hexadecimal digits; write it in a user or password as %25"
            }
            WrongUrl::Database => {
                "one database, a number from 0: as `/3` after the host, or as the parameter `db=3`"
            }
            WrongUrl::Parameter { name: Some(name), known } => {
                return Cow::Owned(format!(
                    "a URL without the parameter `{name}`, or with another value of it; the \
                     parameters are {known}, where `protocol` is 2 or 3"
                ));
            }
            WrongUrl::Parameter { name: None, known } => {
                return Cow::Owned(format!(
                    "a URL without further parameters; they are {known}; write `&` in a password as \
                     %26"
                ));
            }
        })
    }
}

pub(super) fn connection_info(url: &str) -> Result<ConnectionInfo, WrongUrl> {
    let parts = Parts::of(url).ok_or(WrongUrl::Malformed)?;
    if parts.is_tls && cfg!(not(feature = "tls")) {
        return Err(WrongUrl::NeedsTls);
    }
    if parts.is_misread {
        return Err(WrongUrl::Malformed);
    }
    let parsed = redis::parse_redis_url(url).ok_or(WrongUrl::Malformed)?;
    match parsed.fragment() {
        Some("insecure") if parts.is_tls => return Err(WrongUrl::Unverified),
        // It asks for nothing where there are no certificates.
        Some("insecure") | None => {}
        Some(_) => return Err(WrongUrl::Fragment),
    }
    if has_bare_percent(url) {
        return Err(WrongUrl::Percent);
    }
    let is_unix = parts.is_unix;
    let named = database(parsed.query_pairs(), is_unix)?;
    let path = parsed.path().trim_matches('/');
    let path = (!is_unix && !path.is_empty()).then(|| number(path)).transpose()?;
    if let (Some(one), Some(other)) = (path, named)
        && one != other
    {
        return Err(WrongUrl::Database);
    }
    let info = url.into_connection_info().map_err(|_| WrongUrl::Malformed)?;
    #[cfg(feature = "tls")]
    if parts.is_tls {
        super::tls::prepare();
    }
    // Otherwise small commands would wait for the reply to earlier ones (Nagle's algorithm).
    let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
    // The client library's name, for lists of clients, is not sent: it would need one more
    // permission, servers before 7.2 do not know the command, and a refusal adds a line to the
    // server's log.
    let settings = info.redis_settings().clone().set_skip_set_lib_name();
    Ok(info.set_redis_settings(settings.set_db(path.or(named).unwrap_or(0))))
}

/// The database that the parameters name. An error if there is a parameter which is not one of a
/// Redis.
fn database<'a>(
    parameters: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>,
    is_unix: bool,
) -> Result<Option<i64>, WrongUrl> {
    let known = if is_unix { OF_SOCKET } else { OF_HOST };
    let (mut database, mut after_password) = (None, false);
    for (name, value) in parameters {
        match &*name {
            "db" => database = Some(number(&value)?),
            "protocol" if matches!(&*value, "2" | "3" | "resp2" | "resp3") => {}
            "user" if is_unix => {}
            "pass" if is_unix => after_password = true,
            _ => {
                let is_word = (1..=32).contains(&name.len())
                    && name.bytes().all(|byte| byte.is_ascii_lowercase() || b"_-".contains(&byte));
                let name = (is_word && !after_password && !value.is_empty()).then(|| name.into());
                return Err(WrongUrl::Parameter { name, known });
            }
        }
    }
    Ok(database)
}

fn number(text: &str) -> Result<i64, WrongUrl> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten().ok_or(WrongUrl::Database)
}

fn has_bare_percent(url: &str) -> bool {
    let is_code = |rest: &str| rest.bytes().take_while(u8::is_ascii_hexdigit).take(2).count() == 2;
    url.split('%').skip(1).any(|rest| !is_code(rest))
}

/// What a URL shows without its credentials.
struct Parts {
    shown: String,
    is_tls: bool,
    is_unix: bool,
    /// An `@` comes after what was read as host, port and database. So a password with an unescaped
    /// `/`, `?` or `#` was read as these, and none of them may be shown.
    is_misread: bool,
}

impl Parts {
    /// `None` if the URL is none of a Redis.
    fn of(url: &str) -> Option<Parts> {
        let url = redis::parse_redis_url(url)?;
        let scheme = url.scheme();
        let is_unix = scheme.ends_with("unix");
        let rest = [Some(url.path()), url.query(), url.fragment()];
        let has_at = rest.into_iter().flatten().any(|part| part.contains('@'));
        // The path of a socket may contain an `@`. Its credentials are in the query.
        let is_misread = if is_unix { url.host_str().is_some() } else { has_at };
        let is_anonymous = url.username().is_empty() && url.password().is_none();
        let credentials = if is_anonymous { "" } else { "***@" };
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let shown = if is_misread || (!is_unix && host.is_empty()) {
            format!("{scheme}://***")
        } else {
            format!("{scheme}://{credentials}{host}{port}{}", url.path())
        };
        let is_tls = matches!(scheme, "rediss" | "valkeys");
        Some(Parts { shown, is_tls, is_unix, is_misread })
    }
}

/// A URL without its credentials, for messages. Of a URL that is none of a Redis, only the scheme is
/// shown, since its password may be anywhere.
pub(crate) fn without_credentials(url: &str) -> String {
    if let Some(parts) = Parts::of(url) {
        return parts.shown;
    }
    let is_scheme = |scheme: &&str| {
        (1..=20).contains(&scheme.len())
            && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || b"+-".contains(&byte))
    };
    match url.split_once("://").map(|(scheme, _)| scheme).filter(is_scheme) {
        Some(scheme) => format!("{scheme}://***"),
        None if url.is_empty() => String::new(),
        None => "***".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use redis::{ConnectionAddr, ProtocolVersion};

    use super::*;

    /// Each way in which a URL carries a password that the client library reads.
    const CARRIED: [&str; 14] = [
        "redis://:hunter2@localhost",
        "redis://app:hunter2@localhost:6379/3",
        "redis://app:hunter2@[::1]:6379/?protocol=resp3",
        "redis://app:hunter2@localhost#insecure",
        "redis://app:h@hunter2@localhost",
        "redis://app:%40hunter2@localhost",
        " REDIS://app:hunter2@localhost ",
        "redis:app:hunter2@localhost",
        "valkey://app:hunter2@localhost",
        "unix:///run/redis.sock?pass=hunter2",
        "unix:///run/redis@1.sock?db=3&user=app&pass=hunter2",
        "unix:/run/redis.sock?user=app&pass=hunter2",
        "redis+unix:///run/redis.sock?pass=a%26hunter2",
        "redis://app:hunter2@localhost?db=3&protocol=2",
    ];

    /// URLs that are misread or not read at all.
    const WRONG: [&str; 14] = [
        "redis://:hunter2",
        "redis://:hunter2@",
        "redis://app:12/hunter2@localhost",
        "redis://app:12?hunter2@localhost",
        "redis://app:12#hunter2@localhost",
        "redis://app:h/hunter2@localhost",
        "redis://app:h#hunter2@localhost",
        "redis://hunter2/x@localhost",
        "redis://app:hunter2@ho st:port",
        "redis://app:hunter2@localhost:port",
        "unix://app:hunter2@/run/redis.sock",
        "unix:run.sock?pass=hunter2",
        "http://app:hunter2@localhost",
        "redis://app:hunter2@0.0.0.0",
    ];

    /// URLs that are read, and would not be followed.
    const PASSED_OVER: [(&str, &str); 14] = [
        ("redis://app:h%unter2@localhost", "as %25"),
        ("redis://app:hunter2%@localhost", "as %25"),
        ("unix:///run/redis.sock?pass=h%unter2", "as %25"),
        ("redis://app:hunter2@localhost#x", "as %23"),
        ("unix:///run/redis.sock?pass=a#hunter2", "as %23"),
        ("valkey+unix:///run/redis.sock?pass=a&hunter2", "as %26"),
        ("valkey+unix:///run/redis.sock?pass=a&hunter2=x", "as %26"),
        ("redis://app:hunter2@localhost/first", "`/3` after the host"),
        ("redis://app:hunter2@localhost/-1", "`/3` after the host"),
        ("redis://app:hunter2@localhost/3?db=4", "one database"),
        ("unix:///run/redis.sock?db=first&pass=hunter2", "`db=3`"),
        ("redis://localhost?password=hunter2", "the parameter `password`"),
        ("unix:///run/redis.sock?timeout=5&pass=hunter2", "the parameter `timeout`"),
        ("redis://app:hunter2@localhost?protocol=4", "`protocol` is 2 or 3"),
    ];

    #[test]
    fn no_form_of_url_shows_its_password() {
        let passed_over = PASSED_OVER.map(|(url, _)| url);
        for url in CARRIED.into_iter().chain(WRONG).chain(passed_over).chain(["hunter2"]) {
            let shown = without_credentials(url);
            assert!(!shown.contains("hunter2"), "{shown}");
            match connection_info(url) {
                Ok(info) => assert!(!info.addr().to_string().contains("hunter2"), "{url}"),
                Err(wrong) => {
                    let allowed = wrong.allowed();
                    assert!(
                        !format!("{wrong:?} {allowed}").contains("hunter2"),
                        "{url}: {allowed}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_url_that_would_be_misread_is_refused_and_says_how_to_write_it() {
        for url in WRONG {
            assert_eq!(connection_info(url).err(), Some(WrongUrl::Malformed), "{url}");
        }
        for escape in ["`@`", "%40", "`/`", "%2F", "`#`", "%23", "`%`", "%25"] {
            assert!(WrongUrl::Malformed.allowed().contains(escape), "{escape}");
        }
        for (url, advice) in PASSED_OVER {
            let wrong = connection_info(url).err().unwrap_or_else(|| panic!("{url} is accepted"));
            assert!(wrong.allowed().contains(advice), "{url}: {}", wrong.allowed());
        }
    }

    #[test]
    fn every_form_of_url_is_read_as_it_is_meant() {
        let read = |url: &str| {
            let info = connection_info(url).unwrap_or_else(|wrong| panic!("{url}: {wrong:?}"));
            let it = info.redis_settings();
            let login = (it.username().map(str::to_owned), it.password().map(str::to_owned));
            (info.addr().to_string(), it.db(), login)
        };
        let nobody = (None, None);
        let app = |password: &str| (Some("app".to_owned()), Some(password.to_owned()));
        for (url, address, database, login) in [
            ("redis://localhost", "localhost:6379", 0, nobody.clone()),
            ("redis://localhost:7000/", "localhost:7000", 0, nobody.clone()),
            ("redis://localhost/3", "localhost:6379", 3, nobody.clone()),
            ("redis://localhost?db=3", "localhost:6379", 3, nobody.clone()),
            ("valkey://localhost/3?db=3", "localhost:6379", 3, nobody.clone()),
            ("redis://:pw@[::1]:7000", "::1:7000", 0, (None, Some("pw".to_owned()))),
            ("redis://app:p%2Fw%23%40%25@h", "h:6379", 0, app("p/w#@%")),
            ("redis://app:p@w@h", "h:6379", 0, app("p@w")),
            ("redis://app@h", "h:6379", 0, (Some("app".to_owned()), None)),
            ("unix:///run/r.sock", "/run/r.sock", 0, nobody.clone()),
            ("redis+unix:///run/r.sock?db=3", "/run/r.sock", 3, nobody),
            ("valkey+unix:///r.sock?user=app&pass=p%26%2B%25", "/r.sock", 0, app("p&+%")),
        ] {
            assert_eq!(read(url), (address.to_owned(), database, login), "{url}");
        }
        for (url, protocol) in [
            ("redis://localhost?protocol=resp3", ProtocolVersion::RESP3),
            ("redis://localhost?protocol=3", ProtocolVersion::RESP3),
            ("unix:///r.sock?protocol=2", ProtocolVersion::RESP2),
            ("redis://localhost", ProtocolVersion::RESP2),
        ] {
            let info = connection_info(url).unwrap();
            assert_eq!(info.redis_settings().protocol(), protocol, "{url}");
        }
    }

    #[test]
    fn a_url_keeps_what_is_no_secret() {
        for (url, shown) in [
            ("redis://localhost", "redis://localhost"),
            ("redis://app:x@localhost:6379/3", "redis://***@localhost:6379/3"),
            ("unix:///run/redis@1.sock?pass=x", "unix:///run/redis@1.sock"),
            ("http://localhost", "http://***"),
            ("localhost:6379", "***"),
            ("", ""),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }

    #[test]
    fn a_url_with_tls_works_or_names_the_feature() {
        for url in ["rediss://localhost", "valkeys://localhost:6380/1", "REDISS://localhost"] {
            let info = connection_info(url);
            if cfg!(feature = "tls") {
                let info = info.unwrap_or_else(|wrong| panic!("{url}: {wrong:?}"));
                let address = info.addr();
                assert!(matches!(address, ConnectionAddr::TcpTls { .. }), "{address}");
                let unverified = connection_info(&format!("{url}#insecure")).err();
                assert_eq!(unverified, Some(WrongUrl::Unverified));
                let fragment = connection_info(&format!("{url}#secure")).err();
                assert_eq!(fragment, Some(WrongUrl::Fragment));
            } else {
                assert_eq!(info.err(), Some(WrongUrl::NeedsTls));
                assert!(WrongUrl::NeedsTls.allowed().contains("feature `tls`"));
            }
        }
    }
}
