//! Does a load that waits for itself end with an error at once?

use std::time::Duration;

use larder::{Error, ErrorKind, QueryCache};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::support::local;

/// The paused clock moves only while nothing else can happen. So an answer at once takes no time,
/// and a wait for a deadline takes all of it.
const DEADLINE: Duration = Duration::from_secs(300);

type Boxed = std::pin::Pin<Box<dyn Future<Output = Result<i32, Error>> + Send>>;

/// Reads a query whose load reads the next of the names, and so on.
fn chain(caches: Vec<QueryCache>, names: &'static [&'static str], at: usize) -> Boxed {
    Box::pin(async move {
        let name = names[at];
        let query = caches[at % caches.len()].query(name).name(name).load_deadline(DEADLINE);
        let read = query.load(move || async move {
            if at + 1 == names.len() {
                return Ok(0);
            }
            Ok::<_, Error>(chain(caches, names, at + 1).await? + 1)
        });
        Ok(*read.await?)
    })
}

#[tokio::test(start_paused = true)]
async fn a_load_that_waits_for_itself_is_an_error_at_once_that_names_the_queries() {
    let (one, two) = (local().await, local().await);
    let cycles: [(&'static [&'static str], &str); 3] = [
        (&["a", "a"], "a -> a"),
        (&["a", "b", "a"], "b -> a -> b"),
        (&["a", "b", "c", "d", "b"], "d -> b -> c -> d"),
    ];
    for (names, shown) in cycles {
        let begin = Instant::now();
        let error = chain(vec![one.clone()], names, 0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cycle, "{error}");
        assert!(error.to_string().contains(shown), "{error}");
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert_eq!(chain(vec![one.clone()], &names[..1], 0).await.unwrap(), 0, "and it is over");
        one.clear().await;
    }
    // Through two caches: `a` is of the first, `b` of the second.
    let error = chain(vec![one, two], &["a", "b", "a", "b"], 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cycle, "{error}");
}

#[tokio::test(start_paused = true)]
async fn loads_that_were_started_by_different_readers_and_wait_for_each_other_are_a_cycle() {
    let cache = local().await;
    let mut readers = vec![];
    let (mut go_on, mut begun) = (vec![], vec![]);
    for (own, other) in [("a", "b"), ("b", "a")] {
        let (tell, told) = oneshot::channel();
        let (begins, began) = oneshot::channel();
        go_on.push(tell);
        begun.push(began);
        let cache = cache.clone();
        readers.push(tokio::spawn(async move {
            let needed = cache.query(other).name(other).load_deadline(DEADLINE);
            let query = cache.query(own).name(own).load_deadline(DEADLINE);
            let read = query.load(move || async move {
                begins.send(()).unwrap();
                told.await.unwrap();
                let value = needed.load(|| async { Ok::<_, Error>(1) }).await?;
                Ok::<i32, Error>(*value)
            });
            read.await.map(|value| *value)
        }));
    }
    for began in begun {
        began.await.unwrap();
    }
    let begin = Instant::now();
    go_on.into_iter().for_each(|go_on| go_on.send(()).unwrap());
    for reader in readers {
        // Both wait for the same cycle, so neither has a result.
        assert_eq!(reader.await.unwrap().unwrap_err().kind(), ErrorKind::Cycle);
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn loads_that_share_what_they_need_are_no_cycle() {
    let cache = local().await;
    let (needs, base) = (cache.clone(), cache.query("base").name("base"));
    let middle = move |name: &'static str| {
        let (query, base) = (needs.query(name).name(name), base.clone());
        async move {
            let read = query.load(move || async move {
                let value = base.load(|| async { Ok::<_, Error>(1) }).await?;
                Ok::<i32, Error>(*value + 1)
            });
            Ok::<i32, Error>(*read.await?)
        }
    };
    let query = cache.query("top");
    let top = query.load(move || async move {
        let (one, two, same) = tokio::join!(middle("one"), middle("two"), middle("one"));
        Ok::<i32, Error>(one? + two? + same?)
    });
    assert_eq!(*top.await.unwrap(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_a_load_spawns_may_wait_for_the_load() {
    let cache = local().await;
    let query = cache.query("a").name("a").load_deadline(DEADLINE);
    let (own, (tell, told)) = (query.clone(), oneshot::channel());
    let read = query.load(move || async move {
        // Not awaited here: it gets the result of this load.
        tell.send(tokio::spawn(async move {
            own.load(|| async { Ok::<_, Error>(8) }).await.map(|value| *value)
        }))
        .unwrap();
        tokio::task::yield_now().await;
        Ok::<i32, Error>(7)
    });
    assert_eq!(*read.await.unwrap(), 7);
    assert_eq!(told.await.unwrap().await.unwrap().unwrap(), 7);
}
