//! [`Learning`]: what a cache has learned, for each source of rows and each query.

use std::any::Any;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::currency::{Currency, Stamp};
use crate::learn::locks::{self, Locks};
use crate::learn::session::{self, Session};
use crate::learn::{QueryClass, TextRow, Verdict};
use crate::sync::Mutex;
use crate::value::relation::RelationName;
use crate::value::setup::{Over, Setup};
use crate::value::tag::{Tag, TagSlot};

/// How long definitions are taken to be as they were, unless an invalidation says otherwise.
const DEFINITIONS_LAST: Duration = Duration::from_secs(1);

/// After this many loads in a row whose sessions all differed in the same way, the source has changed.
const DIFFERING: u32 = 3;

/// The numbers of sources and of queries that are kept. What is forgotten is learned again.
const MOST_SOURCES: usize = 64;
const MOST_QUERIES: usize = 4096;

/// The first column of the row that has the version of the definitions.
pub(crate) const DEFINITIONS: &str = "definitions";

/// What a source of rows is recognized by.
#[derive(Clone)]
pub(crate) struct SourceId {
    pub(crate) address: usize,
    /// A weak reference to what is at the address, which keeps it from being used again.
    pub(crate) guard: Arc<dyn Any + Send + Sync>,
}

/// A query, with what decides which relations its names mean, and which settings its loads bring.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Subject {
    sql: Arc<str>,
    role: Option<Box<str>>,
    search_path: Option<Box<str>>,
    /// The names of the settings that are set for it, in order.
    set: Box<[Box<str>]>,
}

impl Subject {
    pub(crate) fn new(sql: &Arc<str>, setup: Option<Over<'_>>) -> Subject {
        let mut set: Vec<Box<str>> = vec![];
        if let Some(setup) = &setup {
            setup.each(|name, _| set.push(name.to_ascii_lowercase().into()));
        }
        Subject {
            sql: sql.clone(),
            role: setup.and_then(|setup| setup.role()).map(Into::into),
            search_path: setup.and_then(|setup| setup.setting("search_path")).map(Into::into),
            set: set.into(),
        }
    }

    /// Whether it is that of the same query under this setup. It allocates nothing.
    pub(crate) fn is_of(&self, setup: Option<Over<'_>>) -> bool {
        let Some(setup) = setup else {
            return self.role.is_none() && self.set.is_empty();
        };
        let (mut set, mut same) = (self.set.iter(), true);
        setup.each(|name, _| {
            same &= set.next().is_some_and(|known| known.eq_ignore_ascii_case(name));
        });
        same && set.next().is_none()
            && self.role.as_deref() == setup.role()
            && self.search_path.as_deref() == setup.setting("search_path")
    }
}

/// All that a cache has learned.
#[derive(Default)]
pub(crate) struct Learning {
    sources: Mutex<HashMap<usize, OfSource>>,
}

struct OfSource {
    _guard: Arc<dyn Any + Send + Sync>,
    queries: HashMap<Subject, Arc<Learner>>,
}

impl Learning {
    /// What is learned of a query that is fetched from this source.
    pub(crate) fn learner(&self, source: &SourceId, subject: &Subject) -> Arc<Learner> {
        let mut sources = self.sources.lock();
        if sources.len() >= MOST_SOURCES && !sources.contains_key(&source.address) {
            sources.clear();
        }
        let of_source = sources
            .entry(source.address)
            .or_insert_with(|| OfSource { _guard: source.guard.clone(), queries: HashMap::new() });
        if let Some(known) = of_source.queries.get(subject) {
            return known.clone();
        }
        if of_source.queries.len() >= MOST_QUERIES {
            of_source.queries.clear();
        }
        let learner = Arc::<Learner>::default();
        of_source.queries.insert(subject.clone(), learner.clone());
        learner
    }
}

/// The place of what is learned of one query.
#[derive(Default)]
pub(crate) struct Learner {
    /// Held by the one that asks PostgreSQL, while others wait for what it learns.
    pub(crate) gate: tokio::sync::Mutex<()>,
    learned: Mutex<Option<Arc<Learned>>>,
}

impl Learner {
    /// What is known, unless it is outdated.
    pub(crate) fn learned(&self) -> Option<Arc<Learned>> {
        self.learned.lock().clone().filter(|learned| !learned.is_outdated())
    }

    pub(crate) fn keep(&self, learned: Arc<Learned>) {
        if let Some(before) = self.learned.lock().replace(learned) {
            before.outdate();
        }
    }
}

