//! [`Refusal`]: an error that Redis replied, and whether it ends the use of the connection.
//!
//! A server can lose its role and keep its connections. New connections to the same address would
//! reach its successor. So some replies make the cache give the connection up: the address is
//! resolved anew, the credentials are asked for anew, and a greeting shows whether the server found
//! there takes writes. The other replies are about one command, and the connection stays.
//!
//! | reply | what it says | who decides |
//! | --- | --- | --- |
//! | `READONLY` | the server was demoted to a replica | every reply |
//! | `LOADING` | it is starting, or it is a replica that loads its master's data | every reply |
//! | `MASTERDOWN` | it is a replica without its master | every reply |
//! | `CLUSTERDOWN` | it is a node that has lost its cluster | every reply |
//! | `NOREPLICAS` | it is a master that has lost its replicas; they may have a new master | every reply |
//! | `MISCONF` | its disk fails, and it takes no writes | every reply |
//! | `UNBLOCKED` | it was demoted while the command waited | every reply |
//! | `REDIRECT` | it was demoted and names its successor (Valkey 8) | every reply |
//! | `NOAUTH`, `WRONGPASS` | the connection is no longer authenticated | every reply |
//! | `MOVED`, `ASK` | another node has the directory | the beat |
//! | `NOPERM` | the user has lost a right; the next credentials may name another user | the beat |
//! | `OOM` | memory is full; entries are still read | nobody |
//! | `BUSY`, `TRYAGAIN`, `NOSCRIPT`, `WRONGTYPE`, `CROSSSLOT`, `EXECABORT`, `ERR` and all others | this command failed | nobody |
//!
//! After the replies of the first group no beat succeeds, so nothing is served from Redis anyway and
//! nothing is lost with the connection. The beat decides about `MOVED` and `NOPERM`, because there an
//! optional command or one entry may be refused while all others are answered.

use std::fmt;

use redis::{ErrorKind, RedisError, Value};

/// The replies that end the use of a connection, whatever was asked.
const EVERY: [&str; 10] = [
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "NOREPLICAS",
    "MISCONF",
    "UNBLOCKED",
    "REDIRECT",
    "NOAUTH",
    "WRONGPASS",
];
/// The replies to a beat that do so as well.
const BEAT: [&str; 3] = ["MOVED", "ASK", "NOPERM"];
/// The replies that refuse the user or the password.
const CREDENTIALS: [&str; 2] = ["NOAUTH", "WRONGPASS"];

/// What a command is sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Beat,
    Other,
}

/// Whether the connection that this error came on is to be given up.
pub(super) fn ends_connection(error: &RedisError, purpose: Purpose) -> bool {
    let code = code(error);
    EVERY.contains(&code) || (purpose == Purpose::Beat && BEAT.contains(&code))
}

