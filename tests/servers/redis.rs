//! A Redis server of one's own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::guard::{Directory, Ending, Process, state};
use super::{PATIENCE, ServerError, find, wait_for};

/// A Redis server with nothing in it, which keeps nothing on disk.
///
/// What harms a server takes `&mut`: the [shared](Self::shared) one is out of
/// a fault test's reach.
#[derive(Debug)]
pub struct Redis {
    // Fields are dropped in this order: first the server, then its directory.
    process: Process,
    directory: Directory,
    program: PathBuf,
    arguments: Vec<String>,
    socket: PathBuf,
    /// 0 when there is only the socket.
    port: u16,
}

impl Redis {
    /// The server that all of this process shares: take a namespace in it, and
    /// leave it as it is.
    pub fn shared() -> Result<&'static Self, ServerError> {
        static SHARED: OnceLock<Result<Redis, ServerError>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref().map_err(Clone::clone)
    }

    /// A server that listens on a unix socket only.
    pub fn start() -> Result<Self, ServerError> {
        Self::start_with(&[])
    }

    /// The same with more arguments: `["--maxmemory", "2mb"]`.
    pub fn start_with(arguments: &[&str]) -> Result<Self, ServerError> {
        Self::launch(0, arguments)
    }

    /// A server that listens on a port of the loopback interface too, which is
    /// then the one that [`url`](Self::url) names.
    pub fn start_tcp() -> Result<Self, ServerError> {
        // Somebody else may take the port between our asking and Redis' taking
        // it. Thrice in a row is no coincidence.
        let mut last = Self::launch(free_port()?, &[]);
        for _ in 0..2 {
            if last.is_ok() {
                break;
            }
            last = Self::launch(free_port()?, &[]);
        }
        last
    }

    fn launch(port: u16, extra: &[&str]) -> Result<Self, ServerError> {
        let program = find::redis()?;
        let directory = Directory::new(&super::template::temporary())?;
        let socket = directory.path().join("redis.sock");
        let port_text = port.to_string();
        let dir = directory.path().to_string_lossy();
        let unixsocket = socket.to_string_lossy();
        let fixed = [
            "--port",
            &port_text,
            "--bind",
            "127.0.0.1",
            "--unixsocket",
            &unixsocket,
            "--unixsocketperm",
            "700",
            "--dir",
            &dir,
            "--save",
            "",
            "--appendonly",
            "no",
            "--daemonize",
            "no",
        ];
        let arguments: Vec<String> = fixed.iter().chain(extra).map(ToString::to_string).collect();
        let process = Process::start(&program, &arguments, &directory, Ending::Kill, None)?;
        let mut redis = Self { process, directory, program, arguments, socket, port };
        redis.await_ready()?;
        Ok(redis)
    }

    /// A URL that the `redis` crate opens.
    pub fn url(&self) -> String {
        match self.port {
            0 => format!("redis+unix://{}", self.socket.display()),
            port => format!("redis://127.0.0.1:{port}"),
        }
    }

    /// The path of the unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The port, of a server that was [started with one](Self::start_tcp).
    pub fn port(&self) -> Option<u16> {
        (self.port != 0).then_some(self.port)
    }

    /// The directory that is removed with the server.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The process id; after a [`kill`](Self::kill), that of the dead.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills the server, paused or not, and waits until it is dead.
    pub fn kill(&mut self) -> Result<(), ServerError> {
        self.process.end()
    }

    /// Starts it again with nothing in it, at the same address. One that runs
    /// is killed first.
    pub fn restart(&mut self) -> Result<(), ServerError> {
        self.kill()?;
        self.process =
            Process::start(&self.program, &self.arguments, &self.directory, Ending::Kill, None)?;
        self.await_ready()
    }

    /// Stops the server in its tracks: it accepts connections, as the kernel
    /// does that, and answers nobody.
    pub fn pause(&mut self) -> Result<(), ServerError> {
        self.process.signal("STOP")?;
        wait_for(PATIENCE, || (state(self.pid()) == Some('T')).then_some(())).ok_or_else(|| {
            ServerError::new(format!("pause redis ({}): it does not stop", self.pid()))
        })
    }

    /// Lets a paused server go on, and waits until it answers.
    pub fn resume(&mut self) -> Result<(), ServerError> {
        self.process.signal("CONT")?;
        self.await_ready()
    }

    fn await_ready(&mut self) -> Result<(), ServerError> {
        let attempt = format!("start {} on {}", self.program.display(), self.url());
        let outcome = wait_for(PATIENCE, || {
            if let Some(status) = self.process.exited() {
                return Some(Err(status));
            }
            answers(&self.socket).then_some(Ok(()))
        });
        match outcome {
            Some(Ok(())) => Ok(()),
            Some(Err(status)) => {
                Err(ServerError::new(format!("{attempt}: {status}{}", self.process.log())))
            }
            None => Err(ServerError::new(format!(
                "{attempt}: no answer to PING within {PATIENCE:?}{}",
                self.process.log()
            ))),
        }
    }
}

/// Whether the server answers. That it wants a password is an answer.
fn answers(socket: &Path) -> bool {
    let ask = || -> std::io::Result<[u8; 4]> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| matches!(&answer, b"+PON" | b"-NOA"))
}

fn free_port() -> Result<u16, ServerError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| ServerError::caused("find a free port on 127.0.0.1", &error))
}
