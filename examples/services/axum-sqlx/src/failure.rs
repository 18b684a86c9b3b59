//! What the service replies when something fails. No failure of the cache is among it: without Redis,
//! requests are answered from memory and by PostgreSQL.

use axum::response::{IntoResponse, Response};
use axum::{Json, http::StatusCode};
use larder::ErrorKind;
use serde_json::json;

/// The status, and what a client may know.
pub struct Failure(StatusCode, &'static str);

pub const NO_TOKEN: Failure = Failure(StatusCode::UNAUTHORIZED, "a token is needed");
pub const FAILED: Failure = Failure(StatusCode::INTERNAL_SERVER_ERROR, "look, then try again");
const AWAY: Failure = Failure(StatusCode::SERVICE_UNAVAILABLE, "no database; try again later");

/// By the SQLSTATE, whose first two characters are its class.
fn of(sqlstate: Option<&str>) -> Failure {
    match sqlstate.and_then(|state| state.get(..2)) {
        Some("08" | "53" | "57") => AWAY,
        Some("22" | "23") => Failure(StatusCode::BAD_REQUEST, "a value is not allowed"),
        _ => FAILED,
    }
}

impl From<larder::Error> for Failure {
    fn from(error: larder::Error) -> Failure {
        tracing::error!(%error, "a report failed"); // it shows no parameter
        match error.kind() {
            ErrorKind::Deadline => Failure(StatusCode::GATEWAY_TIMEOUT, "it took too long"),
            ErrorKind::Connect | ErrorKind::Closed => AWAY,
            _ => of(error.sqlstate().map(|state| state.code())),
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Failure {
        let sqlstate = error.as_database_error().and_then(|it| it.code());
        tracing::error!(?sqlstate, "a statement failed"); // its message may quote a value
        match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => AWAY,
            _ => of(sqlstate.as_deref()),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}
