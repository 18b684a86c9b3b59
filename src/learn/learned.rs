//! [`Learned`]: what was learned of one query. It plans what a load asks for, and judges the load by the
//! replies.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::locks::{self, Locks};
use super::read_set::ReadSet;
use super::session::{self, Session};
use super::{QueryClass, TextRow, Verdict, definitions};
use crate::clock::{self, Instant};
use crate::currency::{Currency, Stamp};
use crate::sync::Mutex;
use crate::value::setup::Setup;
use crate::value::tag::Tag;

/// How long definitions are taken to be as they were, unless an invalidation says otherwise.
const DEFINITIONS_LAST: Duration = Duration::from_secs(1);

/// After this many loads in a row whose sessions all differed in the same way, the source has changed.
const DIFFERING: u32 = 3;

/// What was learned of one query.
pub(crate) struct Learned {
    pub(crate) verdict: Verdict,
    /// That of the source, and a hash of it.
    pub(crate) session: Session,
    pub(crate) digest: [u8; 32],
    /// The questions for the session, for locks and session, and for the version of the definitions.
    pub(crate) ask_session: Arc<str>,
    pub(crate) ask_locks: Arc<str>,
    pub(crate) ask_definitions: Arc<str>,
    /// What loads run. PostgreSQL goes on with what the names in a prepared statement meant when it was
    /// prepared, so that each version has a text of its own, for poolers as well, which know a
    /// statement by its text.
    pub(crate) text: Arc<str>,
    /// The cache follows the database.
    follows: bool,
    /// What its trees name, as of when it was learned.
    named: ReadSet,
    outdated: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the last load that was asked for its locks has read.
    read: Option<Arc<ReadSet>>,
    /// When the definitions were last found to be those of the verdict.
    checked: Option<Instant>,
    /// The session of the last loads, if it differed from that of the source, and how many there were.
    differing: Option<(Session, u32)>,
}

/// What a load asks for besides its rows.
pub(crate) struct Plan {
    pub(crate) asks: Asks,
    /// Whether the definitions are compared with those of the verdict.
    pub(crate) definitions: bool,
    /// What a load that does not ask for its locks has read.
    read: Option<Arc<ReadSet>>,
}

impl Plan {
    /// The same, for a reply whose definitions were compared.
    pub(crate) fn without_definitions(self) -> Plan {
        Plan { definitions: false, ..self }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    Nothing,
    Session,
    SessionAndLocks,
}

/// What became of a load.
pub(crate) enum Conclusion {
    /// It depends on this.
    Depends(Arc<ReadSet>),
    /// It must not be stored, for this reason.
    Unfollowed(String),
    /// It has read relations that were not judged.
    Unjudged(BTreeSet<u32>),
    /// Something was defined anew since the verdict.
    Redefined,
}

impl Learned {
    /// `stamp` was taken before PostgreSQL was asked. `follows`: the cache follows the database.
    pub(crate) fn new(
        sql: &str,
        verdict: Verdict,
        session: Session,
        follows: bool,
        stamp: Stamp,
        now: Instant,
    ) -> Learned {
        let relations = verdict.relations.values().cloned().collect();
        let named = ReadSet::new(stamp, relations, &verdict, follows);
        let state = State { checked: Some(now), ..State::default() };
        let (digest, outdated) = (session.digest(follows), AtomicBool::new(false));
        let ask_session = session::question(verdict.settings.iter().map(String::as_str));
        // One statement: the locks are listed when it begins, and the settings do not change.
        let ask_locks = format!("{} UNION ALL {ask_session}", locks::QUESTION).into();
        let text = format!("{sql}\n/* larder: {} */", verdict.version).into();
        Learned {
            ask_definitions: definitions::question(&verdict).into(),
            text,
            verdict,
            session,
            digest,
            ask_session: ask_session.into(),
            ask_locks,
            follows,
            named,
            outdated,
            state: Mutex::new(state),
        }
    }

    #[inline]
    pub(crate) fn is_outdated(&self) -> bool {
        // It only saves a question: a load that misses it finds out by itself.
        self.outdated.load(Ordering::Relaxed)
    }

    pub(crate) fn outdate(&self) {
        self.outdated.store(true, Ordering::Relaxed);
    }

    /// The tags of what the query reads according to its trees.
    pub(crate) fn tags_by_name(&self) -> Vec<Tag> {
        self.named.tags()
    }

