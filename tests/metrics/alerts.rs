//! The rules for alerts: whether Prometheus takes them, whether they fire when they should and only
//! then, and whether they are of metrics that there are.

use std::path::Path;
use std::process::Command;

use test_servers::promtool;

use crate::documented;

const RULES: &str = include_str!("../../dashboards/alerts.yml");
const CASES: &str = include_str!("../../dashboards/alerts.test.yml");

fn alerts(of: &str) -> Vec<&str> {
    let names = of.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.collect()
}

#[test]
fn each_alert_fires_in_its_case_and_not_in_the_other() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards");
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]] {
        let mut command = Command::new(promtool().unwrap());
        let output = command.args(arguments).current_dir(&directory).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
}

#[test]
fn each_alert_has_a_case_in_which_it_fires() {
    let alerts = alerts(RULES);
    assert_eq!(alerts.len(), 9);
    for name in alerts {
        let fires = CASES
            .split("- alertname: ")
            .skip(1)
            .any(|case| case.lines().next() == Some(name) && case.contains("exp_alerts:"));
        assert!(fires, "{name}");
    }
}

#[test]
fn the_rules_name_metrics_and_values_that_exist() {
    let names: Vec<&str> = documented().into_iter().map(|(name, ..)| name).collect();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for text in [RULES, CASES] {
        let words = text.split(|c| !is_word(c)).filter(|word| word.starts_with("larder_"));
        for word in words {
            assert!(names.contains(&word), "{word}");
        }
    }
}
