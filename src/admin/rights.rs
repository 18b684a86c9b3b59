//! Whether a user of Redis may use a command that Larder uses.

use redis::{Cmd, Value};

use super::redis::{Redis, command};
use super::{Error, ErrorKind};
pub use crate::l2::redis::rights::{MissingRight, Right};
use crate::l2::redis::rights::{of_protocol, of_publishing};

impl Redis {
    /// All commands that a cache uses, for [`missing_right`](Redis::missing_right).
    pub fn rights(&self) -> Vec<Right> {
        of_protocol(self.names())
    }

    /// The commands that [`publish_stats`](crate::QueryCacheBuilder::publish_stats) and readers of
    /// [`fleet_stats`](crate::QueryCache::fleet_stats) use in addition.
    pub fn rights_to_publish(&self) -> Vec<Right> {
        of_publishing(self.names())
    }

    /// What the user lacks to use a command; `None` if nothing.
    ///
    /// For the user of this connection, the command is tried on names that do not exist. For
    /// another `user`, Redis is asked by `ACL DRYRUN` (Redis 7 and later).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] if this connection's user may not use `ACL DRYRUN`; otherwise what
    /// Redis replied to the attempt.
    pub async fn missing_right(
        &self,
        right: &Right,
        user: Option<&str>,
    ) -> Result<Option<MissingRight>, Error> {
        let mut words = Cmd::new();
        if let Some(user) = user {
            words.arg("ACL").arg("DRYRUN").arg(user);
        }
        right.attempt().iter().for_each(|word| {
            words.arg(word);
        });
        let reply = match right.command() {
            // On the connection for commands, a notice could be taken for a reply.
            "subscribe" if user.is_none() => self.subscribe().await.map(|()| Value::Okay),
            _ => self.ask(&words).await,
        };
        match reply {
            Ok(Value::BulkString(reply)) if user.is_some() => {
                Ok(Some(MissingRight::of_reply(&String::from_utf8_lossy(&reply))))
            }
            Ok(_) => Ok(None),
            Err(error) => match error.kind() {
                ErrorKind::Denied(missing) if user.is_none() => Ok(Some(missing)),
                // There is no script with that digest, so the command may be used.
                ErrorKind::Refused if error.reply().contains("NOSCRIPT") => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// The name of the connection's user, as far as it is known.
    pub async fn user(&self) -> String {
        match self.text(&command(&["ACL", "WHOAMI"])).await {
            Ok(name) => name,
            Err(_) => self.configured_user(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two lists of one thing: what is tried here, and what the documentation says to grant.
    #[tokio::test]
    async fn the_rights_that_are_tried_are_those_of_the_documentation() {
        let redis = test_servers::Redis::shared().unwrap();
        let redis = Redis::connect(&redis.url(), "rights").await.unwrap();
        let mut tried: Vec<String> =
            redis.rights().iter().map(|right| format!("+{}", right.command())).collect();
        let documentation = include_str!("../cache/builder/redis.rs");
        let from = documentation.find("~larder:shop:*").unwrap();
        let until = from + documentation[from..].find("```").unwrap();
        let listed = documentation[from..until].split_whitespace();
        let mut listed: Vec<&str> = listed.filter(|word| word.starts_with('+')).collect();
        listed.sort_unstable();
        tried.sort_unstable();
        assert_eq!(tried, listed);
    }
}
