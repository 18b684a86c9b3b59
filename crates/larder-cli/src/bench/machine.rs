//! The machine and the time of a benchmark.

use std::fs;

use super::report::Machine;

pub(super) fn machine() -> Machine {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    // Both are of Linux; elsewhere they are not told.
    let kibibytes = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split(' ').next().and_then(|number| number.parse::<u64>().ok()));
    Machine {
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        processor: field("/proc/cpuinfo", "model name"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: kibibytes.map(|kibibytes| kibibytes * 1024),
        debug_build: cfg!(debug_assertions),
    }
}

/// `2026-03-01T12:00:00Z`
pub(super) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
