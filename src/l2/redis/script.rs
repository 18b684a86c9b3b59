//! [`Script`]: a Lua script that Redis executes atomically.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, ToRedisArgs, Value};

/// A script, called by its digest. Redis keeps the script until it restarts or its scripts are
/// flushed.
pub(super) struct Script {
    code: Arc<str>,
    digest: String,
}

impl Script {
    /// Joins the parts in order.
    pub(super) fn new(parts: &[&str]) -> Script {
        let code = parts.concat();
        let digest = redis::Script::new(&code).get_hash().to_owned();
        Script { code: code.into(), digest }
    }

    pub(super) fn call(&self, keys: &[&str]) -> Call {
        let head = |word: &str, script: &str| {
            let mut command = Cmd::new();
            command.arg(word).arg(script).arg(keys.len());
            for key in keys {
                command.arg(key);
            }
            command
        };
        Call { by_digest: head("EVALSHA", &self.digest), code: self.code.clone(), keys: keys.len() }
    }
}

/// A call of a script.
pub(super) struct Call {
    pub(super) by_digest: Cmd,
    code: Arc<str>,
    keys: usize,
}

impl Call {
    pub(super) fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Call {
        self.by_digest.arg(argument);
        self
    }

    /// The same call with the whole code, for a Redis that does not know the script. Redis knows it
    /// afterwards.
    pub(super) fn by_code(&self) -> Cmd {
        let mut command = Cmd::new();
        command.arg("EVAL").arg(&*self.code).arg(self.keys);
        // Skips the command, the digest and the number of keys.
        for argument in self.by_digest.args_iter().skip(3) {
            if let redis::Arg::Simple(bytes) = argument {
                command.arg(bytes);
            }
        }
        command
    }

    /// Calls the script by its digest, or by its whole code if Redis does not know it.
    pub(super) async fn run(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Value, RedisError> {
        let reply = send(connection, &self.by_digest).await;
        match reply {
            Err(error) if is_unknown(&error) => send(connection, &self.by_code()).await,
            reply => reply,
        }
    }
}

async fn send(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, RedisError> {
    connection.send_packed_command(command).await?.extract_error()
}

/// Whether Redis does not know the script of a call by its digest.
pub(super) fn is_unknown(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
