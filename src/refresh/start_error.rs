//! [`StartError`]: why a refresher could not be started.

use std::fmt;

use crate::error::WrongSetting;
use crate::refresh::postgres::{RefreshError, RefreshErrorKind};
use crate::value::relation;

/// Why a refresher could not be started: a setting out of range, a relation that does not exist or is not
/// a materialized view, PostgreSQL not answering, or no Tokio runtime. Nothing was executed.
pub struct StartError(Kind);

enum Kind {
    Setting { view: Option<String>, wrong: WrongSetting },
    View(RefreshError),
    Missing(RefreshError),
    NoRuntime,
}

impl StartError {
    pub(super) fn of_view(view: &str, wrong: WrongSetting) -> StartError {
        StartError(Kind::Setting { view: Some(view.to_owned()), wrong })
    }

    /// The view does not exist.
    pub(super) fn missing(error: RefreshError) -> StartError {
        StartError(Kind::Missing(error))
    }

    pub(super) fn no_runtime() -> StartError {
        StartError(Kind::NoRuntime)
    }

    /// The view that caused the error, as it was named, if a view did.
    pub fn view(&self) -> Option<&str> {
        match &self.0 {
            Kind::Setting { view, .. } => view.as_deref(),
            Kind::View(error) | Kind::Missing(error) => Some(error.view()),
            Kind::NoRuntime => None,
        }
    }

    /// The method whose value was rejected, if one was.
    pub fn setting(&self) -> Option<&'static str> {
        match &self.0 {
            Kind::Setting { wrong, .. } => Some(wrong.setting),
            _ => None,
        }
    }

    /// Whether the cause is that PostgreSQL did not answer.
    pub fn is_unreachable(&self) -> bool {
        matches!(&self.0, Kind::View(error) if error.kind() == RefreshErrorKind::Connection)
    }
}

impl From<WrongSetting> for StartError {
    fn from(wrong: WrongSetting) -> StartError {
        StartError(Kind::Setting { view: None, wrong })
    }
}

impl From<RefreshError> for StartError {
    fn from(error: RefreshError) -> StartError {
        StartError(Kind::View(error))
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the refresher cannot be started: ")?;
        match &self.0 {
            Kind::Setting { view: Some(view), wrong } => {
                write!(f, "of the view {}, {wrong}", relation::shown(view))
            }
            Kind::Setting { view: None, wrong } => write!(f, "{wrong}"),
            Kind::View(error) => write!(f, "{error}"),
            Kind::Missing(error) => write!(
                f,
                "{error}; if a migration creates it later, say so with `created_later` on the view"
            ),
            Kind::NoRuntime => f.write_str(
                "there is no tokio runtime here; call `start` from within one, such as a function \
                 under `#[tokio::main]`",
            ),
        }
    }
}

impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StartError").field(&self.to_string()).finish()
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Kind::View(error) | Kind::Missing(error) => error.source(),
            _ => None,
        }
    }
}
