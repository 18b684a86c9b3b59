//! [`FollowStats`]: what the follower of a cache does, and has done.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the follower of this process does now, and what it has done since the cache was built: from
/// [`QueryCache::follow_stats`](crate::QueryCache::follow_stats).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct FollowStats {
    /// Whether this process reads the database's changes, and announces them.
    pub role: FollowRole,
    /// Why it does not read them now, and what to do; `None` while it does.
    pub reason: Option<String>,
    /// While it stands by: whether it would go on without invalidating anything if the leader ended
    /// now. That takes some seconds after it has begun to stand by.
    pub is_ready: bool,
    /// The number of the last term in which this process led.
    pub term: u64,
    /// The last round of that term.
    pub round: u64,
    /// How long the last round took: a change that was visible so long before its end is announced.
    pub lag: Duration,
    /// Transactions that are committed and not visible yet, as while a synchronous standby is waited
    /// for. They are announced when they are.
    pub held: u64,
    /// Rounds that this process has ended.
    pub rounds: u64,
    /// Committed transactions that were read, by this process as leader.
    pub transactions: u64,
    /// Relations that were announced as changed, with their parents. One counts in each round that
    /// announces it.
    pub announced: u64,
    /// How often this process had to stop reading, or could not begin to.
    pub failures: u64,
    /// How often everything that is followed was invalidated because nobody had read the changes for
    /// a while: at the first start, and if no other process stood by.
    pub wholesale_gaps: u64,
    /// … because a transaction became visible that had been committed before anybody read.
    pub wholesale_unseen: u64,
    /// … because a changed relation was dropped or renamed before it could be looked up.
    pub wholesale_unnamed: u64,
    /// … because a change could not be read, or a transaction wrote to more than 10,000 relations.
    pub wholesale_unreadable: u64,
    /// … because a definition was changed that any result may depend on: a function, an operator, a
    /// type, a role or a setting.
    pub wholesale_definitions: u64,
}

/// What a process does to follow the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FollowRole {
    /// It reads no changes: two other processes do, or it cannot.
    #[default]
    Off,
    /// It reads the changes and remembers them, to go on when the leader ends.
    StandsBy,
    /// It reads the changes and announces them to all processes.
    Leads,
}
