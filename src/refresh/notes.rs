//! [`Notes`]: what the processes of a fleet tell each other about refreshes, through the cache's
//! shared tier.
//!
//! Nothing is right or wrong because of a note. Each names the state of the view that it is about,
//! by the transaction that wrote it; PostgreSQL says whether that is the state still. A note that
//! was lost, or is late, is about another state: then a view is refreshed, or results are
//! invalidated, once more than needed.

use crate::sync::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::l2::Store;

/// What a refresh says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    /// The state of the view that it made.
    pub(super) xmin: String,
    /// The tick of the schedule that it was made for.
    pub(super) tick: Option<SystemTime>,
    /// Whether rows changed by it.
    pub(super) changed: bool,
    /// The state in which the rows came to be as they are: an earlier one if none changed since.
    pub(super) content: String,
    /// What its rows were made of; see [`SourceSnapshot`].
    pub(super) basis: Option<SourceSnapshot>,
}

/// What the rows of a view were made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceSnapshot {
    /// How counters of writes and the contents of views below stood before the refresh.
    pub(super) digest: String,
    /// When that was, by PostgreSQL's clock: microseconds since 1970.
    pub(super) read_at: i64,
}

pub(super) struct Notes {
    stores: Vec<Option<Arc<dyn Store>>>,
    /// What this process has noted: all there is for a cache that has no shared tier, and for others
    /// the first place to look.
    own: Mutex<HashMap<String, Bytes>>,
}

impl Notes {
    /// Of caches, each with its shared tier if it has one.
    pub(super) fn new(stores: Vec<Option<Arc<dyn Store>>>) -> Notes {
        Notes { stores, own: Mutex::default() }
    }

    /// What the refresh that made this state of a view says about itself.
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

    /// Notes a refresh, before it is committed: whoever comes after it finds the note.
    pub(super) async fn write(&self, view: &str, note: &Note) {
        let (name, bytes) = (format!("view:{view}"), note.bytes());
        self.keep(&name, bytes.clone());
        for store in self.stores.iter().flatten() {
            let _ = store.note(&name, bytes.clone()).await;
        }
    }

    /// Whether what a cache holds under a view's tag was invalidated since the view had this content.
    pub(super) async fn is_announced(&self, cache: usize, tag: &str, content: &str) -> bool {
        match &self.stores[cache] {
            Some(store) => {
                let noted = store.noted(&format!("announced:{tag}")).await;
                matches!(noted, Ok(Some(noted)) if noted == content)
            }
            None => self.own(&format!("announced:{cache}:{tag}")).is_some_and(|it| it == content),
        }
    }

    /// Notes that it was. Only ever after the invalidation was acknowledged.
    pub(super) async fn announced(&self, cache: usize, tag: &str, content: &str) {
        let bytes = Bytes::copy_from_slice(content.as_bytes());
        match &self.stores[cache] {
            Some(store) => {
                let _ = store.note(&format!("announced:{tag}"), bytes).await;
            }
            None => self.keep(&format!("announced:{cache}:{tag}"), bytes),
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

    /// `None` if it is something else, such as a note of another version.
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
