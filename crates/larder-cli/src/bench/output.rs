//! [`Output`]: a file that is there whole or not at all.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::super::failure::Failure;

/// A file to be. What is written goes beside it and is renamed at the end, so that whoever looks at
/// the path finds what was there before, or the whole of what is new.
pub(super) struct Output {
    /// As it was given.
    path: PathBuf,
    /// Where that leads to.
    target: PathBuf,
    beside: NamedTempFile,
}

impl Output {
    /// Made before anything is measured: a path that cannot be written is told at once.
    pub(super) fn new(path: &Path) -> Result<Output, Failure> {
        let cannot = |error: io::Error| cannot_write(path, &error);
        let target = target(path).map_err(cannot)?;
        let directory = target.parent().unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".larder-bench-");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As other files are made; what the user does not want others to read, the umask takes.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let beside = builder.tempfile_in(directory).map_err(|error| {
            // Its own text names the file beside, which nobody has asked for.
            cannot(error.kind().into())
        })?;
        Ok(Output { path: path.to_owned(), target, beside })
    }

    /// Whether one would take the place of the other.
    pub(super) fn is_same_as(&self, other: &Output) -> bool {
        self.target == other.target
    }

    pub(super) fn write(mut self, contents: &[u8]) -> Result<(), Failure> {
        let written = self.beside.write_all(contents).and_then(|()| self.beside.flush());
        written.map_err(|error| cannot_write(&self.path, &error))?;
        match self.beside.persist(&self.target) {
            Ok(_) => Ok(()),
            Err(error) => Err(cannot_write(&self.path, &error.error)),
        }
    }
}

/// A link is followed, so that it stays one. What is no file, as `/dev/null`, must stay what it is
/// too: the new file would take its place.
fn target(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Ok(target) if target.is_file() => Ok(target),
        Ok(target) if target.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => Err(io::Error::other("it is there, and no file")),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Err(error) => {
            let directory = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            Ok(directory.canonicalize()?.join(path.file_name().ok_or(error)?))
        }
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::other(format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_until_all_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        std::fs::write(&path, "old").unwrap();
        let output = Output::new(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        output.write(b"new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        drop(Output::new(&path).unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_path_that_cannot_be_written_is_told_at_once() {
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path().join("none/report.json"), directory.path().to_owned()] {
            let Err(failure) = Output::new(&path) else { panic!("it was taken") };
            assert!(format!("{failure:?}").contains(path.to_str().unwrap()), "{failure:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_stays_what_it_is_and_so_does_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let Err(failure) = Output::new(&path("socket")) else { panic!("it was taken") };
        assert!(format!("{failure:?}").contains("no file"), "{failure:?}");

        std::fs::write(path("file"), "old").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        let [link, file, other] = ["link", "file", "other"].map(|it| Output::new(&path(it)));
        let [link, file, other] = [link, file, other].map(|it| it.unwrap_or_else(|_| panic!()));
        assert!(link.is_same_as(&file) && !file.is_same_as(&other));
        link.write(b"new").unwrap();
        assert!(path("link").is_symlink());
        assert_eq!(std::fs::read_to_string(path("file")).unwrap(), "new");
    }
}
