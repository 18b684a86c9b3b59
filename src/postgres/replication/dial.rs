//! [`Endpoint`]: where the primary is, and how it is connected to: once for replication and once for
//! SQL, at the same address.

use std::any::TypeId;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixStream, lookup_host};
use tokio::task::AbortHandle;
use tokio_postgres::config::{Host, SslMode, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls, Socket};

use super::connection::ReplicationConnection;
use super::error::ReplicationError;
use super::login::{Home, Login, Opened, Plain};
use crate::error::BoxError;
use crate::patience::within;

/// How long one attempt at one address may take, with its login.
const LIMIT: Duration = Duration::from_secs(10);

const PORT: u16 = 5432;

/// The addresses of a server, and a way to connect to them.
#[derive(Clone)]
pub(crate) struct Endpoint {
    config: Config,
    dialer: Arc<dyn Dial>,
}

/// One address, at which both connections are opened.
#[derive(Clone)]
pub(crate) struct Address {
    /// Has one host, whose name is resolved.
    config: Config,
    dialer: Arc<dyn Dial>,
}

/// A connection for SQL. It ends when this is dropped.
pub(crate) struct Sql {
    pub(crate) client: Client,
    driver: AbortHandle,
}

impl Drop for Sql {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

trait Dial: Send + Sync {
    fn replication(&self, config: Config) -> BoxFuture<'static, Result<Opened, ReplicationError>>;

    fn sql(&self, config: Config) -> BoxFuture<'static, Result<Sql, ReplicationError>>;
}

struct Dialer<C> {
    tls: C,
}

impl Endpoint {
    pub(crate) fn new<C>(config: Config, tls: C) -> Endpoint
    where
        C: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        C::Stream: Send,
        C::TlsConnect: Send,
        <C::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        Endpoint { config, dialer: Arc::new(Dialer { tls }) }
    }

    /// The name of the database, if the configuration says it: without one it is the user's name.
    pub(crate) fn database(&self) -> Option<String> {
        self.config.get_dbname().or(self.config.get_user()).map(str::to_owned)
    }

    /// All addresses, in the order in which they are given and resolved. A name that cannot be
    /// resolved has none, unless there are no others.
    pub(crate) async fn addresses(&self) -> Result<Vec<Address>, ReplicationError> {
        let (hosts, numeric) = (self.config.get_hosts(), self.config.get_hostaddrs());
        let ports = self.config.get_ports();
        let count = hosts.len().max(numeric.len());
        if count == 0 {
            return Err(ReplicationError::Lost("the configuration names no host".into()));
        }
        if !hosts.is_empty() && !numeric.is_empty() && hosts.len() != numeric.len()
            || ports.len() > 1 && ports.len() != count
        {
            let why =
                "the configuration has lists of hosts, addresses and ports of different lengths";
            return Err(ReplicationError::Lost(why.into()));
        }
        let (mut all, mut unresolved) = (vec![], None);
        for at in 0..count {
            let port = ports.get(at).or(ports.first()).copied().unwrap_or(PORT);
            match (hosts.get(at), numeric.get(at)) {
                (Some(Host::Tcp(name)), None) => match lookup_host((name.as_str(), port)).await {
                    Ok(resolved) => {
                        let resolved = resolved.map(|to| Place::Tcp(name.clone(), Some(to.ip())));
                        all.extend(resolved.map(|place| (place, port)));
                    }
                    Err(error) => unresolved = Some(error),
                },
                (Some(Host::Tcp(name)), ip) => {
                    all.push((Place::Tcp(name.clone(), ip.copied()), port));
                }
                (Some(Host::Unix(path)), _) => all.push((Place::Unix(path.clone()), port)),
                // A certificate is then compared with the address.
                (None, Some(ip)) => all.push((Place::Tcp(ip.to_string(), None), port)),
                (None, None) => {}
            }
        }
        match unresolved {
            Some(error) if all.is_empty() => Err(error.into()),
            _ if all.is_empty() => Err(ReplicationError::Lost("the host has no address".into())),
            _ => Ok(all.iter().map(|(place, port)| self.address(place, *port)).collect()),
        }
    }

