//! Records the spans and events of `tracing`, test by test.
//!
//! The process has one subscriber, which records the events of a test's thread. With a subscriber
//! for each test, some events would be lost: if a thread without a subscriber reaches a callsite
//! first, `tracing` remembers that nobody is interested in it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, set_global_default};
use tracing::{Event, Metadata, Subscriber};

thread_local! {
    static TOLD: RefCell<Option<Vec<Told>>> = const { RefCell::new(None) };
}

/// A span or an event.
#[derive(Debug, Clone)]
pub struct Told {
    /// Of a span; an event has none.
    pub name: Option<&'static str>,
    pub level: String,
    pub fields: BTreeMap<&'static str, String>,
}

impl Told {
    fn new(name: Option<&'static str>, metadata: &Metadata<'_>) -> Told {
        let level = metadata.level().to_string().to_lowercase();
        Told { name, level, fields: BTreeMap::new() }
    }
}

impl Visit for Told {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

/// While it lives, what this thread tells is kept; a test with it has a runtime of one thread.
pub struct Listening(());

pub fn listen() -> Listening {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| set_global_default(Listener).expect("the first subscriber"));
    TOLD.set(Some(vec![]));
    Listening(())
}

impl Listening {
    pub fn all(&self) -> Vec<Told> {
        TOLD.with_borrow(|told| told.clone().unwrap_or_default())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        TOLD.set(None);
    }
}

struct Listener;

impl Listener {
    fn keep(told: Told) -> u64 {
        TOLD.with_borrow_mut(|all| {
            let all = all.as_mut().expect("enabled");
            all.push(told);
            all.len() as u64
        })
    }
}

impl Subscriber for Listener {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.target() == "larder" { Interest::sometimes() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "larder" && TOLD.with_borrow(Option::is_some)
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let metadata = attributes.metadata();
        let mut told = Told::new(Some(metadata.name()), metadata);
        attributes.record(&mut told);
        Id::from_u64(Listener::keep(told))
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        TOLD.with_borrow_mut(|all| {
            let told = all.as_mut().and_then(|all| all.get_mut(id.into_u64() as usize - 1));
            if let Some(told) = told {
                values.record(told);
            }
        });
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut told = Told::new(None, event.metadata());
        event.record(&mut told);
        Listener::keep(told);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
