//! The time limits of a role, a database or a server that apply to refreshes.

use std::time::Duration;

use super::blocker::Rounded;
use super::finding::{Finding, FindingKind};
use super::session::Session;
use super::transaction::Limits;

/// A finding for each limit of this connection that ends a refresh, or that a refresh overrides.
pub(crate) async fn check(
    session: &mut Session,
    limits: Limits,
) -> Result<Vec<Finding>, tokio_postgres::Error> {
    // `transaction_timeout` is of PostgreSQL 17.
    let sql = "SELECT s.name, s.setting::int8, CASE s.source \
                 WHEN 'user' THEN 'of the role ' || quote_ident(session_user) \
                 WHEN 'database' THEN 'of the database ' || quote_ident(current_database()) \
                 WHEN 'database user' THEN format('of the role %I in the database %I', \
                   session_user, current_database()) \
                 WHEN 'client' THEN 'of the connection' \
                 WHEN 'session' THEN 'of the session' \
                 ELSE 'of the server' END \
               FROM pg_settings s WHERE s.setting::text <> '0' AND s.name IN ( \
                 'statement_timeout', 'transaction_timeout', 'lock_timeout', \
                 'idle_session_timeout', 'idle_in_transaction_session_timeout') ORDER BY s.name";
    let mut findings = vec![];
    for row in session.query(sql, &[]).await? {
        let (name, millis, whose): (String, i64, String) = (row.get(0), row.get(1), row.get(2));
        let time = Rounded(Duration::from_millis(millis.unsigned_abs()));
        let lock = Rounded(limits.lock);
        let effect = match (name.as_str(), limits.statement) {
            ("statement_timeout", None) => "it ends a refresh that takes longer, waits for locks \
                                            included; a `statement_timeout` of the view's own \
                                            replaces it"
                .to_owned(),
            ("statement_timeout", Some(own)) => {
                format!("the view's own `statement_timeout`, {}, replaces it", Rounded(own))
            }
            ("transaction_timeout", _) => "it ends a refresh that takes longer, with its hooks, \
                                           together with the connection"
                .to_owned(),
            ("lock_timeout", _) => format!("the view's own `lock_timeout`, {lock}, replaces it"),
            ("idle_session_timeout", _) => "it ends idle connections of the pool, which opens new \
                                            ones when it needs them"
                .to_owned(),
            _ => "a refresh replaces it: hooks have time limits of their own".to_owned(),
        };
        let message = format!("{name} {whose} is {time}: {effect}");
        findings.push(Finding::new(FindingKind::TimeLimit, message));
    }
    Ok(findings)
}
