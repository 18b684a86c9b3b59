//! [`Config`]: where the servers are, from flags, environment and file.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use super::failure::Failure;

/// What is asked for on the command line or in the environment.
#[derive(Args)]
#[command(next_help_heading = "Servers")]
pub(super) struct Connection {
    /// Where Redis is: redis://[user:password@]host[:port][/database] or unix:///path/to.sock, over
    /// TLS rediss://… A password is better kept in the environment or in the configuration file
    #[arg(long, value_name = "URL", env = "LARDER_REDIS", global = true, hide_env_values = true)]
    redis: Option<String>,

    /// Where PostgreSQL is: postgres://user:password@host/database, or words like
    /// "host=/run/postgresql dbname=shop"; with sslmode=require over TLS. Certificates are checked
    /// against the file of sslrootcert, the authorities of this machine, or the file SSL_CERT_FILE
    #[arg(
        long,
        value_name = "URL",
        env = "LARDER_POSTGRES",
        global = true,
        hide_env_values = true
    )]
    postgres: Option<String>,

    /// The namespace of the cache, as its processes have it
    #[arg(long, value_name = "NAME", env = "LARDER_NAMESPACE", global = true)]
    namespace: Option<String>,

    /// A file with the secret that entries are signed with, if the cache has one. LARDER_SECRET in
    /// the environment is the secret itself
    #[arg(long, value_name = "FILE", env = "LARDER_SECRET_FILE", global = true)]
    secret_file: Option<PathBuf>,

    /// A TOML file with any of redis, postgres, namespace and secret_file; what flags and
    /// environment say goes before it [default: larder.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "LARDER_CONFIG", global = true)]
    config: Option<PathBuf>,
}

/// The same from a file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    redis: Option<String>,
    postgres: Option<String>,
    namespace: Option<String>,
    secret_file: Option<PathBuf>,
}

const DEFAULT: &str = "larder.toml";

/// What is known of the servers.
pub(super) struct Config {
    redis: Option<String>,
    postgres: Option<String>,
    namespace: Option<String>,
    pub(super) secret: Option<Vec<u8>>,
}

impl Config {
    pub(super) fn gather(given: Connection) -> Result<Config, Failure> {
        let file = match &given.config {
            Some(path) => File::read(path)?,
            None if Path::new(DEFAULT).exists() => File::read(Path::new(DEFAULT))?,
            None => File::default(),
        };
        let secret = match given.secret_file.or(file.secret_file) {
            Some(path) => Some(std::fs::read(&path).map_err(|error| cannot_read(&path, error))?),
            None => std::env::var("LARDER_SECRET").ok().map(String::into_bytes),
        };
        Ok(Config {
            redis: given.redis.or(file.redis),
            postgres: given.postgres.or(file.postgres),
            namespace: given.namespace.or(file.namespace),
            secret,
        })
    }

    pub(super) fn redis(&self) -> Result<&str, Failure> {
        self.redis.as_deref().ok_or_else(|| missing("Redis", "redis", "LARDER_REDIS"))
    }

    pub(super) fn postgres(&self) -> Result<&str, Failure> {
        self.postgres.as_deref().ok_or_else(|| missing("PostgreSQL", "postgres", "LARDER_POSTGRES"))
    }

    pub(super) fn namespace(&self) -> Result<&str, Failure> {
        self.namespace
            .as_deref()
            .ok_or_else(|| missing("the namespace", "namespace", "LARDER_NAMESPACE"))
    }
}

impl File {
    fn read(path: &Path) -> Result<File, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| cannot_read(path, error))?;
        // Not the whole of toml's message: it shows the line, which may hold a password.
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            Failure::usage(format!(
                "the configuration in {} does not hold together, line {line}: {}",
                path.display(),
                error.message()
            ))
        })
    }
}

fn cannot_read(path: &Path, error: impl Display) -> Failure {
    Failure::usage(format!("cannot read {}: {error}", path.display()))
}

fn missing(what: &str, flag: &str, variable: &str) -> Failure {
    let verb = if what == "the namespace" { "what is" } else { "where is" };
    Failure::usage(format!(
        "{verb} {what}? Say --{flag}, or set {variable}, or write {flag} = \"…\" into {DEFAULT}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Connection {
        Connection { redis: None, postgres: None, namespace: None, secret_file: None, config: None }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_flag_goes_before_the_file() {
        let file = file("redis = 'redis://file'\nnamespace = 'file'");
        let config = Config::gather(Connection {
            namespace: Some("flag".into()),
            config: Some(file.path().into()),
            ..nothing()
        })
        .unwrap_or_else(|_| panic!());
        assert_eq!(config.redis().unwrap(), "redis://file");
        assert_eq!(config.namespace().unwrap(), "flag");
        let missing = format!("{:?}", config.postgres().unwrap_err());
        assert!(missing.contains("--postgres") && missing.contains("LARDER_POSTGRES"), "{missing}");
    }

    #[test]
    fn a_file_with_a_mistake_is_named_without_its_secrets() {
        let file = file("namespace = 'shop'\nredys = 'redis://:hunter2@host'");
        let given = Connection { config: Some(file.path().into()), ..nothing() };
        let Err(failure) = Config::gather(given) else { panic!("it was taken") };
        let text = format!("{failure:?}");
        assert!(text.contains("line 2") && text.contains("redys"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
