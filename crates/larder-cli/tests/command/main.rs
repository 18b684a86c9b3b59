//! The command `larder` against real servers, as a person runs it: one module per question.

use test_servers as servers;

mod bench;
mod check;
mod connection;
mod explain;
mod follow;
mod inspect;
mod invalidate;
mod ls;
mod manual;
mod refresh;
mod report;
mod sample;
mod stats;
mod support;
mod tls;
mod watch;
