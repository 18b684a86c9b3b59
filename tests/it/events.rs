//! Can somebody who reads the log tell what happened?

use std::sync::{Arc, Mutex};

use larder::{QueryCache, Tagged};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Writes every event down as a line.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!(" {field}={value:?}"));
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "larder"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn a_result_that_was_not_served_says_which_invalidation_killed_it() {
    let lines = Lines::default();
    let _default = tracing::subscriber::set_default(lines.clone());
    let cache = QueryCache::builder().build().await.unwrap();
    let query = cache.query("SELECT 'hunter2'").tag("orders").tag("users");
    let load =
        || async { Ok::<_, std::io::Error>(Tagged::new(7_i32).tag("only its loader knows")) };
    let killed = || {
        let lines = std::mem::take(&mut *lines.0.lock().unwrap());
        assert!(!lines.concat().contains("hunter2"));
        let of_kill = lines.into_iter().filter(|line| line.contains("was not served"));
        of_kill.collect::<Vec<_>>()
    };
    query.load_tagged(load).await.unwrap();
    assert_eq!(killed().len(), 0);
    cache.invalidate(["orders"]).await.unwrap();
    query.load_tagged(load).await.unwrap();
    let said = killed();
    assert_eq!(said.len(), 1);
    for part in ["DEBUG", "by=\"orders\"", "tier=\"memory\"", "at=1", "loaded_as_of=0"] {
        assert!(said[0].contains(part), "{part}: {said:?}");
    }
    cache.invalidate(["only its loader knows"]).await.unwrap();
    query.load_tagged(load).await.unwrap();
    assert!(killed()[0].contains("by=\"only its loader knows\""));
    cache.invalidate_query(&query).await.unwrap();
    query.load_tagged(load).await.unwrap();
    assert!(killed()[0].contains("by=\"the query itself"));
    cache.clear().await.unwrap();
    query.load_tagged(load).await.unwrap();
    assert!(killed()[0].contains("by=\"everything\""));
    query.load_tagged(load).await.unwrap();
    assert_eq!(killed().len(), 0);
}
