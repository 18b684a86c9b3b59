//! Makes the files of a cluster, and chooses their place.
//!
//! `initdb` takes seconds on a disk; a copy of what it made takes hundredths.
//! So it runs once for each version of the server. Its files are kept in cargo's
//! target directory.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ServerError;
use super::guard::{Account, Directory, Ending, Process};

const INITDB: [&str; 6] = [
    "--username=postgres",
    "--auth=trust",
    "--encoding=UTF8",
    "--locale=C",
    "--no-sync",
    "--pgdata",
];

/// Bytes that have to be free in `/dev/shm`. A container's may be 64 MB in
/// all. A fresh cluster takes 40 MB and each database 8, and several test
/// processes may run at a time.
const ROOM: u64 = 2 << 30;

/// The longest path of a unix socket on macOS; Linux allows four bytes more.
const SOCKET_PATH_MAX: usize = 103;

/// The end of the longest path of a socket in a directory of ours.
const SOCKET_PATH_TAIL: &str = "/larder-0123456789abcdef/.s.PGSQL.5432.lock";

/// A directory for small files, which all users can enter.
pub(super) fn temporary() -> PathBuf {
    let asked = std::env::temp_dir();
    let fits = asked.as_os_str().len() + SOCKET_PATH_TAIL.len() <= SOCKET_PATH_MAX;
    // A server that runs as another user than we do cannot enter a private
    // TMPDIR.
    let open = fs::metadata(&asked).is_ok_and(|directory| directory.mode() & 0o1777 == 0o1777);
    if fits && open && asked.is_absolute() { asked } else { PathBuf::from("/tmp") }
}

/// A directory in memory, if enough of it is free.
pub(super) fn memory() -> PathBuf {
    let shm = Path::new("/dev/shm");
    match free_bytes(shm) {
        Some(free) if free >= ROOM => shm.to_owned(),
        _ => temporary(),
    }
}

/// A directory on a disk, even where `/tmp` is in memory.
pub(super) fn disk() -> PathBuf {
    let disk = Path::new("/var/tmp");
    if disk.is_dir() { disk.to_owned() } else { temporary() }
}

fn free_bytes(directory: &Path) -> Option<u64> {
    let output = Command::new("df").arg("-Pk").arg(directory).output().ok()?;
    let output = String::from_utf8(output.stdout).ok()?;
    let kibibytes = output.lines().nth(1)?.split_whitespace().nth(3)?;
    Some(kibibytes.parse::<u64>().ok()? * 1024)
}

/// The user to run PostgreSQL and PgBouncer as, when we are root: they refuse
/// root.
pub(super) fn account(directory: &Directory) -> Result<Option<Account>, ServerError> {
    let attempt = "find a user to run a server as that refuses to run as root";
    let failed = |error: io::Error| ServerError::caused(attempt, &error);
    // The directory is ours, so its owner is who we are.
    if fs::metadata(directory.path()).map_err(failed)?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").map_err(failed)?;
    let find = |wanted: &str| {
        users.lines().find_map(|user| {
            let mut fields = user.split(':');
            let is_wanted = fields.next() == Some(wanted);
            let (uid, gid) = (fields.nth(1)?.parse(), fields.next()?.parse());
            is_wanted.then_some(Account { uid: uid.ok()?, gid: gid.ok()? })
        })
    };
    match find("postgres").or_else(|| find("nobody")) {
        Some(account) => Ok(Some(account)),
        None => Err(ServerError::new(format!(
            "{attempt}: neither postgres nor nobody is in /etc/passwd; run the tests as another user"
        ))),
    }
}

/// Lets a server that runs as `account` write into the directory.
pub(super) fn give(directory: &Directory, account: Option<Account>) -> Result<(), ServerError> {
    let Some(account) = account else { return Ok(()) };
    let path = directory.path();
    chown(path, Some(account.uid), Some(account.gid)).map_err(|error| {
        ServerError::caused(format!("give {} to the user {}", path.display(), account.uid), &error)
    })
}

