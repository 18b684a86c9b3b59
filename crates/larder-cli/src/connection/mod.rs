//! [`Postgres`]: a connection string of PostgreSQL, as libpq, other drivers and frameworks write it.
//!
//! A message about it never shows any of its text but the names of settings: it may hold a password
//! anywhere.

mod passfile;
mod settings;
mod words;

use std::fmt;
use std::path::PathBuf;

use deadpool_postgres::{ConfigConnectImpl, Connect, Manager, ManagerConfig, RecyclingMethod};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use self::settings::Settings;
use crate::failure::Failure;
use crate::tls;

/// Where PostgreSQL is, and how to connect to it.
#[derive(Debug)]
pub(super) struct Postgres {
    pub(super) config: Config,
    pub(super) tls: tls::Files,
    passfile: Option<PathBuf>,
    /// What is understood in another way than it may be meant.
    pub(super) remarks: Vec<String>,
}

impl Postgres {
    /// Reads a connection string.
    pub(super) fn read(given: &str) -> Result<Postgres, Failure> {
        if is_misread(given) {
            return Err(Failure::usage(
                "--postgres holds a `@` after the one that ends the password, so that the rest of \
                 the password would be taken for the host; write `@` in a user or password as %40, \
                 `/` as %2F, `?` as %3F, `#` as %23 and `%` as %25",
            ));
        }
        // What cannot be taken apart is left to the driver, whose error says what is missing.
        let (text, settings) = match words::split(given) {
            None => (given.to_owned(), Settings::default()),
            Some((form, words)) => {
                let settings = Settings::of(words)?;
                (words::join(&form, &settings.words), settings)
            }
        };
        let config: Config = text.parse().map_err(|error: Error| {
            Failure::usage(format!(
                "--postgres does not read as a connection string: {}; it is \
                 postgres://user:password@host/database, or words like \"host=/run/postgresql \
                 dbname=shop\"",
                reason(&error)
            ))
        })?;
        if let Some(path) = &settings.passfile {
            passfile::check(path)?;
        }
        let Settings { tls, passfile, remarks, .. } = settings;
        Ok(Postgres { config, tls, passfile, remarks })
    }

    /// Prints the remarks.
    pub(super) fn print_remarks(&self) {
        for remark in &self.remarks {
            anstream::eprintln!("\x1b[1mnote:\x1b[0m --postgres: {remark}");
        }
    }

    /// How connections are encrypted; `None` if they are not. By `prefer`, the default, libpq takes a
    /// certificate that nobody has checked. We take none then, unless an authority is named.
    pub(super) fn connector(&self) -> Result<Option<MakeRustlsConnect>, Failure> {
        let is_socket = matches!(self.config.get_hosts().first(), Some(Host::Unix(_)));
        let wanted = match self.config.get_ssl_mode() {
            SslMode::Require => true,
            SslMode::Prefer => !self.tls.is_empty(),
            _ => false,
        };
        if !wanted || is_socket {
            return Ok(None);
        }
        let connector = tls::connector(&self.tls);
        connector.map(Some).map_err(|error| Failure::usage(format!("--postgres: {error}")))
    }

    /// What a pool makes its connections with. A password file is read for each of them.
    pub(super) fn manager(&self, tls: Option<MakeRustlsConnect>) -> Manager {
        let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        Manager::from_connect(self.config.clone(), self.connect(tls), config)
    }

    fn connect(&self, tls: Option<MakeRustlsConnect>) -> WithPassfile {
        let connect: Box<dyn Connect> = match tls {
            Some(tls) => Box::new(ConfigConnectImpl { tls }),
            None => Box::new(ConfigConnectImpl { tls: NoTls }),
        };
        WithPassfile { connect, path: self.passfile.clone() }
    }

    /// The servers, in the order in which they are tried.
    pub(super) fn places(&self) -> Vec<Place> {
        let (hosts, addresses) = (self.config.get_hosts(), self.config.get_hostaddrs());
        let ports = self.config.get_ports();
        let place = |at: usize| {
            let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
            match (hosts.get(at), addresses.get(at)) {
                #[cfg(unix)]
                (Some(Host::Unix(path)), _) => Place::Socket(path.display().to_string()),
                (Some(Host::Tcp(name)), _) => Place::Tcp(name.clone(), port),
                (None, Some(address)) => Place::Tcp(address.to_string(), port),
                (None, None) => unreachable!("it is one of them"),
            }
        };
        (0..hosts.len().max(addresses.len())).map(place).collect()
    }

    /// One connection, whose end is nobody's concern.
    pub(super) async fn client(&self) -> Result<Result<Client, Error>, Failure> {
        let connect = self.connect(self.connector()?);
        Ok(connect.connect(&self.config).await.map(|(client, _)| client))
    }
}

/// Where one server is. It is shown without user and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Socket(String),
    Tcp(String, u16),
}

