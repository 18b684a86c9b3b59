//! What was seen of an entry, as text and as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::json;

use super::value::Shown;
use super::verdict::{Seal, Sight};
use crate::codec::Codec;
use crate::command::failure::Failure;
use crate::command::text::{self, BOLD, RESET, bytes, duration, thousands};
use crate::entry::{Claim, Header, Refusal};

pub(super) fn print(
    sight: &Sight,
    name: &str,
    value: Option<Shown>,
    json: bool,
) -> Result<(), Failure> {
    match json {
        true => text::print_json(&as_json(sight, name, value)),
        false => text::print(&as_text(sight, name, value, text::width())),
    }
}

fn codec(header: &Header) -> String {
    match (header.codec, Codec::of_id(header.codec)) {
        (0, _) => "rows".to_owned(),
        (1, _) => "JSON".to_owned(),
        (2, _) => "MessagePack".to_owned(),
        (id, _) => format!("unknown codec {id}"),
    }
}

fn seal(sight: &Sight, claim: &Claim) -> &'static str {
    match (sight.seal, claim.signed) {
        (Seal::Holds, true) => "signed, and its MAC holds",
        (Seal::Holds, false) => "not signed, and its checksum holds",
        (Seal::Unchecked, _) => "signed, and its MAC not checked: no secret was given",
        (Seal::Broken(Refusal::Unauthentic), true) => "signed, and its MAC does not hold",
        (Seal::Broken(Refusal::Unauthentic), false) => "not signed, and a secret was given",
        (Seal::Broken(_), _) => "broken",
        (Seal::Nothing, _) => "nothing",
    }
}

fn as_text(sight: &Sight, name: &str, value: Option<Shown>, width: usize) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: &str| {
        let first = format!("{label:<11}");
        let _ = writeln!(out, "{}", text::paragraph(&first, 11, text, width));
    };
    line("key", name);
    let (colour, verdict) = match sight.verdict.served {
        true => ("\x1b[32m", "would be served"),
        false => ("\x1b[33m", "would not be served"),
    };
    line("verdict", &format!("{verdict}: {}", sight.verdict.why));
    if let Some((claim, header)) = sight.claim.as_ref().zip(sight.header()) {
        line(
            "entry",
            &format!(
                "format {}, {}, {}, of which {} are the value; {}",
                claim.format,
                codec(header),
                bytes(sight.size as u64),
                bytes(claim.payload.len() as u64),
                seal(sight, claim)
            ),
        );
        let age = match sight.stored_for() {
            Some(stored_for) => format!("stored {} ago", duration(stored_for)),
            None => "its age cannot be told".to_owned(),
        };
        let left = match sight.remaining() {
            Some(remaining) => format!("{} left", duration(remaining)),
            None => "nobody knows what is left".to_owned(),
        };
        let kept = match header.life == header.ttl {
            true => String::new(),
            false => format!(", and kept for {}", duration(header.life)),
        };
        line(
            "life",
            &format!(
                "fresh for {}{kept}; {age}, {left}; its load took {}",
                duration(header.ttl),
                duration(header.load)
            ),
        );
        line(
            "stamp",
            &format!(
                "epoch {}, as of invalidation {}; load {}",
                header.at.epoch,
                thousands(header.at.seq),
                token(header)
            ),
        );
    }
    line("directory", &directory(sight));
    if sight.header().is_some() {
        for (at, (cell, name, number)) in sight.cells().into_iter().enumerate() {
            let name = if name.is_empty() { name } else { format!(" ({name})") };
            let when = match number {
                Some(number) => format!("invalidated at {}", thousands(number)),
                None => "not invalidated in this epoch".to_owned(),
            };
            let label = if at == 0 { "cells" } else { "" };
            line(label, &format!("{}{name}: {when}", cell.index()));
        }
    }
    line("lease", &lease(sight));
    // The verdict is what the eye looks for; it was wrapped without its colour.
    out = out.replacen(verdict, &format!("{colour}{BOLD}{verdict}{RESET}"), 1);
    if let Some(value) = value {
        let _ = writeln!(out, "\n{}", value.text);
    }
    out
}

fn token(header: &Header) -> String {
    format!("{:032x}", u128::from_be_bytes(header.token.0))
}

fn directory(sight: &Sight) -> String {
    match sight.directory.at {
        None => "none".to_owned(),
        Some(at) => format!("epoch {}, at invalidation {}", at.epoch, thousands(at.seq)),
    }
}

fn lease(sight: &Sight) -> String {
    match &sight.looked.lease {
        None => "none: nobody loads it".to_owned(),
        Some(lease) => {
            let waits = if lease.awaited { "others wait for it" } else { "nobody else waits" };
            format!(
                "a load is under way, as of invalidation {} of epoch {}; {} left unless it is \
                 renewed; {waits}",
                thousands(lease.at.seq),
                lease.at.epoch,
                duration(lease.remaining.unwrap_or_default())
            )
        }
    }
}

fn as_json(sight: &Sight, name: &str, value: Option<Shown>) -> serde_json::Value {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let entry = sight.claim.as_ref().map(|claim| {
        let header = sight.header();
        json!({
            "format": claim.format,
            "codec": header.map(codec),
            "bytes": sight.size,
            "value_bytes": claim.payload.len(),
            "signed": claim.signed,
            "seal": match sight.seal {
                Seal::Holds => "holds",
                Seal::Unchecked => "not checked",
                Seal::Broken(_) => "broken",
                Seal::Nothing => "nothing",
            },
            "ttl_ms": header.map(|header| millis(header.ttl)),
            "life_ms": header.map(|header| millis(header.life)),
            "load_us": header.map(|header| u64::try_from(header.load.as_micros()).unwrap_or(u64::MAX)),
            "stored_ms_ago": sight.stored_for().map(millis),
            "remaining_ms": sight.remaining().map(millis),
            "epoch": header.map(|header| header.at.epoch),
            "asof": header.map(|header| header.at.seq),
            "load": header.map(token),
            "cells": sight.cells().into_iter().map(|(cell, name, number)| json!({
                "cell": cell.index(),
                "name": Some(name).filter(|name| !name.is_empty()),
                "invalidated_at": number,
            })).collect::<Vec<_>>(),
        })
    });
    let mut all = json!({
        "key": &*sight.key.to_hex(),
        "name": name,
        "served": sight.verdict.served,
        "reason": sight.verdict.reason,
        "why": sight.verdict.why,
        "entry": entry,
        "directory": sight.directory.at.map(|at| json!({
            "epoch": at.epoch,
            "seq": at.seq,
            "is_of_this_server": sight.directory.is_of_this_server,
        })),
        "lease": sight.looked.lease.as_ref().map(|lease| json!({
            "epoch": lease.at.epoch,
            "asof": lease.at.seq,
            "awaited": lease.awaited,
            "remaining_ms": lease.remaining.map(millis),
        })),
    });
    if let Some(value) = value {
        all["value"] = value.json;
    }
    all
}
