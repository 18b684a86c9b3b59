//! The settings of a connection string: which the driver knows, which are translated, which change
//! nothing here, and which are refused.

use std::path::PathBuf;

use super::words::Word;
use crate::failure::Failure;
use crate::tls;

pub(super) const UNKNOWN: &str = "a setting is unknown, or a password holds a space, `&` or `=`";

/// Settings that the driver reads itself.
const OF_THE_DRIVER: &[&str] = &[
    "user",
    "password",
    "dbname",
    "application_name",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "channel_binding",
    "load_balance_hosts",
];

/// Settings that change nothing that the command does.
const WITHOUT_EFFECT: &[&str] = &[
    "gssdelegation",
    "gsslib",
    "krbsrvname",
    "sslcertmode",
    "sslcompression",
    "sslsni",
    "uselibpqcompat",
];

/// Settings of other drivers and of pools.
const OF_OTHERS: &[&str] = &[
    "connection_limit",
    "max_connections",
    "max_idle_connection_lifetime",
    "maximum_pool_size",
    "pool_size",
    "pool_timeout",
    "prepared_statements",
    "preparedStatements",
    "prepareThreshold",
    "single_use_connections",
    "socket_timeout",
    "sslaccept",
    "statement_cache_capacity",
    "statement_cache_size",
];

/// Settings of PostgreSQL that some drivers take from the connection string.
const OF_THE_SERVER: &[&str] = &[
    "idle_in_transaction_session_timeout",
    "lock_timeout",
    "search_path",
    "statement_timeout",
    "timezone",
];

/// Settings that are refused, and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    ("oauth_client_id", "OAuth is not supported"),
    ("oauth_issuer", "OAuth is not supported"),
    ("replication", "the command needs an ordinary connection; leave it out"),
    ("require_auth", "it cannot be enforced; leave it out, and use sslmode=verify-full"),
    ("requirepeer", "it cannot be enforced; leave it out"),
    ("requiressl", "write sslmode=require"),
    ("scram_client_key", "give the password"),
    ("scram_server_key", "give the password"),
    ("service", "service files are not read; write what the service says as settings"),
    ("servicefile", "service files are not read; write what the service says as settings"),
    ("sslcrl", "revoked certificates are not looked up; leave it out"),
    ("sslcrldir", "revoked certificates are not looked up; leave it out"),
    ("sslidentity", "write sslcert and sslkey, as PEM files"),
    ("sslpassword", "the file of sslkey must not be encrypted"),
];

/// What a connection string says.
#[derive(Default)]
pub(super) struct Settings {
    /// For the driver.
    pub(super) words: Vec<Word>,
    pub(super) tls: tls::Files,
    pub(super) passfile: Option<PathBuf>,
    pub(super) remarks: Vec<String>,
    options: Vec<String>,
    sslmode: Option<&'static str>,
    fallback_name: Option<String>,
}

impl Settings {
    pub(super) fn of(words: Vec<Word>) -> Result<Settings, Failure> {
        let mut settings = Settings::default();
        for (name, value) in words {
            settings.add(name, value)?;
        }
        settings.finish()
    }

