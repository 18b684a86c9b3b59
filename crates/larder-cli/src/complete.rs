//! `larder completions` and `larder man`: what the arguments say, for shells and for readers.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Arguments;
use super::failure::Failure;

/// Print a shell's completions
///
/// For bash: larder completions bash > ~/.local/share/bash-completion/completions/larder
#[derive(Args)]
pub(super) struct Completions {
    shell: Shell,
}

/// Print the manual page, or write those of all subcommands
#[derive(Args)]
pub(super) struct Man {
    /// Write one page for each subcommand into this directory
    #[arg(long, value_name = "DIRECTORY")]
    all: Option<PathBuf>,
}

impl Completions {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "larder", &mut text);
        print(&text)
    }
}

impl Man {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        if let Some(directory) = self.all {
            clap_mangen::generate_to(Arguments::command(), &directory).map_err(|error| {
                Failure::other(format!(
                    "cannot write the manual pages into {}: {error}",
                    directory.display()
                ))
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut text = Vec::new();
        clap_mangen::Man::new(Arguments::command())
            .render(&mut text)
            .map_err(|error| Failure::other(format!("cannot make the manual page: {error}")))?;
        print(&text)
    }
}

/// Whoever reads it may have had enough: `larder man | head`.
fn print(text: &[u8]) -> Result<ExitCode, Failure> {
    match io::stdout().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::other(format!("cannot write: {error}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
