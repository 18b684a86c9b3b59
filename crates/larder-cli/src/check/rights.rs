//! What a user of Redis may do, of all that the protocol needs.

use std::collections::BTreeSet;

use super::report::{Report, Severity};
use larder::admin::{ErrorKind, MissingRight, Redis};

const AREA: &str = "Redis, rights";

/// Whether the protocol can run.
pub(super) async fn check(
    report: &mut Report,
    redis: &Redis,
    namespace: &str,
    other: Option<&str>,
) {
    let user = match other {
        Some(user) => user.to_owned(),
        None => redis.user().await,
    };
    let (mut missing, mut lacks) = (vec![], BTreeSet::new());
    let rights = redis.rights();
    for right in &rights {
        match redis.missing_right(right, other).await {
            Ok(None) => {}
            Ok(Some(denied)) => {
                lacks.insert(denied);
                if denied == MissingRight::Command {
                    missing.push(right);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::Denied(_)) => {
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
            Err(error) if error.kind() == ErrorKind::Refused && other.is_none() => {
                let word = right.command().to_ascii_uppercase();
                let what = format!("{word} ({}) is refused: {error}", right.purpose());
                report.add(AREA, Severity::Error, what);
            }
            Err(error) if error.kind() == ErrorKind::Refused => {
                let what = format!("Redis cannot say what the user {user} may do: {error}");
                report.add(AREA, Severity::Error, what).advise(
                    "It is asked by ACL DRYRUN, which is of Redis 7. On an older server connect as \
                     that user, without --redis-user. Also look whether that user exists.",
                );
                return;
            }
            Err(error) => {
                let word = right.command().to_ascii_uppercase();
                report.add(AREA, Severity::Error, format!("{word} has no answer: {error}"));
                return;
            }
        }
    }
    if lacks.is_empty() {
        let what = format!("the user {user} may use all {} commands that are needed", rights.len());
        report.add(AREA, Severity::Ok, what);
        if other.is_some() || scripts(report, redis).await {
            publishing(report, redis, &user, other).await;
        }
        return;
    }
    let mut grants = vec![];
    let mut lacking = vec![];
    if lacks.contains(&MissingRight::Keys) {
        grants.push(format!("~larder:{namespace}:*"));
        lacking.push("the keys of the namespace".to_owned());
    }
    if lacks.contains(&MissingRight::Channel) {
        grants.push(format!("&larder:{namespace}:*"));
        lacking.push("the channel of the namespace".to_owned());
    }
    for right in missing {
        grants.push(format!("+{}", right.command()));
        lacking.push(format!("{} ({})", right.command().to_ascii_uppercase(), right.purpose()));
    }
    let what = format!("the user {user} lacks {}", lacking.join(", "));
    report
        .add(AREA, Severity::Error, what)
        .advise("Without them the cache does not start. As an administrator:")
        .run(format!("ACL SETUSER {user} {}", grants.join(" ")));
}

/// All the rights, and still a script may fail: on a replica, by a command that was renamed.
async fn scripts(report: &mut Report, redis: &Redis) -> bool {
    let run = redis.run_scripts().await;
    match &run {
        Ok(()) => report.add(AREA, Severity::Ok, "the protocol's scripts run"),
        Err(error) => {
            let what = format!("the protocol's scripts do not run: {error}");
            report.add(AREA, Severity::Error, what)
        }
    };
    run.is_ok()
}

/// What a cache can do without, and `larder stats` cannot.
async fn publishing(report: &mut Report, redis: &Redis, user: &str, other: Option<&str>) {
    let mut missing = vec![];
    for right in redis.rights_to_publish() {
        if let Ok(Some(MissingRight::Command)) = redis.missing_right(&right, other).await {
            missing.push(right.command());
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