    fn add(&mut self, name: String, value: String) -> Result<(), Failure> {
        let refuse = |advice: &str| {
            Err(Failure::usage(format!("--postgres: the setting {name} is refused: {advice}")))
        };
        match name.as_str() {
            "options" => self.options.insert(0, value),
            "sslmode" => match value.as_str() {
                "disable" => self.sslmode = Some("disable"),
                "allow" | "prefer" => self.sslmode = Some("prefer"),
                // The certificate is checked, and its name: what libpq calls verify-full.
                "require" | "verify-full" => self.sslmode = Some("require"),
                "verify-ca" => {
                    self.sslmode = Some("require");
                    self.remark("sslmode=verify-ca checks the name of the server as well");
                }
                _ => {
                    return refuse(
                        "write disable, allow, prefer, require, verify-ca or verify-full",
                    );
                }
            },
            "ssl" => match value.as_str() {
                "true" | "1" | "on" | "require" => self.sslmode = self.sslmode.or(Some("require")),
                "false" | "0" | "off" | "disable" => {
                    self.sslmode = self.sslmode.or(Some("disable"))
                }
                _ => return refuse("write sslmode instead"),
            },
            "sslrootcert" if value == "system" => self.sslmode = self.sslmode.or(Some("require")),
            "sslrootcert" => self.tls.authorities = Some(value.into()),
            "sslcert" => self.tls.certificate = Some(value.into()),
            "sslkey" => self.tls.key = Some(value.into()),
            "ssl_min_protocol_version" if ["TLSv1", "TLSv1.1", "TLSv1.2"].contains(&&*value) => {}
            "ssl_min_protocol_version" => return refuse("it is TLSv1.2, and cannot be more"),
            "ssl_max_protocol_version" if ["TLSv1.3", ""].contains(&&*value) => {}
            "ssl_max_protocol_version" => return refuse("it is TLSv1.3; leave it out"),
            "target_session_attrs" => {
                let attrs = match value.as_str() {
                    "any" | "read-write" | "read-only" => value,
                    "primary" => "read-write".to_owned(),
                    "standby" => "read-only".to_owned(),
                    "prefer-standby" => "any".to_owned(),
                    _ => {
                        return refuse(
                            "write any, read-write, read-only, primary, standby or prefer-standby",
                        );
                    }
                };
                self.words.push((name, attrs));
            }
            "keepalives_count" => self.words.push(("keepalives_retries".to_owned(), value)),
            "fallback_application_name" => self.fallback_name = Some(value),
            "client_encoding" => {
                let encoding = value.replace('-', "").to_ascii_lowercase();
                if !["utf8", "auto", "unicode"].contains(&encoding.as_str()) {
                    return refuse("it must be UTF8; leave it out");
                }
            }
            "gssencmode" if value == "require" => return refuse("GSSAPI is not supported"),
            "gssencmode" => {}
            "passfile" => self.passfile = Some(value.into()),
            "schema" if value == "public" => {}
            "schema" => {
                self.set("search_path", &format!("\"{}\"", value.replace('"', "\"\"")));
                self.remark("schema is read as the search_path");
            }
            "pgbouncer" => self.remark(
                "pgbouncer changes nothing: the command finds out by itself whether a pooler is in \
                 between",
            ),
            known if OF_THE_SERVER.contains(&known) => self.set(known, &value),
            known if OF_THE_DRIVER.contains(&known) => self.words.push((name, value)),
            known if WITHOUT_EFFECT.contains(&known) => {}
            known if OF_OTHERS.contains(&known) => {
                self.remark(&format!("{known} is of another program, and changes nothing here"));
            }
            other => {
                return match REFUSED.iter().find(|(refused, _)| *refused == other) {
                    Some((_, advice)) => refuse(advice),
                    None => Err(Failure::usage(format!(
                        "--postgres does not read as a connection string: {UNKNOWN}"
                    ))),
                };
            }
        }
        Ok(())
    }

    /// A setting of PostgreSQL for each connection. In `options`, a backslash quotes a blank.
    fn set(&mut self, name: &str, value: &str) {
        let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
        self.options.push(format!("-c{name}={value}"));
    }

    fn remark(&mut self, remark: &str) {
        self.remarks.push(remark.to_owned());
    }

    fn finish(mut self) -> Result<Settings, Failure> {
        let tls::Files { certificate, key, .. } = &self.tls;
        for (given, name, missing) in [(certificate, "sslcert", key), (key, "sslkey", certificate)]
            .map(|(it, name, other)| (it.is_some(), name, other.is_none()))
        {
            if given && missing {
                let other = if name == "sslcert" { "sslkey" } else { "sslcert" };
                return Err(Failure::usage(format!(
                    "--postgres: {name} is given without {other}: a client certificate needs both"
                )));
            }
        }
        if let Some(mode) = self.sslmode {
            self.words.push(("sslmode".to_owned(), mode.to_owned()));
        }
        if !self.options.is_empty() {
            self.words.push(("options".to_owned(), self.options.join(" ")));
        }
        let is_named = self.words.iter().any(|(name, _)| name == "application_name");
        if let Some(name) = self.fallback_name.take().filter(|_| !is_named) {
            self.words.push(("application_name".to_owned(), name));
        }
        Ok(self)
    }
}
