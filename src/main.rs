//! The command `larder`; see `larder --help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    larder::command::main()
}
