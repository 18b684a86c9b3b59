//! [`Refused`]: why a row did not fit.

use std::fmt;

use serde::de;

/// Why a row did not fit: a message with types and names. Where serde would quote a number or a
/// string of the wrong type, the message names only its type.
#[derive(Debug)]
pub(super) struct Refused(pub(super) String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl de::Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Refused {
        Refused(message.to_string())
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Refused {
        Refused(format!("{} where {expected} was expected", name(&unexpected)))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Refused {
        Refused(format!("{} that is not {expected}", name(&unexpected)))
    }
}

/// The sort of value that serde found, without the value itself.
fn name(unexpected: &de::Unexpected<'_>) -> &'static str {
    use de::Unexpected::*;
    match unexpected {
        Bool(_) => "a boolean",
        Unsigned(_) | Signed(_) => "an integer",
        Float(_) => "a floating point number",
        Char(_) | Str(_) => "a string",
        Bytes(_) => "bytes",
        Unit | Option => "NULL",
        Seq => "an array",
        Map | StructVariant => "a composite",
        _ => "a value",
    }
}
