//! One connection through a [`Proxy`](super::Proxy): the data that it holds, and
//! its counts.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::iter::Sum;
use std::net::{Shutdown, TcpStream};
use std::ops::{Add, Sub};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::controls::{Controls, Rate, Rewrite, TO_CLIENT, TO_SERVER, Way};

/// The most that is read at a time.
const CHUNK: usize = 64 << 10;

/// What a connection sends in one turn, if a rate is set: ten packets or so.
const SLICE: usize = 16 << 10;

/// Bytes held for one way of a connection before no more are read. The sender
/// must notice in the end that no data arrives, as on a network.
const ROOM: usize = 1 << 20;

/// Bytes kept of the beginning of a client's data, to tell connections apart.
const BEGINNING: usize = 4 << 10;

/// The traffic of one connection or of several.
///
/// The difference of two counts is the traffic in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were served.
    pub connections: u64,
    /// How often the client sent data first, or sent data again after it had
    /// received some. A chain of requests, each waiting for the one before, pays
    /// this many latencies. A pipeline is one round trip, and so is a command of
    /// many packets. Requests of several tasks on one connection overlap, and
    /// are then fewer round trips than requests.
    pub round_trips: u64,
    /// Reads that returned data of the client: at least the round trips.
    pub chunks: u64,
    /// Bytes read from the client, delivered or held.
    pub from_client: u64,
    /// Bytes delivered to the server.
    pub to_server: u64,
    /// Bytes read from the server, delivered or held.
    pub from_server: u64,
    /// Bytes delivered to the client, after [rewriting](super::Proxy::rewrite).
    pub to_client: u64,
}

impl Counts {
    fn merge(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            connections: with(self.connections, other.connections),
            round_trips: with(self.round_trips, other.round_trips),
            chunks: with(self.chunks, other.chunks),
            from_client: with(self.from_client, other.from_client),
            to_server: with(self.to_server, other.to_server),
            from_server: with(self.from_server, other.from_server),
            to_client: with(self.to_client, other.to_client),
        }
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.merge(other, |one, two| one + two)
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        self.merge(earlier, |later, earlier| later - earlier)
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Add::add)
    }
}

/// One connection through a [`Proxy`](super::Proxy), with faults of its own.
#[derive(Clone)]
pub struct Link {
    inner: Arc<Inner>,
}

impl Link {
    /// Has four threads started that serve a connection.
    pub(super) fn open(
        controls: Controls,
        client: Socket,
        server: Socket,
        mut spawn: impl FnMut(Box<dyn FnOnce() + Send>) -> io::Result<()>,
    ) -> io::Result<Self> {
        let sockets = Arc::new(Sockets { client, server });
        let link = Self { inner: Arc::new(Inner::new(controls, sockets.clone())) };
        for way in [TO_SERVER, TO_CLIENT] {
            for work in [Inner::receive, Inner::deliver] {
                let (inner, sockets) = (link.inner.clone(), sockets.clone());
                let spawned = spawn(Box::new(move || {
                    let _closer = Closer(&inner);
                    work(&inner, &sockets, way);
                }));
                spawned.inspect_err(|_| link.close())?;
            }
        }
        Ok(link)
    }

    /// Closes the connection. Held data is lost.
    pub fn close(&self) {
        self.inner.close();
    }

    /// As [`Proxy::stall`](super::Proxy::stall).
    pub fn stall(&self, way: Way) {
        self.change(|controls| controls.stall(way));
    }

    /// As [`Proxy::release`](super::Proxy::release).
    pub fn release(&self) {
        self.change(Controls::release);
    }

    /// As [`Proxy::delay`](super::Proxy::delay).
    pub fn delay(&self, delay: Duration) {
        self.change(|controls| controls.delay = delay);
    }

    /// As [`Proxy::reset_after`](super::Proxy::reset_after). A client that
    /// connects again gets a link without this fault.
    pub fn reset_after(&self, bytes: u64) {
        self.change(|controls| controls.reset_after = Some(bytes));
    }

    /// As [`Proxy::rewrite`](super::Proxy::rewrite).
    pub fn rewrite(&self, rewrite: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static) {
        let rewrite = Rewrite::new(rewrite);
        self.change(|controls| controls.rewrite = Some(rewrite.clone()));
    }

