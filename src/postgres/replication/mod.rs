//! Logical replication: a connection that PostgreSQL streams its committed changes on.
//!
//! `tokio-postgres` cannot replicate. It connects here all the same ([`dial`], [`login`]), so that
//! hosts, TLS and passwords are as in the application's own connections; what is different after the
//! login is spoken here ([`connection`]). [`test_decoding`] reads what the server's plugin writes.

pub(crate) mod connection;
pub(crate) mod dial;
pub(crate) mod error;
mod login;
pub(crate) mod test_decoding;
#[cfg(all(test, feature = "redis"))]
mod tests;
