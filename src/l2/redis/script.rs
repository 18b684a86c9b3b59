//! [`Script`]: a Lua script that Redis executes atomically.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, ToRedisArgs, Value};

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
        let by_digest = head("EVALSHA", &self.digest);
        Call { by_digest, guard: None, code: self.code.clone(), keys: keys.len() }
    }

    /// A call that is refused wherever a plain write of its first key is refused.
    ///
    /// The scripts on the directory write as well, and Redis holds that against them. But not every
    /// version does so for each reason: on Redis 6.2.5 a script writes on a master that lacks the
    /// replicas which `min-replicas-to-write` demands.
    pub(super) fn guarded_call(&self, keys: &[&str]) -> Call {
        let mut guard = Cmd::new();
        // Changes nothing, and needs no memory.
        guard.arg("PERSIST").arg(keys[0]);
        Call { guard: Some(guard), ..self.call(keys) }
    }
}

/// A call of a script.
pub(super) struct Call {
    by_digest: Cmd,
    /// Sent before the script, in the same round trip.
    guard: Option<Cmd>,
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
        if self.guard.is_some() {
            return self.run_after([], connection).await.map(|([], reply)| reply);
        }
        // Not as a pipeline, for which the arguments would be copied.
        let reply = connection.send_packed_command(&self.by_digest).await?;
        self.or_by_code(reply, connection).await
    }

    /// The same, after other commands in the same round trip. Returns their replies as well.
    pub(super) async fn run_after<const N: usize>(
        &self,
        commands: [Cmd; N],
        connection: &mut MultiplexedConnection,
    ) -> Result<([Value; N], Value), RedisError> {
        let mut all = Pipeline::with_capacity(N + 2);
        for command in commands.into_iter().chain(self.guard.clone()) {
            all.add_command(command);
        }
        all.add_command(self.by_digest.clone());
        let mut replies = connection.send_packed_commands(&all, 0, all.len()).await?;
        let reply = replies.pop().ok_or_else(unexpected)?;
        if self.guard.is_some() {
            replies.pop().ok_or_else(unexpected)?.extract_error()?;
        }
        let replies = <[Value; N]>::try_from(replies).map_err(|_| unexpected())?;
        Ok((replies, self.or_by_code(reply, connection).await?))
    }

    async fn or_by_code(
        &self,
        reply: Value,
        connection: &mut MultiplexedConnection,
    ) -> Result<Value, RedisError> {
        match reply.extract_error() {
            Err(error) if is_unknown(&error) => {
                connection.send_packed_command(&self.by_code()).await?.extract_error()
            }
            reply => reply,
        }
    }
}

fn unexpected() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "a reply to each command is expected").into()
}

/// Whether Redis does not know the script of a call by its digest.
fn is_unknown(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
