//! A private PostgreSQL cluster.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::guard::{Account, Directory, Ending, Process};
use super::{Database, Identity, PATIENCE, ServerError, find, template, wait_for};

/// Fast rather than durable. `synchronous_commit` stays on: with
/// it off, a logical slot shows nothing right after a commit. Shared memory is
/// in the data directory, so that it goes with it.
const SETTINGS: [&str; 11] = [
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "max_connections=200",
    "fsync=off",
    "full_page_writes=off",
    "dynamic_shared_memory_type=mmap",
    "max_wal_size=256MB",
    "logging_collector=off",
    "log_checkpoints=off",
    "timezone=UTC",
    "log_timezone=UTC",
];

/// A PostgreSQL cluster with the superuser `postgres`, reached by its socket.
///
/// Methods that harm a server take `&mut self`, so that no test can harm the
/// [shared](Self::shared) one.
#[derive(Debug)]
pub struct Postgres {
    // Fields are dropped in this order: first the server, then its directory.
    process: Process,
    directory: Directory,
    program: PathBuf,
    arguments: Vec<String>,
    account: Option<Account>,
    port: u16,
}

/// The port in the socket's name.
pub(super) const PORT: u16 = 5432;

impl Postgres {
    /// The cluster that this process shares. Each test uses a
    /// [database](Self::database) of its own in it.
    pub fn shared() -> Result<&'static Self, ServerError> {
        static SHARED: OnceLock<Result<Postgres, ServerError>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref().map_err(Clone::clone)
    }

    /// A cluster in memory, or on disk where memory is short.
    pub fn start() -> Result<Self, ServerError> {
        Self::start_with(&[])
    }

    /// As [`start`](Self::start), with more settings: `["wal_level=logical"]`.
    pub fn start_with(settings: &[&str]) -> Result<Self, ServerError> {
        Self::launch(&template::memory(), settings, PORT, |_, _| Ok(()))
    }

    /// A cluster that also listens on a [port](Self::port) of 127.0.0.1, with a certificate for
    /// `localhost` if there is one. `access` are the lines of its `pg_hba.conf`.
    pub fn start_with_access(
        access: &str,
        identity: Option<&Identity>,
        settings: &[&str],
    ) -> Result<Self, ServerError> {
        let port = super::redis::free_port()?;
        let listen = format!("port={port}");
        let mut all = vec!["listen_addresses=127.0.0.1", listen.as_str()];
        if identity.is_some() {
            all.extend(["ssl=on", "ssl_cert_file=server.crt", "ssl_key_file=server.key"]);
        }
        all.extend(settings);
        Self::launch(&template::memory(), &all, port, |data, account| {
            let put = |name: &str, text: &str| -> io::Result<()> {
                let path = data.join(name);
                fs::write(&path, text)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
                match account {
                    Some(account) => chown(&path, Some(account.uid), Some(account.gid)),
                    None => Ok(()),
                }
            };
            put("pg_hba.conf", access)?;
            if let Some(identity) = identity {
                put("server.crt", &identity.certificate)?;
                put("server.key", &identity.key)?;
            }
            Ok(())
        })
    }

    /// A cluster on disk, for data that would fill the memory.
    pub fn start_on_disk(settings: &[&str]) -> Result<Self, ServerError> {
        Self::launch(&template::disk(), settings, PORT, |_, _| Ok(()))
    }

    /// `equip` puts files into the data directory.
    fn launch(
        parent: &Path,
        settings: &[&str],
        port: u16,
        equip: impl FnOnce(&Path, Option<Account>) -> io::Result<()>,
    ) -> Result<Self, ServerError> {
        let bin = find::postgres()?;
        let directory = Directory::new(parent)?;
        let account = template::account(&directory)?;
        let data = template::data_directory(&bin, &directory, account)?;
        equip(&data, account).map_err(|error| {
            ServerError::caused(format!("write files into {}", data.display()), &error)
        })?;

        let sockets = directory.path().display();
        let mut arguments = vec!["-D".to_owned(), data.display().to_string()];
        let mut set = |setting: &str| arguments.extend(["-c".to_owned(), setting.to_owned()]);
        set(&format!("unix_socket_directories={sockets}"));
        SETTINGS.into_iter().for_each(&mut set);
        if has_library(&bin, "pg_stat_statements") {
            set("shared_preload_libraries=pg_stat_statements");
        }
        // The last of a kind wins, so that those of the caller override ours.
        settings.iter().copied().for_each(&mut set);

        let program = bin.join("postgres");
        let process = run(&program, &arguments, &directory, account)?;
        let mut postgres = Self { process, directory, program, arguments, account, port };
        postgres.await_ready()?;
        Ok(postgres)
    }

    /// A new database, empty but for what every database has.
    pub async fn database(&self) -> Result<Database, ServerError> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let database = Database {
            socket_directory: self.directory.path().to_owned(),
            name: format!("larder_{number}"),
            role: "postgres".to_owned(),
            port: self.port,
        };
        let maintenance = Database { name: "postgres".to_owned(), ..database.clone() };
        let client = maintenance.connect().await?;
        // template0 allows no sessions, so it is never in use. template1 is in
        // use whenever a client is connected to it.
        let name = database.name();
        client
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0"))
            .await
            .map_err(|error| ServerError::caused(format!("create the database {name}"), &error))?;
        Ok(database)
    }

    /// The directory of the socket. It is removed with the server.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The path of the unix socket, for a [proxy](super::Proxy).
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join(format!(".s.PGSQL.{}", self.port))
    }

    /// The port in the socket's name. On 127.0.0.1 it listens there only if it was
    /// [started so](Self::start_with_access).
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The postmaster's process id. After a stop it is that of the ended process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Stops the server as an operator does: sessions are ended and their
    /// transactions rolled back.
    pub fn stop(&mut self) -> Result<(), ServerError> {
        if self.process.is_over() {
            return Ok(());
        }
        self.process.signal("INT")?;
        self.process.wait().map(drop)
    }

    /// Stops the server as if it had crashed: the next start recovers.
    pub fn crash(&mut self) -> Result<(), ServerError> {
        self.process.end()
    }

    /// Restarts the server with its data, at the same address. A running server
    /// is stopped first.
    pub fn restart(&mut self) -> Result<(), ServerError> {
        self.stop()?;
        self.process = run(&self.program, &self.arguments, &self.directory, self.account)?;
        self.await_ready()
    }

    fn await_ready(&mut self) -> Result<(), ServerError> {
        let socket = self.socket();
        let attempt = format!("start {} on {}", self.program.display(), socket.display());
        let outcome = wait_for(PATIENCE, || {
            if let Some(status) = self.process.exited() {
                return Some(Err(status));
            }
            answers(&socket, "postgres").then_some(Ok(()))
        });
        match outcome {
            Some(Ok(())) => Ok(()),
            Some(Err(status)) => {
                Err(ServerError::new(format!("{attempt}: {status}{}", self.process.log())))
            }
            None => Err(ServerError::new(format!(
                "{attempt}: no session within {PATIENCE:?}{}",
                self.process.log()
            ))),
        }
    }
}

