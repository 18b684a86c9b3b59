//! Does the log show what happened?

use std::cell::Cell;

use larder::{QueryCache, Tagged};

use crate::told::listen;

#[tokio::test]
async fn a_result_that_was_not_served_says_which_invalidation_killed_it() {
    let seen = listen();
    let told_before = Cell::new(0);
    let cache = QueryCache::builder().build().await.unwrap();
    let query = cache.query("SELECT 'hunter2'").tag("orders").tag("users");
    let load =
        || async { Ok::<_, std::io::Error>(Tagged::new(7_i32).tag("only its loader knows")) };
    let killed = || {
        let all = seen.all();
        let told = &all[told_before.replace(all.len())..];
        assert!(!format!("{told:?}").contains("hunter2"));
        let of_kill = told.iter().filter(|told| {
            told.fields.get("message").is_some_and(|message| message.contains("was not served"))
        });
        of_kill.cloned().collect::<Vec<_>>()
    };
    query.load_tagged(load).await.unwrap();
    assert_eq!(killed().len(), 0);
    cache.invalidate(["orders"]).await.acknowledged().unwrap();
    query.load_tagged(load).await.unwrap();
    let said = killed();
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].level, "debug");
    for (field, value) in [("by", "orders"), ("tier", "memory"), ("at", "1"), ("loaded_as_of", "0")]
    {
        assert_eq!(said[0].fields[field], value, "{field}: {said:?}");
    }
    cache.invalidate(["only its loader knows"]).await.acknowledged().unwrap();
    query.load_tagged(load).await.unwrap();
    assert_eq!(killed()[0].fields["by"], "only its loader knows");
    cache.invalidate_query(&query).await.acknowledged().unwrap();
    query.load_tagged(load).await.unwrap();
    assert!(killed()[0].fields["by"].starts_with("the query itself"));
    cache.clear().await.acknowledged().unwrap();
    query.load_tagged(load).await.unwrap();
    assert_eq!(killed()[0].fields["by"], "everything");
    query.load_tagged(load).await.unwrap();
    assert_eq!(killed().len(), 0);
}
