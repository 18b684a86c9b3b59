//! The value of an entry, for people.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Value as Json, json};
use tokio_postgres::types::Type;

use larder::admin::{EntryCodec, EntryDetails};
use larder::{Row, Rows};

use crate::failure::counted;
use crate::text;

/// A value as text and as JSON.
pub(super) struct Shown {
    pub(super) text: String,
    pub(super) json: Json,
}

pub(super) fn of(entry: Option<&EntryDetails>, most: usize) -> Shown {
    let Some((entry, header)) = entry.and_then(|entry| Some((entry, entry.header?))) else {
        return Shown { text: "none".to_owned(), json: Json::Null };
    };
    let payload = entry.payload();
    match header.codec {
        EntryCodec::Rows => match entry.rows() {
            Some(all) => rows(&all, most),
            None => unreadable(payload.len(), "rows"),
        },
        EntryCodec::Json => match serde_json::from_slice::<Json>(payload) {
            Ok(json) => shown(json),
            Err(_) => unreadable(payload.len(), "JSON"),
        },
        #[cfg(feature = "msgpack")]
        EntryCodec::MessagePack => match rmp_serde::from_slice::<Json>(payload) {
            Ok(json) => shown(json),
            Err(_) => unreadable(payload.len(), "MessagePack that JSON could show"),
        },
        _ => unreadable(payload.len(), "of a codec that this build has"),
    }
}

fn shown(json: Json) -> Shown {
    Shown { text: format!("{json:#}"), json }
}

fn unreadable(bytes: usize, what: &str) -> Shown {
    let text = format!("{} that are not {what}", text::bytes(bytes as u64));
    Shown { json: json!({ "unreadable": text }), text }
}

fn rows(rows: &Rows, most: usize) -> Shown {
    let names: Vec<&str> = rows.columns().iter().map(|column| column.name()).collect();
    let cells: Vec<Vec<Json>> = rows.iter().take(most).map(cells).collect();
    let said = |cell: &Json| match cell {
        Json::String(text) => text.clone(),
        Json::Null => "NULL".to_owned(),
        other => other.to_string(),
    };
    const NUMBERS: [Type; 6] =
        [Type::INT2, Type::INT4, Type::INT8, Type::FLOAT4, Type::FLOAT8, Type::NUMERIC];
    let right = (0..names.len()).filter(|&at| NUMBERS.contains(rows.columns()[at].type_()));
    let right: Vec<usize> = right.collect();
    let lines = cells.iter().map(|row| row.iter().map(said).collect());
    let mut text = text::table(&names, &right, lines, text::table_width());
    let left = rows.len().saturating_sub(most);
    if left > 0 {
        text.push_str(&format!("\n… {} more (--rows)", counted(left, "row")));
    }
    let types: Vec<&str> = rows.columns().iter().map(|column| column.type_().name()).collect();
    let json = json!({ "columns": names, "types": types, "rows": cells, "left_out": left });
    Shown { text, json }
}

/// Each as serde has it; where it has no form for a type, all of the row as bytes.
fn cells(row: Row<'_>) -> Vec<Json> {
    match row.deserialize::<Cells>() {
        Ok(Cells(cells)) if cells.len() == row.len() => cells,
        _ => (0..row.len()).map(|at| raw(row, at)).collect(),
    }
}

fn raw(row: Row<'_>, at: usize) -> Json {
    let Some(bytes) = row.raw(at) else { return Json::Null };
    if let Ok(text) = row.try_get::<_, &str>(at) {
        return Json::from(text);
    }
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Json::from(format!("\\x{hex}"))
}

/// The values of a row in the order of its columns.
struct Cells(Vec<Json>);

impl<'de> Deserialize<'de> for Cells {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cells, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Cells;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cells, A::Error> {
                let mut cells = vec![];
                while let Some((_, cell)) = map.next_entry::<String, Json>()? {
                    cells.push(cell);
                }
                Ok(Cells(cells))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}