/// `QUIT` is the fastest end that leaves no shared memory behind, as `KILL`
/// would; the postmaster itself kills the sessions that do not obey.
fn run(
    program: &Path,
    arguments: &[String],
    directory: &Directory,
    account: Option<Account>,
) -> Result<Process, ServerError> {
    // Written after the handlers are in place, before any shared memory is.
    let handled = directory.path().join("data/postmaster.pid");
    let ending = Ending::Quit(&handled);
    Process::start(program, arguments, directory, ending, account)
}

/// Whether a session can be opened. A server that still starts, or recovers,
/// accepts the connection and then refuses the session.
pub(super) fn answers(socket: &Path, database: &str) -> bool {
    let ask = || -> io::Result<u8> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        // Length, protocol 3.0, parameters: what every client sends first.
        let parameters = format!("user\0postgres\0database\0{database}\0\0");
        let length = 8 + u32::try_from(parameters.len()).unwrap_or_default();
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(&(3_u32 << 16).to_be_bytes())?;
        stream.write_all(parameters.as_bytes())?;
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        stream.write_all(b"X\0\0\0\x04")?;
        Ok(kind[0])
    };
    // `R` is authentication, here a yes; `E` would be an error.
    ask().is_ok_and(|kind| kind == b'R')
}

/// Whether this installation has a loadable library of that name. Debian
/// packages it with the server, others apart.
fn has_library(bin: &Path, name: &str) -> bool {
    // The program on PATH may be a link into the installation.
    let Ok(program) = fs::canonicalize(bin.join("postgres")) else {
        return false;
    };
    let Some(root) = program.parent().and_then(Path::parent) else {
        return false;
    };
    ["lib", "lib/postgresql", "lib/pgsql", "lib64/pgsql"]
        .iter()
        .flat_map(|place| ["so", "dylib"].map(|kind| (place, kind)))
        .any(|(place, kind)| root.join(place).join(format!("{name}.{kind}")).exists())
}
