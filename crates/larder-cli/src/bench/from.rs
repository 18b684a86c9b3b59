//! `--from`: a report that was written with `--json`.

use std::fmt::Display;
use std::path::Path;

use super::super::failure::Failure;
use super::report::{Report, VERSION};

pub(super) fn read(path: &Path) -> Result<Report, Failure> {
    let text = std::fs::read(path).map_err(|error| cannot(path, error))?;
    parse(&text).map_err(|why| cannot(path, why))
}

fn parse(text: &[u8]) -> Result<Report, String> {
    let value: serde_json::Value =
        serde_json::from_slice(text).map_err(|error| format!("it is no JSON: {error}"))?;
    // Before the rest: a field that another version does not have would tell less.
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => {}
        Some(version) => {
            return Err(format!(
                "it is a report of form {version}, and this larder reads form {VERSION}; take the \
                 larder that wrote it"
            ));
        }
        None => return Err("it is no report of larder bench".to_owned()),
    }
    serde_json::from_value(value)
        .map_err(|error| format!("the report does not hold together: {error}"))
}

fn cannot(path: &Path, why: impl Display) -> Failure {
    Failure::usage(format!("cannot read the report {}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_report_is_told_in_plain_words() {
        for (text, word) in [
            ("", "no JSON"),
            ("[1, 2", "no JSON"),
            ("{}", "no report of larder bench"),
            ("[]", "no report of larder bench"),
            (r#"{"version": 2}"#, "of form 2"),
            (r#"{"version": 1}"#, "does not hold together: missing field `larder`"),
        ] {
            let told = parse(text.as_bytes()).expect_err(text);
            assert!(told.contains(word), "{text}: {told}");
        }
    }
}