    /// Whether it is still open in either direction.
    pub fn is_open(&self) -> bool {
        self.inner.lock().sockets.is_some()
    }

    /// The traffic so far.
    pub fn counts(&self) -> Counts {
        self.inner.lock().counts
    }

    /// Whether the first 4 KiB from the client contain this text, in letters of
    /// either case: a connection for notices has sent `SUBSCRIBE`.
    pub fn said(&self, text: &str) -> bool {
        let state = self.inner.lock();
        let mut places = state.beginning.windows(text.len().max(1));
        places.any(|place| place.eq_ignore_ascii_case(text.as_bytes()))
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Controls)) {
        change(&mut self.inner.lock().controls);
        self.inner.wake();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, counts) = (self.is_open(), self.counts());
        f.debug_struct("Link").field("open", &open).field("counts", &counts).finish()
    }
}

/// A connection's state, which its four threads and its links share.
struct Inner {
    state: Mutex<LinkState>,
    /// The state of this direction has changed, or the whole state.
    changed: [Condvar; 2],
}

struct LinkState {
    controls: Controls,
    counts: Counts,
    /// Whether the client has received data since it last sent some.
    answered: bool,
    beginning: Vec<u8>,
    pipes: [Pipe; 2],
    /// Ways whose end was delivered.
    ended: usize,
    /// `None` once it is closed. A handle of a test must not keep them open.
    sockets: Option<Arc<Sockets>>,
}

/// The held data: chunks and their times of arrival. An empty chunk is the end.
#[derive(Default)]
struct Pipe {
    chunks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
}

impl Inner {
    fn new(controls: Controls, sockets: Arc<Sockets>) -> Self {
        let state = LinkState {
            controls,
            counts: Counts { connections: 1, ..Counts::default() },
            answered: true,
            beginning: Vec::new(),
            pipes: Default::default(),
            ended: 0,
            sockets: Some(sockets),
        };
        Self { state: Mutex::new(state), changed: Default::default() }
    }

    fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changed.iter().for_each(Condvar::notify_all);
    }

    /// Reads from one side until its end.
    fn receive(&self, sockets: &Sockets, way: usize) {
        let from = if way == TO_SERVER { &sockets.client } else { &sockets.server };
        let mut buffer = vec![0; CHUNK];
        loop {
            let chunk = match from.read(&mut buffer) {
                Ok(length) => &buffer[..length],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A broken connection brings no more data.
                Err(_) => &[],
            };
            let mut state = self.lock();
            state.received(way, chunk);
            self.changed[way].notify_all();
            if chunk.is_empty() {
                return;
            }
            let full =
                |state: &mut LinkState| state.sockets.is_some() && state.pipes[way].bytes >= ROOM;
            let waited = self.changed[way].wait_while(state, full);
            if waited.unwrap_or_else(PoisonError::into_inner).sockets.is_none() {
                return;
            }
        }
    }

    /// Writes the received chunks that are due to the other side.
    fn deliver(&self, sockets: &Sockets, way: usize) {
        let to = if way == TO_SERVER { &sockets.server } else { &sockets.client };
        while let Some((mut chunk, rewrite, rate)) = self.next(way) {
            if chunk.is_empty() {
                let _ = to.shutdown(Shutdown::Write);
                let mut state = self.lock();
                state.ended += 1;
                if state.ended == 2 {
                    drop(state);
                    self.close();
                }
                return;
            }
            if let Some(rewrite) = rewrite {
                chunk = rewrite.apply(&chunk);
            }
            // Counted before it is written: a client that has a reply must find
            // it counted, and its next request is a new round trip.
            let reset = self.lock().delivers(way, &mut chunk);
            let slice = if rate.is_some() { SLICE } else { usize::MAX };
            for slice in chunk.chunks(slice) {
                if let Some(rate) = &rate {
                    rate.send(way, slice.len());
                }
                if to.write_all(slice).is_err() {
                    self.close();
                    return;
                }
            }
            if reset {
                self.reset();
                return;
            }
        }
    }

    /// Waits for the next chunk to be due. `None` when the link is closed.
    fn next(&self, way: usize) -> Option<(Vec<u8>, Option<Rewrite>, Option<Rate>)> {
        let mut state = self.lock();
        loop {
            state.sockets.as_ref()?;
            // From what is set now, so that an end of a delay is one for the
            // chunks under way as well.
            let arrived = state.pipes[way].chunks.front().map(|(arrived, _)| *arrived);
            let due = arrived
                .filter(|_| !state.controls.stalled[way])
                .map(|arrived| arrived + state.controls.delay);
            let wait = due.map(|due| due.saturating_duration_since(Instant::now()));
            state = match wait {
                Some(Duration::ZERO) => break,
                Some(wait) => {
                    let waited = self.changed[way].wait_timeout(state, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed[way].wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        let (_, chunk) = state.pipes[way].chunks.pop_front()?;
        state.pipes[way].bytes -= chunk.len();
        // The receiver may wait for room.
        self.changed[way].notify_all();
        let rewrite = if way == TO_CLIENT { state.controls.rewrite.clone() } else { None };
        Some((chunk, rewrite, state.controls.rate.clone()))
    }

    fn close(&self) {
        let sockets = self.lock().sockets.take();
        if let Some(sockets) = sockets {
            let _ = sockets.client.shutdown(Shutdown::Both);
            let _ = sockets.server.shutdown(Shutdown::Both);
        }
        self.wake();
    }

    /// Closes it in a way that sends the client an RST.
    fn reset(&self) {
        let sockets = self.lock().sockets.take();
        if let Some(sockets) = sockets {
            sockets.client.reset_when_closed();
            // Nothing is sent for this, and the thread that reads wakes up. The
            // RST follows when the last thread has let go of the socket.
            let _ = sockets.client.shutdown(Shutdown::Read);
            let _ = sockets.server.shutdown(Shutdown::Both);
        }
        self.wake();
    }
}

impl LinkState {
    fn received(&mut self, way: usize, chunk: &[u8]) {
        let pipe = &mut self.pipes[way];
        pipe.chunks.push_back((Instant::now(), chunk.to_vec()));
        pipe.bytes += chunk.len();
        if way == TO_CLIENT {
            self.counts.from_server += chunk.len() as u64;
            return;
        }
        if chunk.is_empty() {
            return;
        }
        self.counts.from_client += chunk.len() as u64;
        self.counts.chunks += 1;
        self.counts.round_trips += u64::from(std::mem::take(&mut self.answered));
        let room = BEGINNING.saturating_sub(self.beginning.len());
        self.beginning.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }

    /// Counts a chunk that is about to be written. Returns whether the connection
    /// must be reset after it. In this case the chunk may be shortened.
    fn delivers(&mut self, way: usize, chunk: &mut Vec<u8>) -> bool {
        if way == TO_SERVER {
            self.counts.to_server += chunk.len() as u64;
            return false;
        }
        let mut reset = false;
        if let Some(left) = &mut self.controls.reset_after {
            chunk.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= chunk.len() as u64;
            reset = *left == 0;
        }
        self.counts.to_client += chunk.len() as u64;
        self.answered |= !chunk.is_empty();
        reset
    }
}

/// Closes the link of a thread that panics, with a function of a test's.
struct Closer<'a>(&'a Inner);

impl Drop for Closer<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.close();
        }
    }
}

struct Sockets {
    client: Socket,
    server: Socket,
}

pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).read(buffer),
            Self::Unix(stream) => (&*stream).read(buffer),
        }
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => (&*stream).write_all(bytes),
            Self::Unix(stream) => (&*stream).write_all(bytes),
        }
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        }
    }

    /// Has the kernel send an RST when the socket is closed. The standard
    /// library cannot ask for it; tokio can, without a runtime.
    fn reset_when_closed(&self) {
        let Self::Tcp(stream) = self else { return };
        let Ok(same) = stream.try_clone() else { return };
        // Deprecated for its other uses: with no time to linger, it blocks nobody.
        #[allow(deprecated)]
        let _ = tokio::net::TcpSocket::from_std_stream(same).set_linger(Some(Duration::ZERO));
    }
}
