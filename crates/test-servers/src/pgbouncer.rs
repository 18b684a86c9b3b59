//! A private PgBouncer.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::guard::{Directory, Ending, Process};
use super::{Database, PATIENCE, Postgres, ServerError, find, postgres, template, wait_for};

/// The database that is its console. The cluster has no such database.
const CONSOLE: &str = "pgbouncer";

/// Sessions are few, so that clients share them even in a small test. Nothing is
/// reset between clients, as is usual with transaction pooling: tests check what
/// follows from that.
///
/// `trust` instead of `any`, which makes every client the superuser.
const SETTINGS: [&str; 10] = [
    "listen_addr=",
    // No port, but part of the socket's name.
    "listen_port=5432",
    "unix_socket_mode=0700",
    "auth_type=trust",
    "admin_users=postgres",
    "ignore_startup_parameters=extra_float_digits,application_name",
    "pool_mode=transaction",
    "default_pool_size=2",
    "max_client_conn=200",
    // Seconds until it tries again to reach a cluster that it did not reach.
    "server_login_retry=0.1",
];

/// A PgBouncer in front of a cluster: transaction pooling, two sessions for
/// each database, and the cluster's superuser `postgres` for all clients.
///
/// The cluster must outlive its use.
#[derive(Debug)]
pub struct PgBouncer {
    // Fields are dropped in this order: first the server, then its directory.
    process: Process,
    directory: Directory,
}

impl PgBouncer {
    /// A PgBouncer for all databases of `cluster`, later ones included.
    ///
    /// `settings` are lines of the section `[pgbouncer]`, which override the
    /// defaults: `["default_pool_size=1"]`.
    pub fn start(cluster: &Postgres, settings: &[&str]) -> Result<Self, ServerError> {
        let program = find::pgbouncer()?;
        let directory = Directory::new(&template::temporary())?;
        let account = template::account(&directory)?;
        template::give(&directory, account)?;

        let (users, sockets) = (directory.path().join("users.txt"), directory.path());
        let mut ini = format!(
            "[databases]\n*=host={}\n[pgbouncer]\nunix_socket_dir={}\nauth_file={}\n",
            cluster.directory().display(),
            sockets.display(),
            users.display()
        );
        for setting in SETTINGS.iter().chain(settings) {
            let _ = writeln!(ini, "{setting}");
        }
        let configuration = directory.path().join("pgbouncer.ini");
        write(&users, "\"postgres\" \"\"\n")?;
        write(&configuration, &ini)?;

        // It leaves nothing to clean up: its sessions end with their sockets.
        let arguments = [configuration.as_os_str()];
        let process = Process::start(&program, &arguments, &directory, Ending::Kill, account)?;
        let mut bouncer = Self { process, directory };
        bouncer.await_ready(&program)?;
        Ok(bouncer)
    }

    /// The database of this name, reached through PgBouncer.
    ///
    /// To [end its sessions](Database::terminate_sessions), use the cluster's own
    /// [`Database`]: clients of PgBouncer share their sessions.
    pub fn database(&self, name: &str) -> Database {
        Database {
            socket_directory: self.directory.path().to_owned(),
            name: name.to_owned(),
            role: "postgres".to_owned(),
            port: super::postgres::PORT,
        }
    }

    /// The rows of the console's `SHOW`: `POOLS`, `CLIENTS`, `SERVERS`, `CONFIG`.
    /// All columns are text. Newer versions have more of them.
    pub async fn show(&self, what: &str) -> Result<Vec<SimpleQueryRow>, ServerError> {
        let console = self.database(CONSOLE).connect().await?;
        let messages = console.simple_query(&format!("SHOW {what}")).await;
        let messages = messages.map_err(|error| {
            ServerError::caused(format!("ask the console of pgbouncer to show {what}"), &error)
        })?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The directory of the socket. It is removed with the server.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The path of the unix socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join(".s.PGSQL.5432")
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn await_ready(&mut self, program: &Path) -> Result<(), ServerError> {
        let socket = self.socket();
        let attempt = format!("start {} on {}", program.display(), socket.display());
        let outcome = wait_for(PATIENCE, || {
            if let Some(status) = self.process.exited() {
                return Some(Err(status));
            }
            // For any other database it would open a session and keep it.
            postgres::answers(&socket, CONSOLE).then_some(Ok(()))
        });
        match outcome {
            Some(Ok(())) => Ok(()),
            Some(Err(status)) => {
                Err(ServerError::new(format!("{attempt}: {status}{}", self.process.log())))
            }
            None => Err(ServerError::new(format!(
                "{attempt}: no console within {PATIENCE:?}{}",
                self.process.log()
            ))),
        }
    }
}

/// Writes a file that the server can read as any user. Other users cannot pass
/// the directory.
fn write(path: &Path, text: &str) -> Result<(), ServerError> {
    let write = || -> io::Result<()> {
        fs::write(path, text)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644))
    };
    write().map_err(|error| ServerError::caused(format!("write {}", path.display()), &error))
}
