//! One database of a cluster, private to a test.

use std::path::PathBuf;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio_postgres::{Client, Config, NoTls};

use super::ServerError;

/// A database that no other test uses.
///
/// It is removed with its cluster, which must outlive it.
#[derive(Clone, Debug)]
pub struct Database {
    pub(super) socket_directory: PathBuf,
    pub(super) name: String,
    pub(super) role: String,
    pub(super) port: u16,
}

impl Database {
    /// The name, unique in this process.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same database, used by another role.
    pub fn as_role(&self, role: &str) -> Self {
        Self { role: role.to_owned(), ..self.clone() }
    }

    /// How to connect: as the superuser, unless it is [another role's](Self::as_role).
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config.host_path(&self.socket_directory).port(self.port);
        config.user(&self.role).dbname(&self.name);
        config
    }

    /// The same as a URL, which `psql` understands as well.
    pub fn url(&self) -> String {
        format!(
            "postgresql:///{}?user={}&host={}&port={}",
            self.name,
            self.role,
            self.socket_directory.display(),
            self.port,
        )
    }

    /// A client whose connection runs in a task of its own, until the client
    /// is dropped.
    pub async fn connect(&self) -> Result<Client, ServerError> {
        let connected = self.config().connect(NoTls).await;
        let (client, connection) = connected.map_err(|error| {
            ServerError::caused(format!("connect to the database {}", self.name), &error)
        })?;
        tokio::spawn(async move {
            // The client reports the error, too.
            let _ = connection.await;
        });
        Ok(client)
    }

    /// Ends all sessions of this database, as an operator does, and returns
    /// their number. They are gone when this returns.
    pub async fn terminate_sessions(&self) -> Result<u64, ServerError> {
        let client = self.connect().await?;
        let sql = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 60000)) \
                   FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid() \
                   AND backend_type = 'client backend'";
        let row = client.query_one(sql, &[]).await.map_err(|error| {
            ServerError::caused(format!("terminate the sessions of {}", self.name), &error)
        })?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }

    /// A pool of at most `size` connections, none of them opened yet.
    pub fn pool(&self, size: usize) -> Pool {
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(self.config(), NoTls, recycling);
        Pool::builder(manager)
            .max_size(size)
            .build()
            .expect("a pool without timeouts needs no runtime")
    }
}
