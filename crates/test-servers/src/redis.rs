//! A private Redis server.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::guard::{Directory, Ending, Process, state};
use super::resp::{self, Reply};
use super::{PATIENCE, ServerError, find, wait_for};

/// The file that a starting server loads, if it is there.
const LOADED: &str = "dump.rdb";

/// Where a snapshot waits, out of the way of starts that are to find nothing.
const SNAPSHOT: &str = "snapshot.rdb";

/// A Redis server, empty at first. It writes nothing to disk except for a
/// [snapshot](Self::snapshot).
///
/// Methods that harm a server take `&mut self`, so that no test can harm the
/// [shared](Self::shared) one.
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
    /// The server that this process shares. Each test uses a namespace of its own
    /// in it and changes nothing else.
    pub fn shared() -> Result<&'static Self, ServerError> {
        static SHARED: OnceLock<Result<Redis, ServerError>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref().map_err(Clone::clone)
    }

    /// A server that listens on a unix socket only.
    pub fn start() -> Result<Self, ServerError> {
        Self::start_with(&[])
    }

    /// As [`start`](Self::start), with more arguments: `["--maxmemory", "2mb"]`.
    pub fn start_with(arguments: &[&str]) -> Result<Self, ServerError> {
        Self::launch(0, arguments)
    }

    /// The same, with arguments that ask for TLS. `None`, [said aloud](crate::skipped), if the server
    /// was built without TLS.
    pub(super) fn start_with_tls(arguments: &[&str]) -> Result<Option<Self>, ServerError> {
        // What Redis says before version 7, and since.
        const WITHOUT: [&str; 2] = ["Bad directive", "Failed finding TLS support"];
        match Self::start_with(arguments) {
            Err(error) if WITHOUT.iter().any(|text| error.to_string().contains(text)) => {
                crate::skipped("this server of Redis was built without TLS");
                Ok(None)
            }
            started => started.map(Some),
        }
    }

    /// A server that also listens on a port of the loopback interface.
    /// [`url`](Self::url) names this port.
    pub fn start_tcp() -> Result<Self, ServerError> {
        Self::start_tcp_with(&[])
    }

    /// As [`start_tcp`](Self::start_tcp), with more arguments.
    pub fn start_tcp_with(arguments: &[&str]) -> Result<Self, ServerError> {
        // Another process may take the port before Redis does. Three failures in
        // a row have another cause.
        let mut last = Self::launch(free_port()?, arguments);
        for _ in 0..2 {
            if last.is_ok() {
                break;
            }
            last = Self::launch(free_port()?, arguments);
        }
        last
    }

    /// A replica, with a port, of a server that has a port too. When this
    /// returns, the replica has all data of the primary. It receives later writes
    /// with a small delay: `WAIT 1 10000` on the primary waits for them.
    ///
    /// A [restarted](Self::restart) replica copies the primary's data again.
    pub fn start_replica_of(primary: &Self) -> Result<Self, ServerError> {
        let Some(port) = primary.port() else {
            return Err(ServerError::new(format!(
                "start a replica of the redis on {}: it has no port, start it with start_tcp",
                primary.socket.display()
            )));
        };
        // By default a primary waits for five seconds in case more replicas come.
        primary.command(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"])?;
        let mut replica = Self::start_tcp_with(&[REPLICA_OF[0], REPLICA_OF[1], &port.to_string()])?;
        replica.await_info("replication", "master_link_status:up")?;
        Ok(replica)
    }

    /// Makes a replica a primary, with the data that it has received so far. A
    /// former primary that still runs stays one: there are two from then on.
    pub fn promote(&mut self) -> Result<(), ServerError> {
        self.command(&["REPLICAOF", "NO", "ONE"])?;
        if let Some(at) = self.arguments.windows(2).position(|two| two == REPLICA_OF) {
            self.arguments.drain(at..at + 3);
        }
        self.await_info("replication", "role:master")
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

    /// The directory of the server's files. It is removed with the server.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The process id. After a [`kill`](Self::kill) it is that of the dead process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills the server, paused or not, and waits until it is dead.
    pub fn kill(&mut self) -> Result<(), ServerError> {
        self.process.end()
    }

    /// Restarts the server, empty, at the same address. A running server is
    /// killed first.
    pub fn restart(&mut self) -> Result<(), ServerError> {
        self.kill()?;
        // Replication leaves one on either side, according to the version.
        match fs::remove_file(self.directory().join(LOADED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let attempt = format!("remove {LOADED} before redis is restarted");
                Err(ServerError::caused(attempt, &error))
            }
            _ => self.run(),
        }
    }

    /// Saves the server's data for
    /// [`restart_with_snapshot`](Self::restart_with_snapshot). It replaces an
    /// earlier snapshot.
    pub fn snapshot(&self) -> Result<(), ServerError> {
        self.command(&["SAVE"])?;
        let directory = self.directory();
        fs::rename(directory.join(LOADED), directory.join(SNAPSHOT))
            .map_err(|error| ServerError::caused("keep the snapshot that redis saved", &error))
    }

    /// Restarts the server with the data of the last [`snapshot`](Self::snapshot),
    /// at the same address. Later writes are lost, and keys that were deleted
    /// later exist again, unless they have expired. A running server is killed
    /// first.
    pub fn restart_with_snapshot(&mut self) -> Result<(), ServerError> {
        self.kill()?;
        let directory = self.directory();
        // A copy, for it may be asked for more than once.
        fs::copy(directory.join(SNAPSHOT), directory.join(LOADED))
            .map_err(|error| ServerError::caused("bring back the snapshot of redis", &error))?;
        self.run()
    }

    fn run(&mut self) -> Result<(), ServerError> {
        self.process =
            Process::start(&self.program, &self.arguments, &self.directory, Ending::Kill, None)?;
        self.await_ready()
    }

    /// Suspends the server. The kernel still accepts connections for it, but it
    /// answers no command.
    pub fn pause(&mut self) -> Result<(), ServerError> {
        self.process.signal("STOP")?;
        wait_for(PATIENCE, || (state(self.pid()) == Some('T')).then_some(())).ok_or_else(|| {
            ServerError::new(format!("pause redis ({}): it does not stop", self.pid()))
        })
    }

    /// Resumes a paused server and waits until it answers.
    pub fn resume(&mut self) -> Result<(), ServerError> {
        self.process.signal("CONT")?;
        self.await_ready()
    }

    /// Runs one command and returns its reply as [text](Reply), so that a test
    /// needs no client of the cache's kind. An error reply is an error here.
    ///
    /// Each command has a connection of its own, by the unix socket. No
    /// `CLIENT KILL` closes it, and no [proxy](super::Proxy) is in its way.
    pub fn command(&self, arguments: &[impl AsRef<[u8]>]) -> Result<String, ServerError> {
        self.reply(arguments).map(|reply| reply.to_string())
    }

    /// As [`command`](Self::command), with the reply as it is: for values that
    /// are not text, and to distinguish no value from an empty one.
    pub fn reply(&self, arguments: &[impl AsRef<[u8]>]) -> Result<Reply, ServerError> {
        let words = arguments.iter().map(|word| String::from_utf8_lossy(word.as_ref()));
        // Values may be long, and the first words identify the command.
        let said: Vec<_> = words.take(4).collect();
        let attempt = format!("ask the redis on {} to {}", self.socket.display(), said.join(" "));
        match ask(&self.socket, arguments) {
            Ok(Reply::Error(error)) => Err(ServerError::new(format!("{attempt}: {error}"))),
            Ok(reply) => Ok(reply),
            Err(error) => Err(ServerError::caused(attempt, &error)),
        }
    }

    fn await_info(&mut self, section: &str, line: &str) -> Result<(), ServerError> {
        let mut last = Ok(String::new());
        wait_for(PATIENCE, || {
            last = self.command(&["INFO", section]);
            last.as_ref().is_ok_and(|info| info.lines().any(|each| each == line)).then_some(())
        })
        .ok_or_else(|| {
            let last = last.unwrap_or_else(|error| error.to_string());
            ServerError::new(format!(
                "wait for {line} of the redis on {}: not within {PATIENCE:?}, but\n{last}{}",
                self.socket.display(),
                self.process.log()
            ))
        })
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

/// The argument that makes a replica of a server, and the host of its primary.
/// The port comes after them.
const REPLICA_OF: [&str; 2] = ["--replicaof", "127.0.0.1"];

fn ask(socket: &Path, arguments: &[impl AsRef<[u8]>]) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&resp::command(arguments))?;
    let (mut answer, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let length = match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => length,
        };
        answer.extend_from_slice(&buffer[..length]);
        if let Some((reply, _)) = Reply::parse(&answer) {
            return Ok(reply);
        }
    }
}

/// Whether the server answers. A request for a password is an answer.
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

pub(super) fn free_port() -> Result<u16, ServerError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| ServerError::caused("find a free port on 127.0.0.1", &error))
}
