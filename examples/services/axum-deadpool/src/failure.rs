//! What the service replies when something fails. No failure of the cache is among it: without Redis,
//! requests are answered from memory and by PostgreSQL.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use larder::{Error, ErrorKind};
use serde_json::json;

/// The status, and what a client may know.
pub struct Failure(StatusCode, &'static str);

pub const NO_TOKEN: Failure = Failure(StatusCode::UNAUTHORIZED, "a token is needed");
pub const NO_DATABASE: Failure =
    Failure(StatusCode::SERVICE_UNAVAILABLE, "the database does not answer: try again later");

/// Of PostgreSQL, or the way to it: Larder's errors, and those that turn into them.
impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        let error = error.into();
        // It names the query and the cause, and no parameter.
        tracing::error!(%error, "a request failed");
        // A class of SQLSTATEs: the first two of its five characters.
        let class = error.sqlstate().and_then(|state| state.code().get(..2));
        match (error.kind(), class) {
            (ErrorKind::Deadline, _) => Failure(StatusCode::GATEWAY_TIMEOUT, "it took too long"),
            (ErrorKind::Connect | ErrorKind::Closed, _) | (_, Some("08" | "53" | "57")) => {
                NO_DATABASE
            }
            (_, Some("22" | "23")) => Failure(StatusCode::BAD_REQUEST, "a value is not allowed"),
            // `InDoubt` is one of them: an order may have been placed.
            _ => Failure(StatusCode::INTERNAL_SERVER_ERROR, "look, then try again"),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}
