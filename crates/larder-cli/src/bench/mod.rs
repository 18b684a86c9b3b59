//! `larder bench`: a workload through the real cache, against real servers.
//!
//! `arguments` says what is to be done, `place` makes the tables, `engine` runs the reader processes,
//! which are `reader`, with `opened` (their cache and connections), `reading` (what they do) and
//! `judge` (whether they were told what they must not be told). `compile` makes a report of what
//! they found, `sweep` one of capacities, `text` prints it, and `html` draws it; `from` reads it
//! again.

mod arguments;
mod clock;
mod compile;
mod engine;
mod format;
mod from;
mod html;
mod interrupts;
mod judge;
mod lru;
mod machine;
mod measure;
mod opened;
mod opt;
mod output;
mod place;
mod progress;
mod reader;
mod reading;
mod redis;
pub(super) mod report;
mod run;
mod source;
mod sweep;
mod table;
mod text;
mod trace;
mod value;
mod wire;
mod workload;

use std::path::Path;
use std::process::ExitCode;

pub(super) use self::arguments::Bench;
pub(super) use self::reader::main as reader;
pub(super) use self::wire::READER;

use self::interrupts::Interrupts;
use self::output::Output;
use self::report::Report;
use super::config::Config;
use super::failure::{Failure, counted};
use super::text::{as_json, print, print_json, width};

/// Answers that must not have been given.
const VIOLATIONS: u8 = 1;
const INTERRUPTED: u8 = 130;

impl Bench {
    pub(super) async fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        if self.clean {
            return clean(config).await;
        }
        if let Some(path) = &self.from {
            let report = from::read(path)?;
            let outputs = Outputs::open(self.json.as_deref(), self.html.as_deref())?;
            outputs.write(&report)?;
            return Ok(ExitCode::SUCCESS);
        }
        let plan = self.plan()?;
        let outputs = Outputs::open(plan.json.as_deref(), plan.html.as_deref())?;
        let interrupts = Interrupts::listen()?;
        let report = run::run(&plan, config, &interrupts).await?;
        outputs.write(&report)?;
        Ok(match (report.violations(), report.interrupted) {
            (0, false) => ExitCode::SUCCESS,
            (0, true) => ExitCode::from(INTERRUPTED),
            _ => ExitCode::from(VIOLATIONS),
        })
    }
}

/// Where the report goes.
struct Outputs {
    json: Option<Output>,
    /// To standard output, and the text nowhere.
    json_out: bool,
    html: Option<Output>,
}

impl Outputs {
    fn open(json: Option<&Path>, html: Option<&Path>) -> Result<Outputs, Failure> {
        let json_out = json == Some(Path::new("-"));
        let json = json.filter(|_| !json_out).map(Output::new).transpose()?;
        let html = html.map(Output::new).transpose()?;
        if let (Some(json), Some(html)) = (&json, &html)
            && json.is_same_as(html)
        {
            return Err(Failure::usage("--json and --html name the same file"));
        }
        Ok(Outputs { json, json_out, html })
    }

    fn write(self, report: &Report) -> Result<(), Failure> {
        if let Some(output) = self.html {
            output.write(html::page(report)?.as_bytes())?;
        }
        if self.json_out {
            return print_json(report);
        }
        print(&text::text(report, width()))?;
        match self.json {
            Some(output) => output.write(as_json(report)?.as_bytes()),
            None => Ok(()),
        }
    }
}

async fn clean(config: &Config) -> Result<ExitCode, Failure> {
    let (gone, used) = place::clean(config.postgres()?).await?;
    let mut text = match gone.len() {
        0 => "nothing was left of benchmarks\n".to_owned(),
        some => format!("dropped {}: {}\n", counted(some, "schema"), gone.join(", ")),
    };
    if !used.is_empty() {
        text += &format!("in use by a benchmark that runs: {}\n", used.join(", "));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
