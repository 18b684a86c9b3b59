//! The errors of the role and the settings that a query runs under. None of them shows a value.

use std::fmt::Write;

use tokio_postgres::error::SqlState;

use super::{BoxError, Error, ErrorKind, cause};

impl Error {
    /// A query function was given a role or settings.
    #[cold]
    pub(crate) fn setup_of_function() -> Error {
        Error::new(
            ErrorKind::Setting,
            "a role and settings (`as_role`, `with_setting`) are set for `fetch` only, and this query \
             is run by a function of yours (`load`, `load_rows`, `load_tagged`, `wrap`): set them in \
             the function, and give the query a `scope` that names them",
            None,
        )
    }

    /// A query with a role or settings was to be fetched from a shared client.
    pub(crate) fn setup_of_shared_client() -> Error {
        Error::new(
            ErrorKind::Setting,
            "a role and settings (`as_role`, `with_setting`) need a transaction, and statements that \
             others send on a shared client would become part of it: fetch from a pool, or from an \
             `Arc<tokio::sync::Mutex<Client>>`",
            None,
        )
    }

    /// A query that learns was given a query function.
    #[cold]
    pub(crate) fn auto_of_function() -> Error {
        Error::new(
            ErrorKind::Setting,
            "what it depends on is learned (`auto`) for `fetch` only, and this query is run by a \
             function of yours (`load`, `load_rows`, `load_tagged`, `wrap`): fetch it, or declare the \
             tables that it reads by `table` instead",
            None,
        )
    }

    /// A query that learns was to be read with many values.
    pub(crate) fn auto_of_batch() -> Error {
        Error::new(
            ErrorKind::Setting,
            "a batch (`bind_many`) does not learn what it depends on (`auto`): bind the values one by one, \
             or declare what the query reads with `table`",
            None,
        )
    }

    /// A query that learns was to be fetched from a shared client.
    pub(crate) fn auto_of_shared_client() -> Error {
        Error::new(
            ErrorKind::Setting,
            "what it depends on is learned (`auto`) in a transaction, and statements that others send \
             on a shared client would become part of it: fetch from a pool, or from an \
             `Arc<tokio::sync::Mutex<Client>>`",
            None,
        )
    }

    /// PostgreSQL's reply does not describe the session.
    pub(crate) fn unreadable_session() -> Error {
        Error::query("the server does not report its settings as postgresql does".into())
    }

    /// PostgreSQL did not set the role of a query.
    pub(crate) fn role(role: &str, source: BoxError) -> Error {
        let mut attempt = format!("it cannot run as the role {role:?} that `as_role` names");
        let reason = match cause::sqlstate(&*source).as_ref() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => format!(
                ": the user of the connection may not set it; let an administrator run `GRANT \
                 \"{}\" TO` that user",
                role.replace('"', "\"\"")
            ),
            Some(&SqlState::INVALID_PARAMETER_VALUE | &SqlState::UNDEFINED_OBJECT) => {
                ": there is no such role; create it, or correct the name, which is taken letter for \
                 letter"
                    .to_owned()
            }
            _ => String::new(),
        };
        attempt.push_str(&reason);
        Error::private(attempt, source)
    }

    /// PostgreSQL did not set one of these settings.
    pub(crate) fn of_settings(names: &[&str], source: BoxError) -> Error {
        // PostgreSQL's message quotes the name, and perhaps the value.
        let message = cause::reported(&*source).unwrap_or_default().to_ascii_lowercase();
        let is_named =
            |name: &&&str| message.contains(&format!("\"{}\"", name.to_ascii_lowercase()));
        let mut named = names.iter().filter(is_named);
        let mut attempt = match (named.next(), named.next()) {
            (Some(name), None) => format!("the setting `{name}` of the query was refused"),
            _ => format!("one of the settings of the query was refused (`{}`)", names.join("`, `")),
        };
        let advice = match cause::sqlstate(&*source).as_ref() {
            Some(&SqlState::UNDEFINED_OBJECT) => {
                "postgresql has no such setting; correct its name, load the extension that it \
                 belongs to, or use a name with a dot, such as `app.tenant`"
            }
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                "the user of the connection may not set it; `GRANT SET ON PARAMETER` allows it \
                 (PostgreSQL 15)"
            }
            Some(&SqlState::CANT_CHANGE_RUNTIME_PARAM) => "it cannot be set within a session",
            Some(&SqlState::INVALID_NAME) => "its name is not a valid one",
            Some(&SqlState::INVALID_PARAMETER_VALUE) => "it does not accept the given value",
            _ => "it could not be set",
        };
        let _ = write!(attempt, ": {advice}");
        Error::private(attempt, source)
    }

    fn private(attempt: String, source: BoxError) -> Error {
        Error::with(ErrorKind::Query, attempt, Some(source), true)
    }
}
