//! What a user of Redis may do, of all that the protocol needs.

use std::collections::BTreeSet;

use super::report::{Report, Severity};
use crate::redis::console::{Console, Denied, Trouble, run_scripts};

const AREA: &str = "Redis, rights";

/// Whether the protocol can run.
pub(super) async fn check(
    report: &mut Report,
    console: &Console,
    url: &str,
    namespace: &str,
    other: Option<&str>,
) {
    let user = match other {
        Some(user) => user.to_owned(),
        None => console.user().await,
    };
    let (mut missing, mut lacks) = (vec![], BTreeSet::new());
    let rights = console.rights();
    for right in &rights {
        match console.may(right, other).await {
            Ok(None) => {}
            Ok(Some(denied)) => {
                lacks.insert(denied);
                if denied == Denied::Command {
                    missing.push(right);
                }
            }
            Err(Trouble::Denied(_)) => {
                let what = format!(
                    "whether the user {user} may do all that is needed cannot be asked by this \
                     connection's user"
                );
                report.add(AREA, Severity::Error, what).advise(
                    "ACL DRYRUN needs an administrator; or connect as that user, without \
                     --redis-user.",
                );
                return;
            }
            // A command that some version does not know, or a replica that refuses to write; what
            // that means is told elsewhere, or by the scripts below.
            Err(Trouble::Refused(said)) if other.is_none() => {
                let word = right.command.to_ascii_uppercase();
                let what = format!("{word} ({}) is refused: {said}", right.purpose);
                report.add(AREA, Severity::Error, what);
            }
            Err(Trouble::Refused(said)) => {
                let what = format!("Redis cannot say what the user {user} may do: {said}");
                report.add(AREA, Severity::Error, what);
                return;
            }
            Err(trouble) => {
                let word = right.command.to_ascii_uppercase();
                report.add(AREA, Severity::Error, format!("{word} has no answer: {trouble}"));
                return;
            }
        }
    }
    if lacks.is_empty() {
        let what = format!("the user {user} may use all {} commands that are needed", rights.len());
        report.add(AREA, Severity::Ok, what);
        if other.is_some() || scripts(report, url, namespace).await {
            publishing(report, console, &user, other).await;
        }
        return;
    }
    let mut grants = vec![];
    let mut lacking = vec![];
    if lacks.contains(&Denied::Keys) {
        grants.push(format!("~larder:{namespace}:*"));
        lacking.push("the keys of the namespace".to_owned());
    }
    if lacks.contains(&Denied::Channel) {
        grants.push(format!("&larder:{namespace}:*"));
        lacking.push("the channel of the namespace".to_owned());
    }
    for right in missing {
        grants.push(format!("+{}", right.command));
        lacking.push(format!("{} ({})", right.command.to_ascii_uppercase(), right.purpose));
    }
    let what = format!("the user {user} lacks {}", lacking.join(", "));
    report
        .add(AREA, Severity::Error, what)
        .advise("Without them the cache does not start. As an administrator:")
        .run(format!("ACL SETUSER {user} {}", grants.join(" ")));
}

/// All the rights, and still a script may fail: on a replica, by a command that was renamed.
async fn scripts(report: &mut Report, url: &str, namespace: &str) -> bool {
    let run = run_scripts(url, namespace).await;
    match &run {
        Ok(()) => report.add(AREA, Severity::Ok, "the protocol's scripts run"),
        Err(trouble) => {
            let what = format!("the protocol's scripts do not run: {trouble}");
            report.add(AREA, Severity::Error, what)
        }
    };
    run.is_ok()
}

/// What a cache can do without, and `larder stats` cannot.
async fn publishing(report: &mut Report, console: &Console, user: &str, other: Option<&str>) {
    let mut missing = vec![];
    for right in console.rights_to_publish() {
        if let Ok(Some(Denied::Command)) = console.may(&right, other).await {
            missing.push(right.command);
        }
    }
    if missing.is_empty() {
        return;
    }
    let words = missing.iter().map(|word| word.to_ascii_uppercase()).collect::<Vec<_>>();
    let what = format!("the user {user} may not publish numbers: it lacks {}", words.join(", "));
    report
        .add(AREA, Severity::Note, what)
        .advise(
            "Needed for publish_stats, and by whoever runs larder stats and watch. If that is wanted:",
        )
        .run(format!("ACL SETUSER {user} +{}", missing.join(" +")));
}
