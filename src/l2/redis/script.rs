//! [`Script`]: a Lua script that Redis executes atomically.

use std::sync::Arc;

use redis::{Cmd, ToRedisArgs};

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
}
