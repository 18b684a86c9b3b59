//! The order of the rooms of `src`: imports point down, and no files import each other in a loop.
//!
//! `ARCHITECTURE.md` draws the rooms and describes each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms from bottom to top. A room imports only from rooms before it in this list.
const ROOMS: &[&str] = &[
    "sync",
    "backoff",
    "background",
    "error",
    "credentials",
    "clock",
    "patience",
    "policy",
    "rows",
    "value",
    "currency",
    "learn",
    "postgres",
    "telemetry",
    "l2",
    "l1",
    "flight",
    "fleet",
    "follow",
    "cache",
    "query",
    "refresh",
    "admin",
    "lib",
];

struct File {
    /// The file's module path, such as `l2::redis::link`.
    module: String,
    /// The file's text, without comments and unit tests.
    code: String,
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files() -> Vec<File> {
    let mut found = vec![];
    let mut directories = vec![source()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") && !is_test(&path) {
                let text = fs::read_to_string(&path).unwrap();
                found.push(File { module: module(&path), code: code(&text) });
            }
        }
    }
    found.sort_by(|one, other| one.module.cmp(&other.module));
    found
}

fn is_test(path: &Path) -> bool {
    let within = path.strip_prefix(source()).unwrap();
    within.components().any(|part| {
        let part = part.as_os_str().to_str().unwrap().trim_end_matches(".rs");
        part == "tests" || part.ends_with("_tests") || TESTS.contains(&part)
    })
}

/// Files and folders of unit tests under other names.
const TESTS: &[&str] = &["differential", "fixtures", "fuzz", "orders"];

fn module(path: &Path) -> String {
    let within = path.strip_prefix(source()).unwrap().with_extension("");
    let parts: Vec<&str> = within.iter().map(|part| part.to_str().unwrap()).collect();
    match parts.split_last() {
        Some((&"mod", above)) => above.join("::"),
        _ => parts.join("::"),
    }
}

fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Every path that a file imports from elsewhere in the crate, as a module path.
fn imports(file: &File) -> Vec<String> {
    let mut all = vec![];
    for (start, to) in [("crate::", ""), ("super::", above(&file.module))] {
        for (at, _) in file.code.match_indices(start) {
            if file.code[..at].ends_with(|it: char| it.is_alphanumeric() || it == '_' || it == ':')
            {
                continue;
            }
            let rest = &file.code[at + start.len()..];
            let path: String =
                rest.chars().take_while(|it| it.is_alphanumeric() || "_:".contains(*it)).collect();
            let path = path.trim_end_matches(':');
            match (to, path) {
                // The parent of an inline module; then, several public names of the root.
                ("", "") if start == "super::" => {}
                ("", "") => all.push("lib".to_owned()),
                ("", path) => all.push(path.to_owned()),
                (to, "") => all.push(to.to_owned()),
                (to, path) => all.push(format!("{to}::{path}")),
            }
        }
    }
    all
}

fn above(module: &str) -> &str {
    module.rsplit_once("::").map_or("", |(above, _)| above)
}

fn rank(room: &str) -> Option<usize> {
    ROOMS.iter().position(|it| *it == room)
}

#[test]
fn imports_point_down() {
    let mut wrong = vec![];
    let mut seen = 0;
    for file in files() {
        let room = file.module.split("::").next().unwrap();
        let Some(floor) = rank(room) else {
            wrong.push(format!("{room} is a room that ROOMS does not list"));
            continue;
        };
        for import in imports(&file) {
            let other = import.split("::").next().unwrap();
            if other == room {
                continue;
            }
            seen += 1;
            // A public name of the root is not a room, so importing it counts as pointing up.
            if rank(other).is_none_or(|below| below >= floor) {
                wrong.push(format!("{}: crate::{import}", file.module));
            }
        }
    }
    assert!(seen > 200, "only {seen} imports were found");
    assert!(wrong.is_empty(), "these imports point up:\n{}", wrong.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_loop() {
    let files = files();
    let names: BTreeSet<&str> = files.iter().map(|file| &*file.module).collect();
    let mut arrows: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in &files {
        for import in imports(file) {
            let mut path = &*import;
            while !path.is_empty() && !names.contains(path) {
                path = above(path);
            }
            if let Some(to) = names.get(path)
                && *to != file.module
            {
                arrows.entry(&file.module).or_default().insert(to);
            }
        }
    }
    assert!(arrows.len() > 50, "only {} files import anything", arrows.len());
    let mut done = BTreeSet::new();
    for name in &names {
        let mut way = vec![];
        assert!(!meets_itself(name, &arrows, &mut done, &mut way), "a loop: {}", way.join(" -> "));
    }
}

/// Whether a walk along the imports returns to a file that it has visited; `way` is then that walk.
fn meets_itself<'a>(
    at: &'a str,
    arrows: &BTreeMap<&'a str, BTreeSet<&'a str>>,
    done: &mut BTreeSet<&'a str>,
    way: &mut Vec<&'a str>,
) -> bool {
    if way.contains(&at) {
        way.push(at);
        return true;
    }
    if !done.insert(at) {
        return false;
    }
    way.push(at);
    for to in arrows.get(at).into_iter().flatten() {
        if meets_itself(to, arrows, done, way) {
            return true;
        }
    }
    way.pop();
    false
}
