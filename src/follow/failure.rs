//! [`Failure`]: why the database cannot be followed now, and what to do about it.

use std::fmt;

use crate::postgres::replication::error::{Refused, ReplicationError};

/// Why the database cannot be followed now.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    /// What was attempted, and on what.
    attempt: String,
    source: Option<ReplicationError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The role may not replicate.
    Right,
    /// `wal_level` is not `logical`.
    WalLevel,
    /// All slots are in use.
    Slots,
    /// All walsenders are in use, or all connections.
    Walsenders,
    /// The server has no `test_decoding`.
    Plugin,
    /// The address is that of a pooler.
    Pooler,
    /// No address is that of a primary.
    Standby,
    /// There is no such database.
    Database,
    /// The user or the password was refused.
    Credentials,
    /// The namespace's slots belong to another database.
    OtherDatabase,
    /// Other processes have the namespace's slots, and follow.
    Taken,
    /// Transactions are open that have to end before a slot is made.
    Waits,
    /// The address leads to another server than the one that is followed.
    OtherServer,
    /// The slot was invalidated: the server has removed its log.
    SlotLost,
    /// Anything else: mostly a connection that cannot be opened, or was lost.
    Connection,
}

impl FailureKind {
    /// A word for metrics and events.
    pub(crate) fn word(self) -> &'static str {
        match self {
            FailureKind::Right => "right",
            FailureKind::WalLevel => "wal_level",
            FailureKind::Slots => "slots",
            FailureKind::Walsenders => "walsenders",
            FailureKind::Plugin => "plugin",
            FailureKind::Pooler => "pooler",
            FailureKind::Standby => "standby",
            FailureKind::Database => "database",
            FailureKind::Credentials => "credentials",
            FailureKind::OtherDatabase => "other_database",
            FailureKind::Taken => "taken",
            FailureKind::Waits => "waits",
            FailureKind::OtherServer => "other_server",
            FailureKind::SlotLost => "slot_lost",
            FailureKind::Connection => "connection",
        }
    }

    /// Whether it lasts until somebody changes a setting, a right or the configuration.
    pub(crate) fn is_lasting(self) -> bool {
        match self {
            FailureKind::Right
            | FailureKind::WalLevel
            | FailureKind::Plugin
            | FailureKind::Pooler
            | FailureKind::Standby
            | FailureKind::Database
            | FailureKind::Credentials
            | FailureKind::OtherDatabase => true,
            FailureKind::Slots
            | FailureKind::Walsenders
            | FailureKind::Taken
            | FailureKind::Waits
            | FailureKind::OtherServer
            | FailureKind::SlotLost
            | FailureKind::Connection => false,
        }
    }

    /// What to do, after the reason.
    fn advice(self) -> &'static str {
        match self {
            FailureKind::Right => {
                "; grant the right with `ALTER ROLE … REPLICATION` (on Amazon RDS: `GRANT \
                 rds_replication TO …`)"
            }
            FailureKind::WalLevel => {
                "; set `wal_level = logical` and restart the server (on Amazon RDS: \
                 `rds.logical_replication = 1`, on Google Cloud SQL: \
                 `cloudsql.logical_decoding = on`)"
            }
            FailureKind::Slots => {
                "; raise `max_replication_slots`, or drop a slot that `pg_replication_slots` shows"
            }
            FailureKind::Walsenders => "; raise `max_wal_senders` or `max_connections`",
            FailureKind::Plugin => {
                "; install the server's contrib modules, to which `test_decoding` belongs"
            }
            FailureKind::Pooler => "; give the address of the server itself, past any pooler",
            FailureKind::Standby => "; give the address of the primary",
            FailureKind::Database => "; correct the name of the database",
            FailureKind::Credentials => "; correct the user or the password",
            FailureKind::OtherDatabase => "; give each database a namespace of its own",
            FailureKind::SlotLost => "; raise `max_slot_wal_keep_size`",
            FailureKind::Taken
            | FailureKind::Waits
            | FailureKind::OtherServer
            | FailureKind::Connection => "",
        }
    }
}

impl Failure {
    pub(super) fn new(kind: FailureKind, attempt: impl Into<String>) -> Failure {
        Failure { kind, attempt: attempt.into(), source: None }
    }

    /// What the server has refused, or that there is none.
    pub(super) fn of(attempt: impl Into<String>, source: ReplicationError) -> Failure {
        let kind = match &source {
            ReplicationError::Refused(refused) => kind(refused),
            _ => FailureKind::Connection,
        };
        Failure { kind, attempt: attempt.into(), source: Some(source) }
    }
}

fn kind(Refused { sqlstate, message }: &Refused) -> FailureKind {
    match sqlstate.as_str() {
        "42501" => FailureKind::Right,
        // The same state stands for several: a slot that was invalidated, and a server in recovery.
        "55000" if message.contains("wal_level") => FailureKind::WalLevel,
        "55000" if message.contains("recovery") => FailureKind::Standby,
        "55000" => FailureKind::SlotLost,
        "0A000" if message.contains("recovery") => FailureKind::Standby,
        "53400" => FailureKind::Slots,
        "53300" => FailureKind::Walsenders,
        "58P01" => FailureKind::Plugin,
        "3D000" => FailureKind::Database,
        "28000" | "28P01" => FailureKind::Credentials,
        // PgBouncer: "unsupported startup parameter: replication".
        "08P01" if message.contains("replication") => FailureKind::Pooler,
        "42710" => FailureKind::Taken,
        _ => FailureKind::Connection,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.attempt)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        f.write_str(self.kind.advice())
    }
}

impl std::error::Error for Failure {}
