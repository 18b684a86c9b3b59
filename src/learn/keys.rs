//! Keys: which columns a change tells its rows by, and which value in one of them a result has read.

use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type};

use crate::value::param::OwnedParams;
use crate::value::relation::RelationName;
use crate::value::tag::TagSlot;

/// The key columns of the table `c`, an array of texts: those of which each change in the log tells the
/// value before and after, since they are part of the replica identity, and of whose types equal values
/// are written in one way. Of a table whose whole rows are logged, the first eight.
///
/// No text is a key where there is a collation by which different texts are equal: a plan does not show by
/// which one it compares.
///
/// A cache that follows the database and a query that learns both go by this.
pub(crate) const KEY_COLUMNS: &str = "\
    CASE WHEN c.relkind <> 'r' OR c.relreplident = 'n' THEN '{}'::pg_catalog.text[] \
      ELSE ARRAY(SELECT g.attname::pg_catalog.text FROM pg_catalog.pg_attribute g \
        WHERE g.attrelid = c.oid AND g.attnum > 0 AND NOT g.attisdropped AND g.attgenerated = '' \
          AND g.atttypid IN (20, 21, 23, 25, 1043, 2950) \
          AND (g.atttypid NOT IN (25, 1043) OR NOT EXISTS (SELECT FROM pg_catalog.pg_collation k \
            WHERE NOT k.collisdeterministic)) \
          AND (c.relreplident = 'f' OR g.attnum = ANY ((SELECT (x.indkey::pg_catalog.int2[])[0:x.indnkeyatts - 1] \
            FROM pg_catalog.pg_index x WHERE x.indrelid = c.oid AND x.indisvalid AND x.indimmediate \
              AND CASE c.relreplident WHEN 'd' THEN x.indisprimary ELSE x.indisreplident END)::pg_catalog.int2[])) \
        ORDER BY g.attnum LIMIT 8) END";

/// A condition that all rows of a scan fulfil.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Keyed {
    pub(crate) column: String,
    pub(crate) value: KeyValue,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeyValue {
    /// The parameter of this number, from 1.
    Parameter(usize),
    /// As the stream of changes writes it.
    Constant(String),
}

impl Keyed {
    /// `orders[user_id = $1]`
    pub(crate) fn shown(&self, relation: &str) -> String {
        match &self.value {
            KeyValue::Parameter(number) => format!("{relation}[{} = ${number}]", self.column),
            KeyValue::Constant(value) => format!("{relation}[{} = {value:?}]", self.column),
        }
    }

    /// The slot of the rows, for these parameters. `Ok(None)` if no row can fulfil the condition, an error
    /// if it is not known which.
    pub(crate) fn slot(
        &self,
        relation: &RelationName,
        params: &OwnedParams,
        types: &[String],
    ) -> Result<Option<TagSlot>, Unknown> {
        let value = match &self.value {
            KeyValue::Constant(value) => value.clone(),
            KeyValue::Parameter(number) => {
                let at = number.checked_sub(1).ok_or(Unknown)?;
                let param = params.iter().nth(at).ok_or(Unknown)?;
                match written(param, types.get(at).ok_or(Unknown)?)? {
                    Some(value) => value,
                    None => return Ok(None),
                }
            }
        };
        Ok(Some(relation.tag_of_key(&self.column, &value).slot()))
    }
}

/// It is not known what a parameter is sent as.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unknown;

/// A parameter as the stream of changes writes a column of its value; `None` for NULL.
fn written(param: &(dyn ToSql + Sync), type_name: &str) -> Result<Option<String>, Unknown> {
    let type_ = match type_name {
        "smallint" => Type::INT2,
        "integer" => Type::INT4,
        "bigint" => Type::INT8,
        "text" => Type::TEXT,
        "character varying" => Type::VARCHAR,
        "uuid" => Type::UUID,
        _ => return Err(Unknown),
    };
    let mut bytes = BytesMut::new();
    match param.to_sql_checked(&type_, &mut bytes) {
        Ok(IsNull::No) => {}
        Ok(IsNull::Yes) => return Ok(None),
        Err(_) => return Err(Unknown),
    }
    let bytes = &bytes[..];
    let written = match type_ {
        Type::INT2 => bytes.try_into().ok().map(|it| i16::from_be_bytes(it).to_string()),
        Type::INT4 => bytes.try_into().ok().map(|it| i32::from_be_bytes(it).to_string()),
        Type::INT8 => bytes.try_into().ok().map(|it| i64::from_be_bytes(it).to_string()),
        Type::UUID => bytes.try_into().ok().map(|it| uuid(u128::from_be_bytes(it))),
        _ => String::from_utf8(bytes.to_vec()).ok(),
    };
    written.map(Some).ok_or(Unknown)
}

fn uuid(number: u128) -> String {
    let digits = format!("{number:032x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_written_as_the_stream_writes_it() {
        let of = |param: &(dyn ToSql + Sync), name| written(param, name);
        assert_eq!(of(&7_i32, "integer"), Ok(Some("7".to_owned())));
        assert_eq!(of(&-7_i64, "bigint"), Ok(Some("-7".to_owned())));
        assert_eq!(of(&"a'b", "text"), Ok(Some("a'b".to_owned())));
        assert_eq!(of(&None::<i32>, "integer"), Ok(None));
        assert_eq!(of(&7_i64, "integer"), Err(Unknown));
        assert_eq!(of(&7.5_f64, "double precision"), Err(Unknown));
        assert_eq!(uuid(0x0102 << 112 | 10), "01020000-0000-0000-0000-00000000000a");
    }
}