    /// Plans a load, which must not have begun yet.
    pub(crate) fn plan(&self, currency: &Currency, now: Instant) -> Plan {
        let state = self.state.lock();
        let lasts = |at| clock::since(now, at) < DEFINITIONS_LAST;
        let recent = state.checked.is_some_and(lasts);
        let class = self.verdict.class();
        if self.verdict.is_refused {
            if !recent {
                self.outdate();
            }
            return Plan { asks: Asks::Nothing, definitions: false, read: None };
        }
        if class == QueryClass::Unfollowed {
            // What is not followed may be defined anew so that it can be.
            return Plan { asks: Asks::Nothing, definitions: !recent, read: None };
        }
        // After an invalidation the load asks for everything again: perhaps a view was defined anew.
        let read = state.read.clone().filter(|read| read.is_current(currency));
        let is_current = match &state.read {
            Some(_) => read.is_some(),
            None => self.named.is_current(currency),
        };
        let definitions = !(recent && is_current);
        match read {
            Some(_) if class == QueryClass::Static && !self.session.has_temporary_objects() => {
                Plan { asks: Asks::Session, definitions, read }
            }
            _ => Plan { asks: Asks::SessionAndLocks, definitions, read: None },
        }
    }

    /// Judges a load by the replies to what it has asked; `None` if they are not known.
    ///
    /// `stamp` was taken before it began.
    pub(crate) fn conclude(
        &self,
        plan: &Plan,
        replies: Option<&[TextRow]>,
        setup: Option<&Setup<'_>>,
        stamp: Stamp,
        now: Instant,
    ) -> Conclusion {
        let unanswered = || {
            Conclusion::Unfollowed(
                "PostgreSQL did not report what the load has read; the next one asks again".into(),
            )
        };
        if plan.asks == Asks::Nothing && !plan.definitions {
            return Conclusion::Unfollowed(self.why());
        }
        let Some(replies) = replies else { return unanswered() };
        if plan.definitions {
            match definitions::version(replies) {
                Some(version) if version == self.verdict.version => {
                    self.state.lock().checked = Some(now);
                }
                Some(_) => {
                    self.outdate();
                    return Conclusion::Redefined;
                }
                None => return unanswered(),
            }
        }
        if plan.asks == Asks::Nothing || self.verdict.class() == QueryClass::Unfollowed {
            return Conclusion::Unfollowed(self.why());
        }
        if let Err(differs) = self.compare(replies, setup) {
            return Conclusion::Unfollowed(differs);
        }
        if let (Asks::Session, Some(read)) = (plan.asks, &plan.read) {
            return Conclusion::Depends(read.clone());
        }
        let Some(locks) = Locks::read(replies, &self.verdict.judged) else { return unanswered() };
        if locks.acts {
            return Conclusion::Unfollowed("it writes, or locks what it reads".into());
        }
        if locks.nameless {
            return Conclusion::Unfollowed("it has read a relation that is gone".into());
        }
        if !locks.unknown.is_empty() {
            return Conclusion::Unjudged(locks.unknown);
        }
        let mut relations = locks.relations;
        relations.extend(self.verdict.relations.values().cloned());
        let read = Arc::new(ReadSet::new(stamp, relations, &self.verdict, self.follows));
        self.state.lock().read = Some(read.clone());
        Conclusion::Depends(read)
    }

    /// The load skipped its question, since nobody has used its connection since the last one.
    pub(crate) fn skipped(plan: &Plan) -> Option<Conclusion> {
        plan.read.clone().map(Conclusion::Depends)
    }

    /// Why the query is unfollowed.
    pub(crate) fn why(&self) -> String {
        let reasons: Vec<&str> = self.verdict.reasons.iter().map(String::as_str).collect();
        reasons.join("; ")
    }

