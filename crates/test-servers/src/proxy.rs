//! A bad network between a client and its server.
//!
//! A [`Proxy`] listens on a port of the loopback interface and forwards bytes
//! to a server. Its faults can be changed while it runs, for all connections or
//! for one.
//!
//! Each connection is served by four threads, two for each way:
//!
//! ```text
//! client ──read──▶ receive ──chunks, in order──▶ deliver ──write──▶ server
//! client ◀──write── deliver ◀──chunks, in order── receive ◀──read── server
//! ```
//!
//! Threads rather than tasks, so that neither a paused clock nor a busy runtime
//! of a test slows the network down.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::controls::{Controls, Rate, Rewrite, Way};
use super::link::{Counts, Link, Socket};
use super::{Redis, ServerError};

/// A network between clients and one server, without faults at first.
///
/// Faults add up, on open connections and on later ones, until
/// [`pass`](Self::pass) ends all of them. [`Link`] has the same methods for one
/// connection.
///
/// When dropped, it closes all connections and waits for its threads.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A proxy in front of a Redis. It survives the server's restarts.
    pub fn to_redis(redis: &Redis) -> Result<Self, ServerError> {
        Self::to_socket(redis.socket())
    }

    /// A proxy in front of a server that listens on a unix socket. The protocol
    /// may be any: PostgreSQL's as well.
    pub fn to_socket(path: impl Into<PathBuf>) -> Result<Self, ServerError> {
        Self::launch(Target::Socket(path.into()))
    }

    /// A proxy in front of a server that listens on a port of 127.0.0.1.
    pub fn to_port(port: u16) -> Result<Self, ServerError> {
        Self::launch(Target::Port(port))
    }

    fn launch(target: Target) -> Result<Self, ServerError> {
        let attempt = format!("start a proxy in front of {target}");
        let failed = |error: io::Error| ServerError::caused(&attempt, &error);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let shared = Arc::new(Shared { target, state: Mutex::default() });
        let acceptor = spawn({
            let shared = shared.clone();
            move || shared.accept(&listener)
        });
        Ok(Self { port, shared, acceptor: Some(acceptor.map_err(failed)?) })
    }

    /// The port of 127.0.0.1 that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a Redis behind it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends all faults: held data is delivered, connections are accepted.
    pub fn pass(&self) {
        self.shared.lock().cut = false;
        self.change(|controls| *controls = Controls::default());
    }

    /// Closes every connection, and every new one as soon as it is accepted.
    /// Held data is lost.
    ///
    /// The port stays open, so no connection is refused: another process could
    /// take a port that was given up.
    pub fn cut(&self) {
        let mut state = self.shared.lock();
        state.cut = true;
        state.links.iter().for_each(Link::close);
    }

    /// Closes every connection that is open. New ones are served.
    pub fn disconnect(&self) {
        self.shared.lock().links.iter().for_each(Link::close);
    }

    /// Holds back all data sent this way and signals nothing to either side, as
    /// a network does that has lost a cable. Up to a MiB of each connection is
    /// held. Then the proxy no longer reads from the sender.
    ///
    /// Data that is already being written still arrives.
    pub fn stall(&self, way: Way) {
        self.change(|controls| controls.stall(way));
    }

    /// Delivers the data that [`stall`](Self::stall) held back, both ways.
    pub fn release(&self) {
        self.change(Controls::release);
    }

    /// Delivers every chunk this much later than it was sent, each way: a round
    /// trip takes twice this time longer. The order is kept, and the delays of
    /// successive chunks overlap.
    pub fn delay(&self, delay: Duration) {
        self.change(|controls| controls.delay = delay);
    }

    /// Passes on at most this many bytes a second each way, over all connections
    /// together, as a network card does. Connections take turns.
    pub fn rate(&self, bytes_a_second: f64) {
        let rate = Rate::new(bytes_a_second);
        self.change(|controls| controls.rate = Some(rate.clone()));
    }

    /// Resets each connection, with an RST instead of an orderly end, after this
    /// many more bytes are delivered to its client. With 0, the next reply is
    /// lost as a whole.
    ///
    /// New connections are reset as well, until [`pass`](Self::pass).
    pub fn reset_after(&self, bytes: u64) {
        self.change(|controls| controls.reset_after = Some(bytes));
    }

    /// Replaces every chunk to a client by the result of this function. An empty
    /// result drops the chunk.
    ///
    /// A chunk is the data of one read: several [replies](super::replies) of a
    /// pipeline, or a part of a long one.
    pub fn rewrite(&self, rewrite: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static) {
        let rewrite = Rewrite::new(rewrite);
        self.change(|controls| controls.rewrite = Some(rewrite.clone()));
    }

    /// All connections that were served, the oldest first. Closed ones are
    /// included.
    pub fn links(&self) -> Vec<Link> {
        self.shared.lock().links.clone()
    }

    /// The traffic of all connections.
    pub fn counts(&self) -> Counts {
        self.counts_of(|_| true)
    }

    /// The traffic of some connections: `|link| !link.said("SUBSCRIBE")`.
    pub fn counts_of(&self, mut wanted: impl FnMut(&Link) -> bool) -> Counts {
        let links = self.links();
        links.iter().filter(|link| wanted(link)).map(Link::counts).sum()
    }

    /// Connections that were closed as soon as they were accepted, because of
    /// [`cut`](Self::cut) or because the server did not accept them.
    pub fn turned_away(&self) -> u64 {
        self.shared.lock().turned_away
    }

    fn change(&self, change: impl Fn(&mut Controls)) {
        let mut state = self.shared.lock();
        change(&mut state.controls);
        // Under the lock: no connection comes to be between the two.
        state.links.iter().for_each(|link| link.change(&change));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let threads = {
            let mut state = self.shared.lock();
            state.over = true;
            state.links.iter().for_each(Link::close);
            std::mem::take(&mut state.threads)
        };
        // The acceptor waits for a connection, and then sees that it is over.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let _ = TcpStream::connect_timeout(&address, Duration::from_secs(10));
        for thread in self.acceptor.take().into_iter().chain(threads) {
            // One that panicked, in a function of the test, has printed so.
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Shared {
    target: Target,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    over: bool,
    cut: bool,
    /// The faults of new links.
    controls: Controls,
    links: Vec<Link>,
    turned_away: u64,
    threads: Vec<JoinHandle<()>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(&self, listener: &TcpListener) {
        loop {
            let accepted = listener.accept();
            if self.lock().over {
                return;
            }
            // A client that has gone already is none.
            let Ok((client, _)) = accepted else { continue };
            // Before the lock is taken: a server may be slow to accept.
            let server = self.target.connect();
            let mut state = self.lock();
            if state.over {
                return;
            }
            let served = match server {
                Ok(server) if !state.cut => state.serve(client, server),
                _ => Err(io::ErrorKind::ConnectionRefused.into()),
            };
            if served.is_err() {
                state.turned_away += 1;
            }
        }
    }
}

impl State {
    fn serve(&mut self, client: TcpStream, server: Socket) -> io::Result<()> {
        client.set_nodelay(true)?;
        self.threads.retain(|thread| !thread.is_finished());
        let client = Socket::Tcp(client);
        let link = Link::open(self.controls.clone(), client, server, |work| {
            self.threads.push(spawn(work)?);
            Ok(())
        });
        self.links.push(link?);
        Ok(())
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("proxy".to_owned()).spawn(work)
}

/// The server behind a proxy.
#[derive(Debug)]
enum Target {
    Socket(PathBuf),
    Port(u16),
}

impl Target {
    fn connect(&self) -> io::Result<Socket> {
        match self {
            Self::Socket(path) => UnixStream::connect(path).map(Socket::Unix),
            Self::Port(port) => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port))?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Port(port) => write!(f, "127.0.0.1:{port}"),
        }
    }
}
