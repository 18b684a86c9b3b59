//! The command `larder` against real servers, as a person runs it: one module per question.

#[path = "../servers/mod.rs"]
mod servers;

mod bench;
mod check;
mod inspect;
mod invalidate;
mod manual;
mod refresh;
mod report;
mod sample;
mod stats;
mod support;
mod tls;
mod watch;