    fn compare(&self, replies: &[TextRow], setup: Option<&Setup<'_>>) -> Result<(), String> {
        let further = self.verdict.settings.iter().map(String::as_str);
        let Some(session) = Session::read(replies, further) else {
            return Err("PostgreSQL did not report the settings of the session".into());
        };
        let Some(name) = self.session.differs(&session, setup) else {
            self.state.lock().differing = None;
            return Ok(());
        };
        let name = format!("the connection has another value than the pool for: {name}");
        let mut state = self.state.lock();
        let times = match state.differing.take() {
            Some((before, times)) if before == session => times + 1,
            _ => 1,
        };
        state.differing = Some((session, times));
        drop(state);
        if times >= DIFFERING {
            self.outdate();
        }
        Err(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::relation::RelationName;
    use crate::value::tag::TagSlot;

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn session_row(change: Option<&str>) -> TextRow {
        let question = crate::learn::session::question([]);
        let values = question.matches("current_setting").count() + 4;
        let values: Vec<String> = (0..values)
            .map(|n| if n == 3 { "false".to_owned() } else { change.unwrap_or("x").to_owned() })
            .collect();
        let json = serde_json::to_string(&values).unwrap();
        vec![text(crate::learn::session::MARK), None, None, None, Some(json), None]
    }

    fn lock(oid: u32, identity: &str) -> TextRow {
        vec![
            text("lock"),
            Some(oid.to_string()),
            text("false"),
            text("table"),
            text(identity),
            None,
        ]
    }

    fn learned(verdict: Verdict) -> Learned {
        let session = Session::read(&[session_row(None)], []).unwrap();
        Learned::new(
            "SELECT 1",
            verdict,
            session,
            false,
            Currency::alone().stamp(),
            Instant::from_nanos(0),
        )
    }

    fn verdict() -> Verdict {
        Verdict { judged: [1, 2].into(), version: "7".into(), ..Verdict::default() }
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_static_query_asks_for_its_locks_once_and_again_after_an_invalidation() {
        let currency = Currency::alone();
        let learned = learned(verdict());
        let now = Instant::from_nanos(1);
        let first = learned.plan(&currency, now);
        assert_eq!((first.asks, first.definitions), (Asks::SessionAndLocks, false));
        let replies = [lock(1, "public.a"), lock(2, "s.b"), session_row(None)];
        let stamp = currency.stamp();
        let Conclusion::Depends(read) = learned.conclude(&first, Some(&replies), None, stamp, now)
        else {
            panic!("it depends on two relations")
        };
        assert_eq!(read.relations().collect::<Vec<_>>(), ["public.a", "s.b"]);
        let second = learned.plan(&currency, now);
        assert_eq!((second.asks, second.definitions), (Asks::Session, false));
        let alone = [session_row(None)];
        let again = learned.conclude(&second, Some(&alone), None, currency.stamp(), now);
        assert!(matches!(again, Conclusion::Depends(same) if Arc::ptr_eq(&same, &read)));
        // A second later the definitions are compared, and after an invalidation everything.
        assert!(learned.plan(&currency, Instant::from_nanos(2 * SECOND)).definitions);
        let stale = RelationName::parse("s.b").unwrap();
        let slots: Vec<TagSlot> = stale.tags().map(|tag| tag.slot()).collect();
        currency.invalidate_alone(&slots);
        let third = learned.plan(&currency, now);
        assert_eq!((third.asks, third.definitions), (Asks::SessionAndLocks, true));
    }

    #[test]
    fn a_load_is_not_stored_if_something_is_missing_strange_or_new() {
        let currency = Currency::alone();
        let now = Instant::from_nanos(2 * SECOND);
        let definitions =
            |version: &str| vec![text(definitions::MARK), None, None, None, text(version), None];
        let conclude = |learned: &Learned, replies: Option<&[TextRow]>| {
            let plan = learned.plan(&currency, now);
            assert!(plan.definitions);
            learned.conclude(&plan, replies, None, currency.stamp(), now)
        };
        let is_unfollowed = |it| matches!(it, Conclusion::Unfollowed(_));
        assert!(is_unfollowed(conclude(&learned(verdict()), None)));
        assert!(is_unfollowed(conclude(&learned(verdict()), Some(&[session_row(None)]))));
        let rows = [definitions("7"), lock(1, "public.a")];
        assert!(is_unfollowed(conclude(&learned(verdict()), Some(&rows))));
        let rows = [definitions("7"), lock(3, "public.c"), session_row(None)];
        let unjudged = conclude(&learned(verdict()), Some(&rows));
        assert!(matches!(unjudged, Conclusion::Unjudged(oids) if oids == [3].into()));
        let rows = [definitions("8"), lock(1, "public.a"), session_row(None)];
        let redefined = learned(verdict());
        assert!(matches!(conclude(&redefined, Some(&rows)), Conclusion::Redefined));
        assert!(redefined.is_outdated());
    }

    #[test]
    fn a_source_whose_sessions_have_all_changed_is_learned_anew() {
        let currency = Currency::alone();
        let learned = learned(verdict());
        let now = Instant::from_nanos(1);
        let load = |value| {
            let replies = [lock(1, "public.a"), session_row(value)];
            let plan = learned.plan(&currency, now);
            learned.conclude(&plan, Some(&replies), None, currency.stamp(), now)
        };
        for value in [Some("y"), Some("y"), None, Some("y"), Some("z"), Some("y"), Some("y")] {
            let stored = matches!(load(value), Conclusion::Depends(_));
            assert_eq!((stored, learned.is_outdated()), (value.is_none(), false), "{value:?}");
        }
        load(Some("y"));
        assert!(learned.is_outdated());
    }
}