/// The first reply that ends the use of the connection, as an error.
pub(super) fn check(replies: &[Value]) -> Result<(), RedisError> {
    for reply in replies {
        if let Value::ServerError(error) = reply {
            let error = RedisError::from(error.clone());
            if ends_connection(&error, Purpose::Other) {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// The code of a reply, of the command that failed if it failed in a script.
fn code(error: &RedisError) -> &str {
    let code = error.code().unwrap_or_default();
    let detail = error.detail().unwrap_or_default();
    if code != "ERR" {
        return code;
    }
    // A missing right has no code there: up to Redis 7.0 `The user executing the script can't run
    // this command or subcommand`, later `ACL failure in script: User app has no permissions …`.
    if detail.contains("The user executing the script can't")
        || detail.starts_with("ACL failure in script")
    {
        return "NOPERM";
    }
    // Redis 6.2 replies `ERR Error running script (call to f_…): @user_script:12: -READONLY …`.
    if detail.starts_with("Error running script") {
        let inner = detail.split_once(": -").and_then(|(_, rest)| rest.split(' ').next());
        return inner.unwrap_or(code);
    }
    code
}

/// An error that Redis replied. It shows the reply, and never a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    reply: String,
    kind: RefusalKind,
    /// ACL rules, if they are known.
    lacks: Vec<String>,
}

/// What is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    /// The user or the password.
    Credentials,
    /// The user lacks a right.
    Rights,
    /// The server cannot serve, or does not know the command.
    Server,
}

impl RefusalKind {
    fn of(error: &RedisError) -> RefusalKind {
        match code(error) {
            "NOPERM" => RefusalKind::Rights,
            code if CREDENTIALS.contains(&code) => RefusalKind::Credentials,
            _ if error.kind() == ErrorKind::AuthenticationFailed => RefusalKind::Credentials,
            _ => RefusalKind::Server,
        }
    }
}

impl Refusal {
    /// `None` if the error is not a reply of the server.
    pub(super) fn of(error: &RedisError, secrets: &[&str]) -> Option<Refusal> {
        let is_reply = matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension);
        let authentication = error.kind() == ErrorKind::AuthenticationFailed;
        (is_reply || authentication)
            .then(|| Refusal::new(words(error, secrets), RefusalKind::of(error)))
    }

    fn new(reply: String, kind: RefusalKind) -> Refusal {
        Refusal { reply, kind, lacks: vec![] }
    }

    /// Names the ACL rules that the user lacks.
    pub(super) fn lacking(self, lacks: Vec<String>) -> Refusal {
        Refusal { lacks, ..self }
    }

    /// The ACL rules that the user lacks, if they are known.
    pub(crate) fn lacks(&self) -> &[String] {
        &self.lacks
    }

    pub(crate) fn kind(&self) -> RefusalKind {
        self.kind
    }

    /// Whether another user or password may be accepted.
    pub(super) fn is_of_credentials(&self) -> bool {
        self.kind != RefusalKind::Server
    }

    /// The reply to the authentication itself.
    pub(super) fn of_authentication(error: &RedisError, secrets: &[&str]) -> Refusal {
        let kind = match RefusalKind::of(error) {
            RefusalKind::Server if EVERY.contains(&code(error)) => RefusalKind::Server,
            RefusalKind::Server => RefusalKind::Credentials,
            kind => kind,
        };
        Refusal::new(words(error, secrets), kind)
    }
}

/// The reply in the server's own words. A server that does not know a command may repeat its
/// arguments, of which one can be the password; then only the code is shown.
fn words(error: &RedisError, secrets: &[&str]) -> String {
    let shown_by =
        |text: &str| secrets.iter().any(|secret| !secret.is_empty() && text.contains(secret));
    let is_code = |code: &&str| code.bytes().all(|byte| byte.is_ascii_uppercase());
    let code = error.code().filter(is_code).filter(|code| !shown_by(code)).unwrap_or("an error");
    let text = match error.detail() {
        Some(detail) => format!("{code} {detail}"),
        None if error.code().is_some() => return code.to_owned(),
        None => error.to_string(),
    };
    let repeats = text.to_ascii_lowercase().contains("unknown command");
    if repeats || shown_by(&text) { code.to_owned() } else { text }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reply)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error that the client library makes of a reply.
    fn reply(line: &str) -> RedisError {
        let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        value.extract_error().unwrap_err()
    }

    #[test]
    fn a_reply_of_a_server_that_cannot_serve_ends_the_connection() {
        for code in EVERY {
            let error = reply(&format!("{code} what the server says"));
            assert!(ends_connection(&error, Purpose::Other), "{code}");
            assert!(ends_connection(&error, Purpose::Beat), "{code}");
        }
        for code in BEAT {
            let error = reply(&format!("{code} 3999 127.0.0.1:6381"));
            assert!(!ends_connection(&error, Purpose::Other), "{code}");
            assert!(ends_connection(&error, Purpose::Beat), "{code}");
        }
    }

    #[test]
    fn a_reply_about_one_command_keeps_the_connection() {
        for line in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "BUSY Redis is busy running a script.",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "NOSCRIPT No matching script.",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "CROSSSLOT Keys in request don't hash to the same slot",
            "ERR unknown command 'ZMSCORE'",
            "ERR the word READONLY alone",
        ] {
            let error = reply(line);
            assert!(!ends_connection(&error, Purpose::Beat), "{line}");
        }
    }

    #[test]
    fn the_error_of_a_command_in_a_script_counts_in_every_version() {
        let seven = "READONLY You can't write against a read only replica. script: 5f, on \
                     @user_script:33.";
        let six = "ERR Error running script (call to f_5f): @user_script:33: @user_script: 33: \
                   -READONLY You can't write against a read only replica.";
        assert!(ends_connection(&reply(seven), Purpose::Other));
        assert!(ends_connection(&reply(six), Purpose::Other));
        let later = "ERR ACL failure in script: User app has no permissions to run the 'persist' \
                     command script: 5f, on @user_script:33.";
        let six = "ERR Error running script (call to f_5f): @user_script:33: The user executing \
                   the script can't run this command or subcommand";
        let seven = "ERR The user executing the script can't access at least one of the keys \
                     mentioned in the command arguments script: 5f, on @user_script:1.";
        for line in [later, seven, six] {
            assert!(ends_connection(&reply(line), Purpose::Beat), "{line}");
            assert_eq!(RefusalKind::of(&reply(line)), RefusalKind::Rights, "{line}");
        }
    }

    #[test]
    fn one_reply_of_a_pipeline_is_enough() {
        let loading = redis::parse_redis_value(b"-LOADING Redis is loading\r\n").unwrap();
        let oom = redis::parse_redis_value(b"-OOM command not allowed\r\n").unwrap();
        assert!(check(&[Value::Nil, oom.clone()]).is_ok());
        assert!(check(&[Value::Nil, oom, loading]).is_err());
    }

    #[test]
    fn a_reply_that_repeats_the_password_is_not_shown() {
        let secrets = ["hunter2"];
        let shown = |line: &str| Refusal::of_authentication(&reply(line), &secrets).to_string();
        let wrong = "WRONGPASS invalid username-password pair or user is disabled.";
        assert_eq!(shown(wrong), wrong);
        assert_eq!(
            shown("ERR unknown command 'AUTH', with args beginning with: 'app' 'hunt"),
            "ERR"
        );
        assert_eq!(shown("DENIED for hunter2"), "DENIED");
        assert!(!shown("hunter2").contains("hunter2"));
        assert!(!shown("hunter2 hunter2").contains("hunter2"));
    }

    #[test]
    fn credentials_are_named_as_the_reason_only_where_they_are() {
        let is = |line: &str| Refusal::of(&reply(line), &[]).unwrap().is_of_credentials();
        assert!(is("NOAUTH Authentication required."));
        assert!(is("WRONGPASS invalid username-password pair or user is disabled."));
        assert!(is("NOPERM User app has no permissions to run the 'persist' command"));
        assert!(!is("READONLY You can't write against a read only replica."));
        let at_auth =
            |line: &str| Refusal::of_authentication(&reply(line), &[]).is_of_credentials();
        assert!(at_auth("ERR AUTH <password> called without any password configured"));
        assert!(!at_auth("LOADING Redis is loading the dataset in memory"));
        assert!(Refusal::of(&std::io::Error::other("broken").into(), &[]).is_none());
    }
}
