//! The reason of a verdict, as a word for machines and as a sentence.

use larder::admin::{EntryReport, Verdict};

use crate::failure::counted;
use crate::text::{duration, thousands};

/// A word for machines.
pub(super) fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Served { .. } => "current",
        Verdict::Absent { .. } => "absent",
        Verdict::OtherFormat { .. } => "format",
        Verdict::WrongKey => "wrong-key",
        Verdict::Damaged => "damaged",
        Verdict::Incomplete { .. } => "incomplete",
        Verdict::Unauthentic | Verdict::Unsigned => "unauthentic",
        Verdict::NoDirectory | Verdict::OtherServer | Verdict::OtherEpoch { .. } => "epoch",
        Verdict::Invalidated { .. } => "invalidated",
        Verdict::NoTime | Verdict::ClockSetBack { .. } => "expiry",
        Verdict::Expired { .. } => "expired",
        Verdict::UnknownCodec => "codec",
        // `OtherType`, `Foreign`.
        _ => "foreign",
    }
}

pub(super) fn sentence(report: &EntryReport) -> String {
    match &report.verdict {
        Verdict::Served { fresh_for, unchecked } => {
            let sealed = match unchecked {
                true => "; if its MAC holds, for which the secret is needed",
                false => "",
            };
            format!(
                "current as of invalidation {}, and fresh for {} more{sealed}",
                thousands(report.directory.seq().unwrap_or(0)),
                duration(*fresh_for)
            )
        }
        Verdict::Absent { loading: None } => {
            "there is nothing under this key, and nobody loads it".to_owned()
        }
        Verdict::Absent { loading: Some(remaining) } => format!(
            "there is nothing yet: a process is loading it; its lease lasts {}, unless it is \
             renewed",
            duration(*remaining)
        ),
        Verdict::OtherType(reply) => format!("what is there is no string: {reply}"),
        Verdict::Foreign => "what is there was not written by larder".to_owned(),
        Verdict::OtherFormat { format, reads } => {
            format!("it is an entry of format {format}, and this build reads format {reads}")
        }
        Verdict::WrongKey => "it is the entry of another key, put under this one".to_owned(),
        Verdict::Damaged => "it is damaged: its checksum or its length does not hold".to_owned(),
        Verdict::Incomplete { missing } => format!(
            "{} of its value {} missing: evicted or deleted",
            counted(*missing, "part"),
            if *missing == 1 { "is" } else { "are" }
        ),
        Verdict::Unauthentic => "it was not written with this secret, or changed since".to_owned(),
        Verdict::Unsigned => {
            "it is not signed; processes that have this secret do not take it".to_owned()
        }
        Verdict::NoDirectory => "the directory is gone (evicted, flushed, or never there): the \
                                 next beat begins a new epoch, in which this is dead"
            .to_owned(),
        Verdict::OtherServer => "the directory is of another server (a restart, or a failover): \
                                 the next beat begins a new epoch, in which this is dead"
            .to_owned(),
        Verdict::OtherEpoch { entry, directory } => format!(
            "it is of epoch {entry}, and the directory is in {directory}: Redis had lost what it \
             knew meanwhile"
        ),
        Verdict::Invalidated { slot, loaded_at, invalidated_at } => {
            let state = report.slots.iter().find(|state| state.slot == *slot);
            let name = match state.map(|state| state.names.join(" or ")) {
                Some(names) if !names.is_empty() => format!(" ({names})"),
                _ => String::new(),
            };
            format!(
                "invalidated: its load began as of invalidation {}, and slot {slot}{name} was \
                 invalidated at {}",
                thousands(*loaded_at),
                thousands(*invalidated_at)
            )
        }
        Verdict::NoTime => "Redis does not tell the time (a user without the right to TIME?), and \
                            so its age cannot be told"
            .to_owned(),
        Verdict::ClockSetBack { remaining, life } => format!(
            "it has {} to live, longer than the {} it was stored with: Redis's clock has been put \
             back, and its age cannot be told",
            duration(*remaining),
            duration(*life)
        ),
        Verdict::Expired { ago } => format!(
            "its time to live ended {} ago; only stale_while_revalidate and stale_if_error may \
             serve it",
            duration(*ago)
        ),
        Verdict::UnknownCodec => "its codec is one that this build does not have (msgpack?); a \
                                  process that has it would serve it"
            .to_owned(),
        other => other.to_string(),
    }
}