    fn address(&self, place: &Place, port: u16) -> Address {
        let mut config = without_hosts(&self.config);
        config.port(port);
        match place {
            Place::Tcp(name, ip) => {
                config.host(name);
                if let Some(ip) = ip {
                    config.hostaddr(*ip);
                }
            }
            Place::Unix(path) => {
                config.host_path(path);
            }
        }
        Address { config, dialer: self.dialer.clone() }
    }
}

enum Place {
    /// The name is what a certificate is compared with.
    Tcp(String, Option<IpAddr>),
    Unix(PathBuf),
}

impl Address {
    /// Opens a session for replication of the database.
    pub(crate) async fn replication(&self) -> Result<ReplicationConnection, ReplicationError> {
        let login = self.dialer.replication(self.config.clone());
        let opened = within(LIMIT, login).await;
        let opened =
            opened.unwrap_or(Err(ReplicationError::TimedOut("connecting for replication")))?;
        Ok(ReplicationConnection::new(opened))
    }

    /// Opens a session for SQL.
    pub(crate) async fn sql(&self) -> Result<Sql, ReplicationError> {
        let login = self.dialer.sql(self.config.clone());
        within(LIMIT, login).await.unwrap_or(Err(ReplicationError::TimedOut("connecting for sql")))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.config.get_ports().first().copied().unwrap_or(PORT);
        match (self.config.get_hosts().first(), self.config.get_hostaddrs().first()) {
            (Some(Host::Unix(path)), _) => write!(f, "{}/.s.PGSQL.{port}", path.display()),
            (Some(Host::Tcp(name)), Some(ip)) if *name != ip.to_string() => {
                write!(f, "{name}:{port} ({ip})")
            }
            (Some(Host::Tcp(name)), _) => write!(f, "{name}:{port}"),
            (None, _) => f.write_str("no host"),
        }
    }
}

/// Everything but the hosts, their addresses and ports: a configuration cannot lose them. Which of
/// several servers is the primary is asked here, so `target_session_attrs` is left out.
fn without_hosts(from: &Config) -> Config {
    let mut config = Config::new();
    if let Some(user) = from.get_user() {
        config.user(user);
    }
    if let Some(password) = from.get_password() {
        config.password(password);
    }
    if let Some(database) = from.get_dbname() {
        config.dbname(database);
    }
    if let Some(options) = from.get_options() {
        config.options(options);
    }
    config.application_name(from.get_application_name().unwrap_or("larder"));
    config.ssl_mode(from.get_ssl_mode()).ssl_negotiation(from.get_ssl_negotiation());
    config.channel_binding(from.get_channel_binding());
    config.connect_timeout(from.get_connect_timeout().copied().unwrap_or(LIMIT));
    if let Some(timeout) = from.get_tcp_user_timeout() {
        config.tcp_user_timeout(*timeout);
    }
    config.keepalives(from.get_keepalives()).keepalives_idle(from.get_keepalives_idle());
    if let Some(interval) = from.get_keepalives_interval() {
        config.keepalives_interval(interval);
    }
    if let Some(retries) = from.get_keepalives_retries() {
        config.keepalives_retries(retries);
    }
    config.target_session_attrs(TargetSessionAttrs::Any);
    config
}

