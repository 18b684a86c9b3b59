//! What was seen of an entry, as text and as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::json;

use larder::admin::{EntryCodec, EntryDetails, EntryHeader, EntryReport, Seal};

use super::value::Shown;
use super::why;
use crate::failure::{Failure, counted};
use crate::text::{self, BOLD, RESET, bytes, duration, thousands};

pub(super) fn print(report: &EntryReport, value: Option<Shown>, json: bool) -> Result<(), Failure> {
    if json {
        text::print_json(&as_json(report, value))
    } else {
        text::print(&as_text(report, value, text::width()))
    }
}

fn codec(header: &EntryHeader) -> String {
    match header.codec {
        EntryCodec::Rows => "rows".to_owned(),
        EntryCodec::Json => "JSON".to_owned(),
        EntryCodec::MessagePack => "MessagePack".to_owned(),
        EntryCodec::Unknown(id) => format!("unknown codec {id}"),
        _ => "unknown codec".to_owned(),
    }
}

fn seal(entry: &EntryDetails) -> &'static str {
    match (entry.seal, entry.signed) {
        (Seal::Holds, true) => "signed, and its MAC holds",
        (Seal::Holds, false) => "not signed, and its checksum holds",
        (Seal::Unchecked, _) => "signed, and its MAC not checked: no secret was given",
        (Seal::Unauthentic, true) => "signed, and its MAC does not hold",
        (Seal::Unauthentic, false) => "not signed, and a secret was given",
        _ => "broken",
    }
}

fn as_text(report: &EntryReport, value: Option<Shown>, width: usize) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: &str| {
        let first = format!("{label:<11}");
        let _ = writeln!(out, "{}", text::paragraph(&first, 11, text, width));
    };
    line("key", &report.name);
    let (colour, verdict) = if report.verdict.is_served() {
        ("\x1b[32m", "would be served")
    } else {
        ("\x1b[33m", "would not be served")
    };
    line("verdict", &format!("{verdict}: {}", why::sentence(report)));
    if let Some((entry, header)) = with_header(report) {
        line(
            "entry",
            &format!(
                "format {}, {}, {}, of which {} are the value{}; {}",
                entry.format,
                codec(&header),
                bytes(entry.size as u64),
                bytes(entry.payload().len() as u64),
                match entry.parts {
                    0 => String::new(),
                    parts => format!(", in {} under other keys", counted(parts, "part")),
                },
                seal(entry)
            ),
        );
        let age = match header.stored_for {
            Some(stored_for) => format!("stored {} ago", duration(stored_for)),
            None => "its age cannot be told".to_owned(),
        };
        let left = match header.remaining {
            Some(remaining) => format!("{} left", duration(remaining)),
            None => "nobody knows what is left".to_owned(),
        };
        let kept = if header.life == header.ttl {
            String::new()
        } else {
            format!(", and kept for {}", duration(header.life))
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
                header.epoch,
                thousands(header.seq),
                token(&header)
            ),
        );
    }
    line("directory", &directory(report));
    if with_header(report).is_some() {
        for (at, state) in report.slots.iter().enumerate() {
            let name = match state.names.as_slice() {
                [] => String::new(),
                names => format!(" ({})", names.join(" or ")),
            };
            let when = match state.invalidated_at {
                Some(number) => format!("invalidated at {}", thousands(number)),
                None => "not invalidated in this epoch".to_owned(),
            };
            let label = if at == 0 { "slots" } else { "" };
            line(label, &format!("{}{name}: {when}", state.slot));
        }
    }
    line("lease", &lease(report));
    // The verdict is what the eye looks for; it was wrapped without its colour.
    out = out.replacen(verdict, &format!("{colour}{BOLD}{verdict}{RESET}"), 1);
    if let Some(value) = value {
        let _ = writeln!(out, "\n{}", value.text);
    }
    out
}

fn with_header(report: &EntryReport) -> Option<(&EntryDetails, EntryHeader)> {
    let entry = report.entry.as_ref()?;
    Some((entry, entry.header?))
}

fn token(header: &EntryHeader) -> String {
    format!("{:032x}", header.token)
}

fn directory(report: &EntryReport) -> String {
    match report.directory.epoch().zip(report.directory.seq()) {
        None => "none".to_owned(),
        Some((epoch, seq)) => format!("epoch {epoch}, at invalidation {}", thousands(seq)),
    }
}

fn lease(report: &EntryReport) -> String {
    match &report.lease {
        None => "none: nobody loads it".to_owned(),
        Some(lease) => {
            let waits = if lease.awaited { "others wait for it" } else { "nobody else waits" };
            format!(
                "a load is under way, as of invalidation {} of epoch {}; {} left unless it is \
                 renewed; {waits}",
                thousands(lease.seq),
                lease.epoch,
                duration(lease.remaining.unwrap_or_default())
            )
        }
    }
}

fn as_json(report: &EntryReport, value: Option<Shown>) -> serde_json::Value {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let entry = report.entry.as_ref().map(|entry| {
        let header = entry.header;
        json!({
            "format": entry.format,
            "codec": header.as_ref().map(codec),
            "bytes": entry.size,
            "value_bytes": entry.payload().len(),
            "parts": entry.parts,
            "signed": entry.signed,
            "seal": match entry.seal {
                Seal::Holds => "holds",
                Seal::Unchecked => "not checked",
                _ => "broken",
            },
            "ttl_ms": header.map(|header| millis(header.ttl)),
            "life_ms": header.map(|header| millis(header.life)),
            "load_us": header.map(|header| micros(header.load)),
            "stored_ms_ago": header.and_then(|header| header.stored_for).map(millis),
            "remaining_ms": header.and_then(|header| header.remaining).map(millis),
            "epoch": header.map(|header| header.epoch),
            "asof": header.map(|header| header.seq),
            "load": header.as_ref().map(token),
            "cells": report.slots.iter().map(|state| json!({
                "cell": state.slot,
                "name": Some(state.names.join(" or ")).filter(|name| !name.is_empty()),
                "invalidated_at": state.invalidated_at,
            })).collect::<Vec<_>>(),
        })
    });
    let directory = report.directory;
    let mut all = json!({
        "key": report.key.to_string(),
        "name": report.name,
        "served": report.verdict.is_served(),
        "reason": why::word(&report.verdict),
        "why": why::sentence(report),
        "entry": entry,
        "directory": directory.epoch().map(|epoch| json!({
            "epoch": epoch,
            "seq": directory.seq(),
            "is_of_this_server": directory.is_of_this_server(),
        })),
        "lease": report.lease.as_ref().map(|lease| json!({
            "epoch": lease.epoch,
            "asof": lease.seq,
            "awaited": lease.awaited,
            "remaining_ms": lease.remaining.map(millis),
        })),
    });
    if let Some(value) = value {
        all["value"] = value.json;
    }
    all
}
