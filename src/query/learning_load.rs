//! [`LearningLoad`]: a load that learns what its result depends on.

use std::sync::Arc;

use super::Query;
use crate::cache::inner::{Inner, LoadResult};
use crate::error::Error;
use crate::learn::QueryClass;
use crate::learn::known::{SourceId, Subject};
use crate::learn::learned::{Conclusion, Learned, Plan};
use crate::postgres::learn::{Lesson, Questions, Replies};
use crate::postgres::{self, Call, Source};
use crate::rows::Image;
use crate::telemetry::counters::QueryCounters;
use crate::telemetry::trace;
use crate::value::key::Digest;
use crate::value::setup::{Over, Setup};
use crate::value::tag::{LoadReport, TagSlot};

/// What was learned of a query over one source.
pub(crate) struct Seen {
    pub(super) source: SourceId,
    pub(super) subject: Subject,
    pub(super) learned: Arc<Learned>,
    /// The digest of a call under the query's own setup.
    pub(super) digest: Digest,
}

/// What was learned, and where it is kept.
pub(super) struct Lead {
    pub(super) source: SourceId,
    pub(super) subject: Subject,
    pub(super) learned: Arc<Learned>,
}

/// Learns what a query depends on, unless that is known. `further`: relations that must be judged.
pub(super) async fn learn<S: Source>(
    inner: &Inner,
    sql: &Arc<str>,
    source: &S,
    setup: Option<&Arc<Setup<'static>>>,
    further: &[u32],
) -> Result<Lead, Error> {
    let id = postgres::id(source).ok_or_else(Error::auto_of_shared_client)?;
    let over = setup.map(|setup| Over { setup, base: None });
    let subject = Subject::new(sql, over);
    let learner = inner.learning.learner(&id, &subject);
    // One asks, the others wait for what it learns. If its caller leaves, the next one asks.
    let gate = learner.gate.lock().await;
    let known = learner.learned();
    let learned = match known {
        Some(known) if further.iter().all(|oid| known.verdict.judged.contains(oid)) => known,
        known => {
            let mut further = further.to_vec();
            further.extend(known.iter().flat_map(|known| &known.verdict.judged));
            let lesson = Lesson {
                sql: sql.clone(),
                setup: setup.cloned(),
                further,
                statements: inner.statements.clone(),
            };
            let stamp = inner.currency.stamp();
            let taught = postgres::learn(source.clone(), lesson).await?;
            let (verdict, session) = (taught.verdict, taught.session);
            let (follows, now) = (inner.follower.is_some(), inner.clock.now());
            let learned = Arc::new(Learned::new(sql, verdict, session, follows, stamp, now));
            learner.keep(learned.clone());
            learned
        }
    };
    drop(gate);
    Ok(Lead { source: id, subject, learned })
}

/// A load that learns what its result depends on.
pub(super) struct LearningLoad {
    inner: Arc<Inner>,
    seen: Arc<Seen>,
    /// The query has a `ttl` of its own, for which an unfollowed result is stored.
    has_ttl: bool,
    /// That of the query.
    slot: TagSlot,
    counters: Option<Arc<QueryCounters>>,
}

impl Query {
    pub(super) fn learning_load(&self, seen: Arc<Seen>) -> LearningLoad {
        let counters = self.prepared().ok().map(|prepared| prepared.config.counters.clone());
        LearningLoad {
            inner: self.inner().clone(),
            seen,
            has_ttl: self.settings.ttl.is_some(),
            slot: self.digest().slot(),
            counters,
        }
    }
}

impl LearningLoad {
    pub(super) async fn run<S: Source>(
        self,
        source: S,
        call: Call,
    ) -> Result<LoadResult<Image>, Error> {
        let params = call.params.clone();
        let (value, conclusion) = self.conclude(source, call).await?;
        let followed = self.inner.follower.as_ref().and_then(|follower| follower.database());
        let why = match conclusion {
            Conclusion::Depends(read) => match self.reads_another(followed) {
                Some(why) => why,
                None => {
                    return Ok(LoadResult::new(value, read.report(&params)));
                }
            },
            Conclusion::Unfollowed(why) => why,
            Conclusion::Unjudged(_) => "it has read what could not be judged".to_owned(),
            Conclusion::Redefined => {
                // What other loads have stored may depend on the definition before.
                self.inner.invalidate(&[self.slot]).await;
                "something that it depends on was defined anew meanwhile".to_owned()
            }
        };
        if let Some(counters) = &self.counters {
            trace::unfollowed(counters.name(), &why);
            counters.unfollowed(&why);
        }
        let verdict = &self.seen.learned.verdict;
        let is_kept = self.has_ttl && !verdict.acts && verdict.class() == QueryClass::Unfollowed;
        let tags = if is_kept { self.seen.learned.tags_by_name() } else { vec![] };
        Ok(LoadResult { value, report: LoadReport::of(tags), is_kept })
    }

    /// Says so if the source reads another database than the one that is followed: its changes would
    /// never be announced.
    fn reads_another(&self, followed: Option<&str>) -> Option<String> {
        let (followed, read) = (followed?, self.seen.learned.session.database()?);
        (followed != read).then(|| {
            format!("it is loaded from the database {read:?}, and the cache follows {followed:?}")
        })
    }

    /// Runs the query, and judges its result.
    pub(super) async fn conclude<S: Source>(
        &self,
        source: S,
        call: Call,
    ) -> Result<(Image, Conclusion), Error> {
        let (inner, learned) = (&self.inner, &self.seen.learned);
        // The stamp first, then the load: what is invalidated meanwhile may define anew what it reads.
        let stamp = inner.currency.stamp();
        let plan = learned.plan(&inner.currency, inner.clock.now());
        let questions = Arc::new(Questions::of(&plan, learned));
        let (sql, setup) = (call.sql.clone(), call.setup.clone());
        let asked = (!questions.questions.is_empty()).then(|| questions.clone());
        let text = if learned.verdict.is_refused { sql.clone() } else { learned.text.clone() };
        let call = Call { sql: text, questions: asked, ..call };
        let image = postgres::rows(source.clone(), call).await?;
        let replies = match questions.take_replies() {
            Some(Replies::Skipped) => {
                if let Some(conclusion) = Learned::skipped(&plan) {
                    return Ok((image, conclusion));
                }
                None
            }
            Some(Replies::Rows(rows)) => Some(rows),
            None => None,
        };
        let judge = |learned: &Learned, plan: &Plan| {
            let now = inner.clock.now();
            learned.conclude(plan, replies.as_deref(), setup.as_deref(), stamp, now)
        };
        let conclusion = judge(learned, &plan);
        let Conclusion::Unjudged(unjudged) = &conclusion else { return Ok((image, conclusion)) };
        // A function has read something for the first time. It is judged, once.
        let unjudged: Vec<u32> = unjudged.iter().copied().collect();
        // If that fails, the next load tries it again.
        let Ok(lead) = learn(inner, &sql, &source, setup.as_ref(), &unjudged).await else {
            return Ok((image, conclusion));
        };
        // Another session would be another key.
        if lead.learned.digest != learned.digest {
            return Ok((image, conclusion));
        }
        // The definitions were compared with those of the verdict before.
        let plan = plan.without_definitions();
        Ok((image, judge(&lead.learned, &plan)))
    }
}