impl Place {
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Place::Socket(_) => None,
            Place::Tcp(_, port) => Some(*port),
        }
    }

    /// Whether it is on this machine.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Place::Socket(_) => true,
            Place::Tcp(host, _) => ["localhost", "127.0.0.1", "::1"].contains(&host.as_str()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Socket(path) => f.write_str(path),
            Place::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// Connects with the password that a file has at that moment.
struct WithPassfile {
    connect: Box<dyn Connect>,
    path: Option<PathBuf>,
}

impl Connect for WithPassfile {
    fn connect(&self, config: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        let mut config = config.clone();
        async move {
            if let Some(path) = &self.path
                && let Some(password) = passfile::password(path, &config)
            {
                config.password(password);
            }
            self.connect.connect(&config).await
        }
        .boxed()
    }
}

/// Whether the text after the host of a URL holds part of a password. The parser ends the password
/// at the first `@`, people mean the last.
fn is_misread(given: &str) -> bool {
    let rest = ["postgres://", "postgresql://"].iter().find_map(|it| given.strip_prefix(it));
    rest.is_some_and(|rest| rest.matches('@').count() > 1)
}

/// Why it cannot be read. The parser's message may show a word of the string.
fn reason(error: &Error) -> String {
    let text = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    if text.starts_with("invalid value for option") {
        text
    } else if text.starts_with("unknown option") {
        settings::UNKNOWN.to_owned()
    } else {
        "it is not complete, or a quote or a `%` is missing".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::{ChannelBinding, TargetSessionAttrs};

    use super::*;

    fn read(given: &str) -> Postgres {
        Postgres::read(given).unwrap_or_else(|failure| panic!("{given}: {failure:?}"))
    }

    fn refused(given: &str) -> String {
        match Postgres::read(given) {
            Err(failure) => format!("{failure:?}"),
            Ok(_) => panic!("{given} was taken"),
        }
    }

    #[test]
    fn no_form_of_connection_string_shows_its_password() {
        for given in [
            "postgres://me:p@hunter2@localhost/shop",
            "postgresql://me:p@hunter2@localhost/shop",
            "postgres://me:hunter2@localhost/shop?mode=x@y",
            "postgres://me:p/hunter2@localhost/shop",
            "postgres://me:p?hunter2@localhost/shop",
            "postgres://me:p?a=b&hunter2@localhost/shop",
            "postgres://me:p#hunter2@localhost/shop",
            "postgres://me:hunter2@localhost:port/shop",
            "postgres://me:hunter2@localhost/shop?sslmode=perhaps",
            "postgres://me:hunter2@localhost/shop?sslmode=hunter2",
            "postgres://me@localhost/shop?password=a&hunter2=b",
            "postgres://me@localhost/shop?password=a&schema&hunter2",
            "postgres://me:%hunter2%zz@localhost/shop?x",
            "postgres://me@localhost/shop?password=%hunter2",
            "postgres://me@localhost/shop?sslpassword=hunter2&sslcert=hunter2",
            "postgres:me:hunter2@localhost",
            "host=localhost password=a hunter2",
            "host=localhost password=a hunter2=b",
            "host=localhost password='hunter2",
            "host=localhost password=hunter2 port=x",
            "host=localhost password=hunter2 service=hunter2",
            "host=localhost password=hunter2 passfile=/nonexistent/hunter2",
            "hunter2",
        ] {
            match Postgres::read(given) {
                Err(failure) => {
                    assert!(!format!("{failure:?}").contains("hunter2"), "{failure:?}");
                }
                // What was read as the host is shown by errors of connecting.
                Ok(read) => {
                    let shown = format!("{:?} {:?}", read.config.get_hosts(), read);
                    assert!(!shown.contains("hunter2"), "{given}: {shown}");
                }
            }
        }
    }

    #[test]
    fn every_way_to_write_a_host_a_database_and_a_password_is_read() {
        for given in [
            "postgres://me:p%40ss%20word@one,two:6000/shop?connect_timeout=3&application_name=a%26b",
            "postgresql://one,two:6000/shop?user=me&password=p%40ss%20word&connect_timeout=3&\
             application_name=a%26b",
            "postgresql:///shop?host=one,two&port=5432,6000&user=me&password=p%40ss%20word&\
             connect_timeout=3&application_name=a%26b",
            "host=one,two port=5432,6000 dbname=shop user=me password='p@ss word' \
             connect_timeout=3 application_name = a&b",
            "host=one,two port=5432,6000 dbname=shop user=me password=p@ss\\ word \
             connect_timeout='3' fallback_application_name='a&b'",
        ] {
            let Postgres { config, remarks, .. } = read(given);
            let hosts: Vec<_> = config.get_hosts().iter().collect();
            assert_eq!(hosts, [&Host::Tcp("one".into()), &Host::Tcp("two".into())], "{given}");
            assert_eq!(config.get_ports(), [5432, 6000], "{given}");
            assert_eq!((config.get_user(), config.get_dbname()), (Some("me"), Some("shop")));
            assert_eq!(config.get_password(), Some(&b"p@ss word"[..]), "{given}");
            assert_eq!(config.get_application_name(), Some("a&b"), "{given}");
            assert!(remarks.is_empty(), "{remarks:?}");
        }
    }

    #[test]
    fn settings_of_libpq_are_read_or_refused_by_name() {
        let url = |rest: &str| format!("postgres://me:hunter2@localhost/shop?{rest}");
        for (setting, mode) in [
            ("sslmode=disable", SslMode::Disable),
            ("sslmode=allow", SslMode::Prefer),
            ("sslmode=prefer", SslMode::Prefer),
            ("sslmode=require", SslMode::Require),
            ("sslmode=verify-ca", SslMode::Require),
            ("sslmode=verify-full", SslMode::Require),
            ("sslrootcert=system", SslMode::Require),
            ("ssl=true", SslMode::Require),
            ("ssl=false", SslMode::Disable),
        ] {
            assert_eq!(read(&url(setting)).config.get_ssl_mode(), mode, "{setting}");
        }
        for (setting, attrs) in [
            ("any", TargetSessionAttrs::Any),
            ("prefer-standby", TargetSessionAttrs::Any),
            ("read-write", TargetSessionAttrs::ReadWrite),
            ("primary", TargetSessionAttrs::ReadWrite),
            ("read-only", TargetSessionAttrs::ReadOnly),
            ("standby", TargetSessionAttrs::ReadOnly),
        ] {
            let read = read(&url(&format!("target_session_attrs={setting}")));
            assert_eq!(read.config.get_target_session_attrs(), attrs, "{setting}");
        }
        let binding = read(&url("channel_binding=require")).config.get_channel_binding();
        assert_eq!(binding, ChannelBinding::Require);
        for fine in [
            "keepalives=1&keepalives_idle=5&keepalives_interval=5&keepalives_count=3",
            "tcp_user_timeout=1000&load_balance_hosts=random&sslnegotiation=direct",
            "client_encoding=UTF8&gssencmode=prefer&sslcompression=0&sslsni=1",
            "ssl_min_protocol_version=TLSv1.2&options=-c%20work_mem%3D64MB",
        ] {
            assert!(read(&url(fine)).remarks.is_empty(), "{fine}");
        }
        for (setting, expected) in [
            ("service=shop", "service"),
            ("servicefile=a", "servicefile"),
            ("sslcrl=a.pem", "sslcrl"),
            ("sslpassword=a", "sslpassword"),
            ("sslcert=a.pem", "sslkey"),
            ("sslkey=a.pem", "sslcert"),
            ("ssl_min_protocol_version=TLSv1.3", "ssl_min_protocol_version"),
            ("client_encoding=LATIN1", "client_encoding"),
            ("gssencmode=require", "gssencmode"),
            ("require_auth=scram-sha-256", "require_auth"),
            ("requirepeer=postgres", "requirepeer"),
            ("replication=database", "replication"),
            ("sslmode=on", "sslmode"),
            ("passfile=/nonexistent", "passfile"),
            ("target_session_attrs=master", "target_session_attrs"),
        ] {
            let shown = refused(&url(setting));
            assert!(shown.contains(expected) && !shown.contains("hunter2"), "{setting}: {shown}");
            let value = setting.split_once('=').unwrap().1;
            assert!(value.len() < 4 || !shown.contains(&format!("={value}")), "{shown}");
        }
    }

    #[test]
    fn settings_of_other_drivers_are_taken_with_a_remark() {
        let given = "postgres://me@localhost/shop?schema=Sales%20EU&pgbouncer=true&connection_limit=5&\
                     pool_timeout=10&statement_cache_size=0&socket_timeout=3&sslaccept=strict&\
                     statement_timeout=5s";
        let Postgres { config, remarks, .. } = read(given);
        assert_eq!(
            config.get_options(),
            Some("-csearch_path=\"Sales\\ EU\" -cstatement_timeout=5s")
        );
        let all = remarks.join("\n");
        for name in
            ["schema", "pgbouncer", "connection_limit", "pool_timeout", "statement_cache_size"]
        {
            assert!(all.contains(name), "{name}: {all}");
        }
        let with_options = read("host=localhost options='-c work_mem=64MB' schema=sales");
        let options = with_options.config.get_options();
        assert_eq!(options, Some("-c work_mem=64MB -csearch_path=\"sales\""));
        // What Prisma writes by default changes nothing.
        let public = read("postgres://me@localhost/shop?schema=public");
        assert_eq!((public.config.get_options(), public.remarks.len()), (None, 0));
    }
}
