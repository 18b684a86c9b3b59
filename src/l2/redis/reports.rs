//! [`Reports`]: refusals of Redis, counted and reported.

use super::endpoint::ConnectError;
use super::refusal::Refusal;
use crate::telemetry::counters::{Counters, count};
use crate::telemetry::trace;

/// Reports why attempts to connect fail: each reason once, until a connection succeeds.
pub(super) struct Reports<'a> {
    address: &'a str,
    counters: Option<&'a Counters>,
    last: String,
}

impl<'a> Reports<'a> {
    pub(super) fn new(address: &'a str, counters: Option<&'a Counters>) -> Reports<'a> {
        Reports { address, counters, last: String::new() }
    }

    pub(super) fn failed(&mut self, error: &ConnectError) {
        let reason = match error {
            ConnectError::Unreachable(_) => return,
            ConnectError::Refused(refusal) => {
                count_refusal(self.counters, refusal);
                refusal.to_string()
            }
            ConnectError::NoCredentials(error) => {
                if let Some(counters) = self.counters {
                    count(&counters.refused_credentials);
                }
                error.to_string()
            }
        };
        if reason == self.last {
            return;
        }
        match error {
            ConnectError::Unreachable(_) => {}
            ConnectError::Refused(refusal) => {
                trace::refused(self.address, refusal, refusal.is_of_credentials());
            }
            ConnectError::NoCredentials(error) => trace::no_credentials(self.address, error),
        }
        self.last = reason;
    }
}

pub(super) fn count_refusal(counters: Option<&Counters>, refusal: &Refusal) {
    if let Some(counters) = counters {
        count(if refusal.is_of_credentials() {
            &counters.refused_credentials
        } else {
            &counters.refused_connections
        });
    }
}
