//! The snapshots that processes publish, parsed from Redis's replies.

use std::time::Duration;

use redis::Value;

use super::{bytes, number};
use crate::l2::Snapshot;

/// Parses the replies to `TIME` and `HGETALL`. Expired snapshots are left out; `publish.lua`
/// documents the names of the fields. A field with another name yields an empty snapshot.
pub(super) fn snapshots(replies: &[Value]) -> Option<Vec<Snapshot>> {
    let [Value::Array(time), all] = replies else { return None };
    let now = number(time.first()?)? * 1000 + number(time.get(1)?)? / 1000;
    let snapshot = |field: &Value, value: &Value| {
        let name = bytes(field).and_then(|name| std::str::from_utf8(name).ok());
        let ends = name.and_then(|name| name.split_once(':')?.0.parse::<u64>().ok());
        let remaining = match ends {
            Some(ends) => Duration::from_millis(ends.checked_sub(now).filter(|left| *left > 0)?),
            None => Duration::ZERO,
        };
        let said = ends.and(bytes(value)).unwrap_or_default();
        Some(Snapshot { bytes: said.to_vec().into(), remaining })
    };
    match all {
        Value::Array(all) => {
            let pairs = all.chunks_exact(2).filter_map(|pair| snapshot(&pair[0], &pair[1]));
            Some(pairs.collect())
        }
        Value::Map(all) => {
            Some(all.iter().filter_map(|(field, value)| snapshot(field, value)).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn what_is_over_is_left_out_and_what_is_no_such_field_says_nothing() {
        let time = Value::Array(vec![text("1000"), text("500000")]);
        let fields = [("1000500:a", "over"), ("1000900:b", "said"), ("foreign", "not ours")];
        let pairs = fields.map(|(field, value)| (text(field), text(value)));
        let flat = pairs.iter().flat_map(|(field, value)| [field.clone(), value.clone()]).collect();
        for all in [Value::Array(flat), Value::Map(pairs.to_vec())] {
            let snapshots = snapshots(&[time.clone(), all]).unwrap();
            let said: Vec<_> = snapshots
                .iter()
                .map(|snapshot| (&snapshot.bytes[..], snapshot.remaining.as_millis()))
                .collect();
            assert_eq!(said, [(&b"said"[..], 400), (&b""[..], 0)]);
        }
        assert_eq!(snapshots(&[time, Value::Nil]), None);
    }
}
