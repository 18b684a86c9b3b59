//! [`Notes`]: what the processes of a fleet publish to each other about refreshes, through the
//! cache's shared tier.
//!
//! No note can cause a wrong result. Each note names the version of the view that it is about, by
//! the transaction that wrote it, and PostgreSQL decides whether this is still the current version.
//! If a note is lost or late, the one that is found is about another version. Then a view is
//! refreshed, or results are invalidated, once more than needed.

use crate::sync::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::l2::Store;

/// The note about a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    /// The version of the view that the refresh created.
    pub(super) xmin: String,
    /// The tick of the schedule that the refresh was made for.
    pub(super) tick: Option<SystemTime>,
    /// Whether the refresh changed rows.
    pub(super) changed: bool,
    /// The version in which the rows became what they are: an earlier one if no row has changed
    /// since.
    pub(super) content: String,
    /// What the rows were computed from; see [`SourceSnapshot`].
    pub(super) basis: Option<SourceSnapshot>,
}

/// What the rows of a view were computed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceSnapshot {
    /// The write counters, the definitions, and the contents of the views below, as read before the
    /// refresh. Earlier versions of Larder wrote no definitions, so their digests equal none.
    pub(super) digest: String,
    /// When they were read, by PostgreSQL's clock: microseconds since 1970.
    pub(super) read_at: i64,
}

/// Not `announced`, which processes of earlier versions write: they invalidate only the tag of the
/// name that they were given.
const ANNOUNCED: &str = "stale";

pub(super) struct Notes {
    stores: Vec<Option<Arc<dyn Store>>>,
    /// The notes of this process. For a cache without a shared tier they are the only ones; for
    /// other caches they are looked up first.
    own: Mutex<HashMap<String, Bytes>>,
}

impl Notes {
    /// Notes for these caches, each given by its shared tier if it has one.
    pub(super) fn new(stores: Vec<Option<Arc<dyn Store>>>) -> Notes {
        Notes { stores, own: Mutex::default() }
    }

    /// The note about the refresh that created this version of a view.
    pub(super) async fn of(&self, view: &str, xmin: &str) -> Option<Note> {
        let name = format!("view:{view}");
        let about = |bytes: &Bytes| Note::read(bytes).filter(|note| note.xmin == xmin);
        if let Some(note) = self.own(&name).as_ref().and_then(about) {
            return Some(note);
        }
        for store in self.stores.iter().flatten() {
            if let Ok(Some(bytes)) = store.noted(&name).await
                && let Some(note) = about(&bytes)
            {
                return Some(note);
            }
        }
        None
    }

    /// Writes a note about a refresh, before the commit, so that the next refresh finds it.
    pub(super) async fn write(&self, view: &str, note: &Note) {
        let (name, bytes) = (format!("view:{view}"), note.bytes());
        self.keep(&name, bytes.clone());
        for store in self.stores.iter().flatten() {
            let _ = store.note(&name, bytes.clone()).await;
        }
    }

    /// Whether the results in a cache that have a view's tags were invalidated since the view got
    /// this content: whether it is noted under all of these names.
    pub(super) async fn is_announced(&self, cache: usize, names: &[String], content: &str) -> bool {
        for name in names {
            let noted = match &self.stores[cache] {
                Some(store) => store.noted(&format!("{ANNOUNCED}:{name}")).await.ok().flatten(),
                None => self.own(&format!("{ANNOUNCED}:{cache}:{name}")),
            };
            if noted.is_none_or(|noted| noted != content) {
                return false;
            }
        }
        true
    }

    /// Records that they were. Called only after the invalidation was acknowledged.
    pub(super) async fn announced(&self, cache: usize, names: &[String], content: &str) {
        let bytes = Bytes::copy_from_slice(content.as_bytes());
        for name in names {
            match &self.stores[cache] {
                Some(store) => {
                    let _ = store.note(&format!("{ANNOUNCED}:{name}"), bytes.clone()).await;
                }
                None => self.keep(&format!("{ANNOUNCED}:{cache}:{name}"), bytes.clone()),
            }
        }
    }

    fn own(&self, name: &str) -> Option<Bytes> {
        self.own.lock().get(name).cloned()
    }

    fn keep(&self, name: &str, bytes: Bytes) {
        self.own.lock().insert(name.to_owned(), bytes);
    }
}

impl Note {
    fn bytes(&self) -> Bytes {
        let since_1970 = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok();
        let tick = self.tick.and_then(since_1970).map(|it| it.as_nanos() as u64);
        let basis = self
            .basis
            .as_ref()
            .map(|basis| json!({"digest": basis.digest, "read_at": basis.read_at}));
        let note = json!({
            "xmin": self.xmin,
            "tick_ns": tick,
            "changed": self.changed,
            "content": self.content,
            "basis": basis,
        });
        note.to_string().into()
    }

    /// `None` if the bytes are something else, such as a note in another format.
    fn read(bytes: &[u8]) -> Option<Note> {
        let note: Value = serde_json::from_slice(bytes).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let tick = note.get("tick_ns")?.as_u64();
        let basis = note.get("basis")?;
        Some(Note {
            xmin: text(note.get("xmin")?)?,
            tick: tick.and_then(|ns| SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(ns))),
            changed: note.get("changed")?.as_bool()?,
            content: text(note.get("content")?)?,
            basis: match basis {
                Value::Null => None,
                basis => Some(SourceSnapshot {
                    digest: text(basis.get("digest")?)?,
                    read_at: basis.get("read_at")?.as_i64()?,
                }),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        Note {
            xmin: "731".into(),
            tick: SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(1_764_000_000_500)),
            changed: true,
            content: "731".into(),
            basis: Some(SourceSnapshot { digest: "d".into(), read_at: 17 }),
        }
    }

    #[test]
    fn a_note_is_read_as_it_was_written() {
        assert_eq!(Note::read(&note().bytes()), Some(note()));
        let bare = Note { tick: None, basis: None, changed: false, ..note() };
        assert_eq!(Note::read(&bare.bytes()), Some(bare));
    }

    #[test]
    fn what_is_no_note_is_none() {
        for other in ["", "{}", "[]", "7", r#"{"xmin":7}"#, "\u{0}"] {
            assert_eq!(Note::read(other.as_bytes()), None);
        }
    }

    #[tokio::test]
    async fn a_note_is_about_one_state_of_the_view() {
        let notes = Notes::new(vec![]);
        notes.write("shop:7", &note()).await;
        assert_eq!(notes.of("shop:7", "731").await, Some(note()));
        assert_eq!(notes.of("shop:7", "732").await, None);
        assert_eq!(notes.of("shop:8", "731").await, None);
    }
}
