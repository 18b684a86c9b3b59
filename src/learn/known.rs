//! [`Learning`]: where what is [learned](super::learned) is kept, for each source of rows and each query.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use super::learned::Learned;
use crate::sync::Mutex;
use crate::value::setup::Over;

/// The numbers of sources and of queries that are kept. What is forgotten is learned again.
const MOST_SOURCES: usize = 64;
const MOST_QUERIES: usize = 4096;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::setup::Setup;

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
