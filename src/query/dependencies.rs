//! [`QueryDependencies`]: what the results of a query depend on.

use crate::learn::{QueryClass, REFUSED, Verdict};
use crate::value::relation::RelationName;

/// What the results of a query depend on, from [`Query::dependencies`](crate::Query::dependencies) and
/// [`Bound::dependencies`](crate::Bound::dependencies).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueryDependencies {
    /// How its results are kept current.
    pub class: QueryClass,
    /// The relations that it reads, such as `public.orders` or `"Sales"."Orders"`, in order: views and
    /// what is below them, materialized views, tables. For partitions their parent.
    pub relations: Vec<String>,
    /// What else decides its rows: names of settings, and `role` for the user who asks. Their values are
    /// part of the key.
    pub needs: Vec<String>,
    /// Why its results are not followed, a sentence each. Empty if they are.
    pub unfollowed: Vec<String>,
    /// The types of its parameters, as PostgreSQL has inferred them.
    pub parameters: Vec<String>,
}

impl QueryDependencies {
    pub(super) fn of(verdict: &Verdict) -> QueryDependencies {
        let mut relations: Vec<String> =
            verdict.relations.values().map(RelationName::canonical).collect();
        relations.sort();
        let reason = |reason: &String| match &verdict.refusal {
            Some(refusal) if reason == REFUSED => format!("{reason}: {refusal}"),
            _ => reason.clone(),
        };
        QueryDependencies {
            class: verdict.class(),
            relations,
            needs: verdict.needs.iter().cloned().collect(),
            unfollowed: verdict.reasons.iter().map(reason).collect(),
            parameters: verdict.parameters.clone(),
        }
    }

    pub(super) fn unfollow(&mut self, why: String) {
        self.class = QueryClass::Unfollowed;
        self.unfollowed.push(why);
    }
}