impl<C> Dial for Dialer<C>
where
    C: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    C::Stream: Send,
    C::TlsConnect: Send,
    <C::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    fn replication(&self, config: Config) -> BoxFuture<'static, Result<Opened, ReplicationError>> {
        let tls = self.tls.clone();
        let login = async move {
            let home = Home::default();
            let negotiation = Negotiation {
                mode: config.get_ssl_mode(),
                way: config.get_ssl_negotiation(),
                // The only connector that says so.
                is_without_tls: TypeId::of::<C>() == TypeId::of::<NoTls>(),
            };
            let mut outer = config.clone();
            // Our connector is given the stream before a byte is sent on it.
            outer.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
            match config.get_hosts().first() {
                Some(Host::Unix(path)) => {
                    let port = config.get_ports().first().copied().unwrap_or(PORT);
                    let socket = UnixStream::connect(path.join(format!(".s.PGSQL.{port}"))).await?;
                    let connector = LoginWithoutTls { mode: negotiation.mode, home: home.clone() };
                    // Nothing is sent or received on the connection any more.
                    drop(outer.connect_raw(socket, connector).await?);
                }
                _ => {
                    let connector = LoginOverTls { tls, negotiation, home: home.clone() };
                    drop(outer.connect(connector).await?);
                }
            }
            let opened = home.lock().take();
            opened.ok_or(ReplicationError::Protocol("the login did not end"))
        };
        login.boxed()
    }

    fn sql(&self, config: Config) -> BoxFuture<'static, Result<Sql, ReplicationError>> {
        let tls = self.tls.clone();
        let login = async move {
            let (client, connection) = config.connect(tls).await?;
            let driver = tokio::spawn(async move {
                // The client reports the error, too.
                let _ = connection.await;
            });
            Ok(Sql { client, driver: driver.abort_handle() })
        };
        login.boxed()
    }
}

#[derive(Clone, Copy)]
struct Negotiation {
    mode: SslMode,
    way: SslNegotiation,
    is_without_tls: bool,
}

impl Negotiation {
    /// Whether the stream is to be encrypted, as `tokio-postgres` decides it.
    async fn encrypts(self, socket: &mut Socket) -> Result<bool, BoxError> {
        /// Its length, and its number.
        const REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
        let must = match self.mode {
            SslMode::Disable => return Ok(false),
            SslMode::Prefer if self.is_without_tls => return Ok(false),
            SslMode::Prefer => false,
            _ => true,
        };
        if self.way == SslNegotiation::Direct {
            return if must {
                Ok(true)
            } else {
                Err("sslmode=prefer may not be used with sslnegotiation=direct".into())
            };
        }
        socket.write_all(&REQUEST).await?;
        socket.flush().await?;
        match socket.read_u8().await? {
            b'S' => Ok(true),
            _ if must => Err("the server does not support TLS".into()),
            _ => Ok(false),
        }
    }
}

/// Takes the place of a TLS connector. It encrypts if that is wanted.
struct LoginOverTls<C> {
    tls: C,
    negotiation: Negotiation,
    home: Home,
}

impl<C> MakeTlsConnect<Socket> for LoginOverTls<C>
where
    C: MakeTlsConnect<Socket>,
    C::Stream: Send + 'static,
    C::TlsConnect: Send + 'static,
    <C::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    type Stream = Login;
    type TlsConnect = LoginOverTls<C::TlsConnect>;
    type Error = BoxError;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Self::TlsConnect, BoxError> {
        let tls = self.tls.make_tls_connect(domain).map_err(Into::into)?;
        Ok(LoginOverTls { tls, negotiation: self.negotiation, home: self.home.clone() })
    }
}

impl<T> TlsConnect<Socket> for LoginOverTls<T>
where
    T: TlsConnect<Socket> + Send + 'static,
    T::Stream: Send + 'static,
    T::Future: Send,
{
    type Stream = Login;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Login, BoxError>>;

    fn connect(self, mut socket: Socket) -> Self::Future {
        let connect = async move {
            if self.negotiation.encrypts(&mut socket).await? {
                let stream = self.tls.connect(socket).await.map_err(Into::into)?;
                return Ok(Login::new(Box::new(stream), self.home));
            }
            Ok(Login::new(Box::new(Plain(socket)), self.home))
        };
        connect.boxed()
    }
}

/// PostgreSQL has no TLS on unix sockets.
struct LoginWithoutTls {
    mode: SslMode,
    home: Home,
}

impl TlsConnect<UnixStream> for LoginWithoutTls {
    type Stream = Login;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Login, BoxError>>;

    fn connect(self, socket: UnixStream) -> Self::Future {
        std::future::ready(match self.mode {
            SslMode::Disable | SslMode::Prefer => {
                Ok(Login::new(Box::new(Plain(socket)), self.home))
            }
            _ => Err("a unix socket does not support TLS".into()),
        })
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the password: the configuration redacts it.
        f.debug_tuple("Endpoint").field(&self.config).finish()
    }
}
