//! The errors of batches: many keys in one query.

use super::{Error, ErrorKind, cause};

impl Error {
    /// Whether the query of many keys may have failed because of the value of one of them.
    pub(crate) fn may_be_of_one_value(&self) -> bool {
        // Cardinality violations, data exceptions, limits of the program, a function's own RAISE.
        let classes = ["21", "22", "54", "P0"];
        let is_of_a_value =
            |code: &str| classes.iter().any(|class| code.starts_with(class)) && code != "54001";
        match self.sqlstate() {
            Some(state) => is_of_a_value(state.code()),
            None => {
                self.kind() == ErrorKind::TooLarge
                    || self.0.source.as_deref().is_some_and(|it| cause::is_of_a_parameter(it))
            }
        }
    }

    /// The rows of a batch cannot be assigned to its keys by this column.
    pub(crate) fn column_of_keys(column: &str, type_: &str, why: &str) -> Error {
        Error::new(
            ErrorKind::Column,
            format!(
                "the rows cannot be assigned to the values by their column {column:?} of type \
                 {type_}: {why}; assign them by a function instead (`by`)"
            ),
            None,
        )
    }

    pub(crate) fn no_column_of_keys(column: &str) -> Error {
        Error::new(
            ErrorKind::Column,
            format!(
                "there is no column {column:?} in the result, by which the rows were to be assigned"
            ),
            None,
        )
    }

    /// A result belongs to none of the values that were asked for.
    pub(crate) fn of_no_value(what: &str) -> Error {
        Error::new(
            ErrorKind::Column,
            format!(
                "{what} of a value that was not asked for; a batch must return what belongs to the \
                 values that it is given, as by `= ANY($1)`, and nothing else"
            ),
            None,
        )
    }

    pub(crate) fn repeated_value() -> Error {
        Error::new(
            ErrorKind::Column,
            "the function returned two results for one value; collect what belongs to a value in one \
             result",
            None,
        )
    }
}