/// Makes `data` in `directory`, a cluster that has never run.
pub(super) fn data_directory(
    bin: &Path,
    directory: &Directory,
    account: Option<Account>,
) -> Result<PathBuf, ServerError> {
    let data = directory.path().join("data");
    let attempt = format!("make the data directory {}", data.display());
    let failed = |error: io::Error| ServerError::caused(&attempt, &error);
    give(directory, account)?;
    match cached(bin, directory, account)? {
        Some(template) => copy(&template, &data, account).map_err(failed)?,
        None => initdb(bin, &data, directory, account)?,
    }
    Ok(data)
}

/// The cached template, made now if there is none. `None` where it cannot be
/// kept: under another user's target directory, say.
fn cached(
    bin: &Path,
    directory: &Directory,
    account: Option<Account>,
) -> Result<Option<PathBuf>, ServerError> {
    let cache = target_directory().join("servers");
    let template = cache.join(template_name(bin)?);
    if fs::create_dir_all(&cache).is_err() {
        return Ok(None);
    }
    let Ok(lock) = File::create(cache.join("lock")) else {
        return Ok(None);
    };
    lock.lock()
        .map_err(|error| ServerError::caused(format!("lock {}", cache.display()), &error))?;
    if template.is_dir() {
        return Ok(Some(template));
    }
    // Made under another name, then renamed: a template is whole or absent. An
    // incomplete copy of a killed process is removed.
    let fresh = directory.path().join("template");
    initdb(bin, &fresh, directory, account)?;
    let partial = template.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    let kept = copy(&fresh, &partial, None)
        .and_then(|()| fs::rename(&partial, &template))
        .and_then(|()| fs::remove_dir_all(&fresh));
    kept.map_err(|error| {
        ServerError::caused(format!("keep what initdb made in {}", template.display()), &error)
    })?;
    Ok(Some(template))
}

/// A file name that is another one when `initdb` would make something else.
fn template_name(bin: &Path) -> Result<String, ServerError> {
    let program = bin.join("postgres");
    let attempt = format!("ask {} for its version", program.display());
    let output = Command::new(&program).arg("--version").output();
    let output = output.map_err(|error| ServerError::caused(&attempt, &error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(ServerError::new(format!("{attempt}: {}", said.trim())));
    }
    let key = format!("{} {}", String::from_utf8_lossy(&output.stdout).trim(), INITDB.join(" "));
    let words = key.split(|letter: char| !letter.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    Ok(words.join("-"))
}

fn initdb(
    bin: &Path,
    data: &Path,
    directory: &Directory,
    account: Option<Account>,
) -> Result<(), ServerError> {
    let mut arguments: Vec<&std::ffi::OsStr> = INITDB.iter().map(AsRef::as_ref).collect();
    arguments.push(data.as_os_str());
    let mut process =
        Process::start(&bin.join("initdb"), &arguments, directory, Ending::Kill, account)?;
    let status = process.wait()?;
    if status.success() {
        return Ok(());
    }
    Err(ServerError::new(format!("run {}/initdb: {status}{}", bin.display(), process.log())))
}

/// Copies a tree of directories and plain files, and gives it to `owner`.
fn copy(from: &Path, to: &Path, owner: Option<Account>) -> io::Result<()> {
    // PostgreSQL refuses a data directory that others can read.
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, copied) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&source, &copied, owner)?;
        } else {
            fs::copy(&source, &copied)?;
            if let Some(owner) = owner {
                chown(&copied, Some(owner.uid), Some(owner.gid))?;
            }
        }
    }
    if let Some(owner) = owner {
        chown(to, Some(owner.uid), Some(owner.gid))?;
    }
    Ok(())
}

/// Cargo's target directory: the nearest directory above this program that cargo
/// has tagged. A program elsewhere uses the workspace's own.
///
/// Found at run time, because this crate is compiled for programs of several
/// target directories, and cargo sets its variables for some of them only.
fn target_directory() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let mut above = program.ancestors().skip(1);
    above
        .find(|directory| directory.join("CACHEDIR.TAG").is_file())
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), Path::to_owned)
}
