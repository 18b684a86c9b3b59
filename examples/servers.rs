//! Starts a private Redis and a private PostgreSQL, runs a command with their addresses in its
//! environment, and stops them when the command ends:
//!
//! ```text
//! cargo run --example servers -- target/release/larder bench
//! ```
//!
//! The variables are `LARDER_REDIS`, `LARDER_POSTGRES` and `LARDER_NAMESPACE`, and, for other
//! programs, `REDIS_URL` and `DATABASE_URL`. The example exits with the exit code of the command.

use std::error::Error;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;

use test_servers::{Postgres, Redis};
use tokio::process::Command;
use tokio::signal::ctrl_c;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else {
        eprintln!("usage: cargo run --example servers -- COMMAND [ARGUMENT…]");
        return Ok(ExitCode::from(2));
    };
    let (redis, postgres) = (Redis::start()?, Postgres::start_with(&["wal_level=logical"])?);
    let database = postgres.database().await?;
    let mut child = Command::new(&program)
        .args(words)
        .envs([("LARDER_REDIS", redis.url()), ("REDIS_URL", redis.url())])
        .envs([("LARDER_POSTGRES", database.url()), ("DATABASE_URL", database.url())])
        .env("LARDER_NAMESPACE", "servers")
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status?;
                let code = status.code().or(status.signal().map(|signal| 128 + signal));
                return Ok(ExitCode::from(code.and_then(|it| u8::try_from(it).ok()).unwrap_or(1)));
            }
            // The command receives Ctrl-C as well, and may still need the servers until it ends.
            _ = ctrl_c() => {}
        }
    }
}
