//! The part of Redis' protocol that tests read themselves.

use std::fmt;

/// A reply of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// No value.
    Nil,
    /// A status, a number or a value.
    Text(Vec<u8>),
    /// An error of the server.
    Error(String),
    /// Several replies. A map has keys and values in turn.
    List(Vec<Reply>),
}

impl Reply {
    /// The first reply in `bytes` and its length, if all of it is there.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let line_length = bytes.windows(2).position(|two| two == b"\r\n")?;
        let (kind, rest) = bytes[..line_length].split_first()?;
        let mut at = line_length + 2;
        let number = || str::from_utf8(rest).ok()?.parse::<i64>().ok();
        let reply = match kind {
            b'$' | b'=' | b'!' => match number()? {
                length @ 0.. => {
                    let end = at + usize::try_from(length).ok()?;
                    let text = bytes.get(at..end)?.to_vec();
                    at = end + 2;
                    // Without its line end it is not all there.
                    (bytes.len() >= at).then_some(())?;
                    match kind {
                        b'!' => Self::Error(String::from_utf8_lossy(&text).into_owned()),
                        _ => Self::Text(text),
                    }
                }
                _ => Self::Nil,
            },
            b'*' | b'~' | b'>' | b'%' => match number()? {
                length @ 0.. => {
                    let mut list = Vec::new();
                    for _ in 0..if *kind == b'%' { 2 * length } else { length } {
                        let (reply, length) = Self::parse(bytes.get(at..)?)?;
                        list.push(reply);
                        at += length;
                    }
                    Self::List(list)
                }
                _ => Self::Nil,
            },
            b'_' => Self::Nil,
            b'-' => Self::Error(String::from_utf8_lossy(rest).into_owned()),
            _ => Self::Text(rest.to_vec()),
        };
        Some((reply, at))
    }
}

/// A value as text, no value as an empty text, a list line by line.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => Ok(()),
            Self::Text(text) => f.write_str(&String::from_utf8_lossy(text)),
            Self::Error(error) => f.write_str(error),
            Self::List(list) => {
                for (number, reply) in list.iter().enumerate() {
                    f.write_str(if number == 0 { "" } else { "\n" })?;
                    reply.fmt(f)?;
                }
                Ok(())
            }
        }
    }
}

/// Splits a chunk into its replies. An incomplete one comes last, so that all of
/// them together are the chunk.
pub fn replies(chunk: &[u8]) -> Vec<&[u8]> {
    let (mut replies, mut rest) = (Vec::new(), chunk);
    while !rest.is_empty() {
        let length = Reply::parse(rest).map_or(rest.len(), |(_, length)| length);
        let (reply, after) = rest.split_at(length);
        replies.push(reply);
        rest = after;
    }
    replies
}

/// The bytes of a command as clients send it.
pub(super) fn command(arguments: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments.iter().map(AsRef::as_ref) {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