/// What was learned of one query.
pub(crate) struct Learned {
    pub(crate) verdict: Verdict,
    /// That of the source, and a hash of it.
    pub(crate) session: Session,
    pub(crate) digest: [u8; 32],
    /// The question for the session, and the one for locks and session, made once.
    pub(crate) ask_session: Arc<str>,
    pub(crate) ask_locks: Arc<str>,
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

/// What a load has read.
pub(crate) struct ReadSet {
    /// Taken before the load began.
    stamp: Stamp,
    slots: Vec<TagSlot>,
    tags: Vec<Tag>,
    relations: BTreeSet<RelationName>,
}

impl ReadSet {
    fn new(stamp: Stamp, relations: BTreeSet<RelationName>) -> ReadSet {
        let tags: Vec<Tag> = relations.iter().flat_map(RelationName::tags_of_read).collect();
        // A follower invalidates all that is followed where a function, an operator or a type was defined
        // anew: what was learned before that may read something else now.
        let slots = tags.iter().map(Tag::slot).chain([TagSlot::FOLLOWED]).collect();
        ReadSet { stamp, slots, tags, relations }
    }

    /// Whether nothing that was read has been invalidated since. A view, a policy or a partition is
    /// defined anew by an invalidation of its relation.
    fn is_current(&self, currency: &Currency) -> bool {
        currency.is_current(&self.stamp, self.slots.iter().copied())
    }

    pub(crate) fn tags(&self) -> &[Tag] {
        &self.tags
    }

    pub(crate) fn relations(&self) -> impl Iterator<Item = String> + '_ {
        self.relations.iter().map(RelationName::canonical)
    }
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
    /// `stamp` was taken before PostgreSQL was asked.
    pub(crate) fn new(verdict: Verdict, session: Session, stamp: Stamp, now: Instant) -> Learned {
        let named = ReadSet::new(stamp, verdict.relations.values().cloned().collect());
        let state = State { checked: Some(now), ..State::default() };
        let (digest, outdated) = (session.digest(), AtomicBool::new(false));
        let ask_session = session::question(verdict.settings.iter().map(String::as_str));
        // One statement: the locks are listed when it begins, and the settings do not change.
        let ask_locks = format!("{} UNION ALL {ask_session}", locks::QUESTION).into();
        Learned {
            verdict,
            session,
            digest,
            ask_session: ask_session.into(),
            ask_locks,
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
        self.named.tags.clone()
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
            match version(replies) {
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
        let read = Arc::new(ReadSet::new(stamp, relations));
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

fn version(replies: &[TextRow]) -> Option<&str> {
    let mark = |row: &&TextRow| row.first().is_some_and(|it| it.as_deref() == Some(DEFINITIONS));
    replies.iter().find(mark)?.get(4)?.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        Learned::new(verdict, session, Currency::alone().stamp(), Instant::from_nanos(0))
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
            |version: &str| vec![text(DEFINITIONS), None, None, None, text(version), None];
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

    #[test]
    fn a_subject_is_that_of_the_same_names_and_of_the_same_schemas() {
        let setup = |role: Option<&'static str>, settings: &[(&'static str, &'static str)]| {
            let mut setup = Setup::default();
            role.into_iter().for_each(|role| setup.set_role(role.into()));
            settings.iter().for_each(|&(name, value)| setup.set(name.into(), value.into()));
            setup
        };
        let base = setup(None, &[("search_path", "a")]);
        let tenant = setup(Some("r"), &[("App.tenant", "7")]);
        let over = Over { setup: &tenant, base: Some(&base) };
        let subject = Subject::new(&"a".into(), Some(over));
        assert!(subject.is_of(Some(over)) && !subject.is_of(None));
        let merged = over.into_owned();
        assert!(subject.is_of(Some(Over { setup: &merged, base: None })));
        let other = setup(Some("r"), &[("app.tenant", "8")]);
        assert!(subject.is_of(Some(Over { setup: &other, base: Some(&base) })));
        for other in [
            setup(Some("s"), &[("app.tenant", "7")]),
            setup(None, &[("app.tenant", "7")]),
            setup(Some("r"), &[]),
            setup(Some("r"), &[("app.tenant", "7"), ("app.b", "")]),
            setup(Some("r"), &[("app.tenant", "7"), ("search_path", "b")]),
        ] {
            assert!(!subject.is_of(Some(Over { setup: &other, base: Some(&base) })), "{other:?}");
        }
        assert!(Subject::new(&"a".into(), None).is_of(None));
    }

    #[test]
    fn sources_and_queries_have_places_of_their_own() {
        let learning = Learning::default();
        let subject = |sql: &str| Subject::new(&sql.into(), None);
        let source = |address| SourceId { address, guard: Arc::new(()) };
        let one = learning.learner(&source(1), &subject("a"));
        assert!(Arc::ptr_eq(&one, &learning.learner(&source(1), &subject("a"))));
        assert!(!Arc::ptr_eq(&one, &learning.learner(&source(2), &subject("a"))));
        assert!(!Arc::ptr_eq(&one, &learning.learner(&source(1), &subject("b"))));
        for address in 0..2 * MOST_SOURCES {
            learning.learner(&source(address), &subject("a"));
        }
        assert!(learning.sources.lock().len() <= MOST_SOURCES);
        for n in 0..MOST_QUERIES + 7 {
            learning.learner(&source(0), &subject(&n.to_string()));
        }
        assert!(learning.sources.lock()[&0].queries.len() <= MOST_QUERIES);
    }
}
