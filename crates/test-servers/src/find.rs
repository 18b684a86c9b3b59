//! Where the servers' programs are.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::ServerError;

/// Directories that packages use without putting them on PATH. A `*` stands
/// for a version, of which the newest wins.
const POSTGRES_PLACES: [&str; 9] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/Library/PostgreSQL/*/bin",
    "/usr/local/pgsql/bin",
];

const REDIS_PLACES: [&str; 5] = [
    "/usr/bin",
    "/usr/local/bin",
    "/opt/homebrew/bin",
    "/home/linuxbrew/.linuxbrew/bin",
    "/usr/sbin",
];

/// Debian keeps it among what only root runs, which others have off PATH.
const PGBOUNCER_PLACES: [&str; 6] = [
    "/usr/sbin",
    "/usr/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
    "/opt/homebrew/bin",
    "/home/linuxbrew/.linuxbrew/bin",
];

/// The one without windows is the smallest.
const CHROMIUM_NAMES: [&str; 9] = [
    "chromium-headless-shell",
    "chrome-headless-shell",
    "headless_shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "Chromium",
    "Google Chrome",
];

const CHROMIUM_PLACES: [&str; 7] = [
    "/usr/bin",
    "/usr/local/bin",
    "/usr/lib64/chromium-browser",
    "/snap/bin",
    "/opt/homebrew/bin",
    "/Applications/Chromium.app/Contents/MacOS",
    "/Applications/Google Chrome.app/Contents/MacOS",
];

/// The program of a Redis server, or of a Valkey one.
///
/// The path is left as it was found: on Debian `redis-server` is a link to
/// another program, which looks at the name it is called by.
pub(super) fn redis() -> Result<PathBuf, ServerError> {
    let names = ["redis-server", "valkey-server"];
    let program = |directory: &Path| {
        let mut programs = names.iter().map(|name| directory.join(name));
        programs.find(|program| is_executable(program))
    };
    search("LARDER_REDIS_BIN", &REDIS_PLACES, program).ok_or_else(|| {
        not_found(
            "redis-server or valkey-server",
            "LARDER_REDIS_BIN",
            &REDIS_PLACES,
            ["redis-server", "redis", "redis"],
        )
    })
}

/// The directory of PostgreSQL's `initdb` and `postgres`. Both must be there:
/// a `postgres` alone on PATH may be anything.
pub(super) fn postgres() -> Result<PathBuf, ServerError> {
    let both = |directory: &Path| {
        let found = ["initdb", "postgres"].map(|name| is_executable(&directory.join(name)));
        (found == [true, true]).then(|| directory.to_owned())
    };
    search("LARDER_POSTGRES_BIN", &POSTGRES_PLACES, both).ok_or_else(|| {
        not_found(
            "initdb and postgres in one directory",
            "LARDER_POSTGRES_BIN",
            &POSTGRES_PLACES,
            ["postgresql", "postgresql-server", "postgresql@17"],
        )
    })
}

/// The program of a PgBouncer.
pub(super) fn pgbouncer() -> Result<PathBuf, ServerError> {
    let program = |directory: &Path| {
        let program = directory.join("pgbouncer");
        is_executable(&program).then_some(program)
    };
    search("LARDER_PGBOUNCER_BIN", &PGBOUNCER_PLACES, program).ok_or_else(|| {
        not_found("pgbouncer", "LARDER_PGBOUNCER_BIN", &PGBOUNCER_PLACES, ["pgbouncer"; 3])
    })
}

/// The program of a Chromium, by one of the names that it goes by.
pub(super) fn chromium() -> Result<PathBuf, ServerError> {
    let program = |directory: &Path| {
        let mut programs = CHROMIUM_NAMES.iter().map(|name| directory.join(name));
        programs.find(|program| is_executable(program))
    };
    search("LARDER_CHROMIUM_BIN", &CHROMIUM_PLACES, program).ok_or_else(|| {
        not_found(
            "chromium-headless-shell, chromium or google-chrome",
            "LARDER_CHROMIUM_BIN",
            &CHROMIUM_PLACES,
            ["chromium-headless-shell", "chromium-headless", "google-chrome"],
        )
    })
}

/// Prometheus's program that checks and tests rules.
pub(super) fn promtool() -> Result<PathBuf, ServerError> {
    let program = |directory: &Path| {
        let program = directory.join("promtool");
        is_executable(&program).then_some(program)
    };
    search("LARDER_PROMTOOL_BIN", &REDIS_PLACES, program).ok_or_else(|| {
        let packages = ["prometheus", "golang-github-prometheus", "prometheus"];
        not_found("promtool", "LARDER_PROMTOOL_BIN", &REDIS_PLACES, packages)
    })
}

/// The first directory that will do. The variable, when set, leaves no choice:
/// a run that asks for one version must not silently get another.
fn search(
    variable: &str,
    places: &[&str],
    accept: impl Fn(&Path) -> Option<PathBuf>,
) -> Option<PathBuf> {
    if let Some(directory) = env::var_os(variable) {
        return accept(Path::new(&directory));
    }
    let on_path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&on_path)
        .chain(places.iter().flat_map(|place| expand(place)))
        // What we start runs in another working directory.
        .filter(|directory| directory.is_absolute())
        .find_map(|directory| accept(&directory))
}

/// The directories that a place with a `*` stands for, newest version first.
fn expand(place: &str) -> Vec<PathBuf> {
    let Some((before, after)) = place.split_once('*') else {
        return vec![PathBuf::from(place)];
    };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let mut found: Vec<(Vec<u32>, PathBuf)> = Vec::new();
    for entry in fs::read_dir(format!("{parent}/")).into_iter().flatten() {
        let name = entry.map(|entry| entry.file_name()).unwrap_or_default();
        let name = name.to_string_lossy();
        if let Some(version) = name.strip_prefix(prefix) {
            let numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
            found.push((numbers.collect(), PathBuf::from(format!("{parent}/{name}{after}"))));
        }
    }
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// `packages` are the names on Debian, on Fedora and for Homebrew.
fn not_found(what: &str, variable: &str, places: &[&str], packages: [&str; 3]) -> ServerError {
    if let Some(directory) = env::var_os(variable) {
        return ServerError::new(format!(
            "look for {what} in {}, which {variable} names: not there; \
             set {variable} to the directory that has it, or unset it",
            directory.display()
        ));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let [debian, fedora, brew] = packages;
    let by_hand = [
        ("apt-get", format!("apt-get install {debian}")),
        ("dnf", format!("dnf install {fedora}")),
        ("brew", format!("brew install {brew}")),
    ]
    .into_iter()
    .find(|(tool, _)| env::split_paths(&path).any(|at| is_executable(&at.join(tool))))
    .map(|(_, command)| format!(" (or by hand: {command})"))
    .unwrap_or_default();
    ServerError::new(format!(
        "look for {what} on PATH ({}) and in {}: not found; \
         install it with: scripts/setup{by_hand}, or set {variable} to the directory that has it",
        path.display(),
        places.join(", ")
    ))
}
