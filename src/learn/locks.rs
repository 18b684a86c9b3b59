//! [`Locks`]: the relations that a load has read, from its transaction's own locks.
//!
//! Whatever reads a relation locks it until the transaction ends: the query, a view, a policy, a
//! function, a join that the planner has removed. Three things do not show: what a function has read
//! before it caught an error, what only parallel workers have read, and what PostgreSQL looks up in its
//! catalogs by itself. [`scans`] are asked besides for the first, workers are forbidden for the second,
//! and the verdict refuses the third.

use std::collections::{BTreeMap, BTreeSet};

use crate::learn::TextRow;
use crate::value::relation::RelationName;

/// All locks of the session on relations.
///
/// It names no relation itself, but functions only, so that it adds no lock of its own: a query that
/// reads `pg_class` must not look like one that does not. The locks are listed before the names are
/// looked up, which locks catalogs for a moment.
pub(crate) const QUESTION: &str = "\
    SELECT 'lock', l.relation::pg_catalog.text, (l.mode <> 'AccessShareLock')::pg_catalog.text, o.type, \
      o.identity, (SELECT pg_catalog.string_agg(p.relid::pg_catalog.oid::pg_catalog.text, ' ') \
        FROM pg_catalog.pg_partition_ancestors(l.relation) p (relid)) \
    FROM pg_catalog.pg_lock_status() l \
    CROSS JOIN LATERAL pg_catalog.pg_identify_object(1259::pg_catalog.oid, l.relation, 0) o \
    WHERE l.locktype = 'relation' AND l.pid = pg_catalog.pg_backend_pid()";

/// How often the session has scanned relations, also before an error that a function caught, and those
/// that they are partitions of. PostgreSQL counts across transactions, so it is asked before the query and
/// after it. It is asked after the locks, since it locks catalogs.
pub(crate) fn scans(mark: &str) -> String {
    format!(
        "SELECT '{mark}', t.oid::pg_catalog.text, t.scans::pg_catalog.text, o.type, o.identity, \
           (SELECT pg_catalog.string_agg(p.relid::pg_catalog.oid::pg_catalog.text, ' ') \
             FROM pg_catalog.pg_partition_ancestors(t.oid) p (relid)) \
         FROM (SELECT a.relid::pg_catalog.oid AS oid, pg_catalog.sum(s.scans) AS scans \
           FROM (SELECT coalesce(i.indrelid, c.oid) AS oid, \
               pg_catalog.pg_stat_get_xact_numscans(c.oid) AS scans \
             FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid \
             WHERE c.oid >= 16384 AND c.relkind IN ('r', 'm', 'i')) s \
           CROSS JOIN LATERAL (SELECT s.oid::pg_catalog.regclass \
             UNION SELECT p.relid FROM pg_catalog.pg_partition_ancestors(s.oid) p (relid)) a (relid) \
           WHERE s.scans > 0 GROUP BY 1) t \
         CROSS JOIN LATERAL pg_catalog.pg_identify_object(1259::pg_catalog.oid, t.oid, 0) o"
    )
}

/// The marks of scans that were counted before the query, and after it.
pub(crate) const BEFORE: &str = "scanned before";
pub(crate) const AFTER: &str = "scanned";

/// What a load has read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Locks {
    /// Without those that one of the others is a parent of.
    pub(crate) relations: BTreeSet<RelationName>,
    /// Those that were not judged.
    pub(crate) unknown: BTreeSet<u32>,
    /// It has locked something more strongly than a read does.
    pub(crate) acts: bool,
    /// Something that it has locked has no name any more.
    pub(crate) nameless: bool,
}

struct Lock<'r> {
    oid: u32,
    identity: &'r str,
    /// The relations that it is a partition of.
    ancestors: BTreeSet<u32>,
}

impl Locks {
    /// Reads the replies; `None` if they are none. `judged`: the relations that are judged.
    pub(crate) fn read(rows: &[TextRow], judged: &BTreeSet<u32>) -> Option<Locks> {
        let (mut found, mut all) = (Locks::default(), vec![]);
        let mut before = BTreeMap::new();
        for row in rows {
            let [Some(mark), oid, third, kind, identity, ancestors] = &row[..] else {
                return None;
            };
            if !["lock", BEFORE, AFTER].contains(&mark.as_str()) {
                continue;
            }
            let oid: u32 = oid.as_deref()?.parse().ok()?;
            if mark == "lock" {
                found.acts |= third.as_deref()? != "false";
            } else {
                let scans: u64 = third.as_deref()?.parse().ok()?;
                if mark == BEFORE {
                    before.insert(oid, scans);
                    continue;
                }
                if before.get(&oid).is_some_and(|before| *before >= scans) {
                    continue;
                }
            }
            let (Some(kind), Some(identity)) = (kind.as_deref(), identity.as_deref()) else {
                found.nameless = true;
                continue;
            };
            // Parts of a relation. Nobody reads them by name.
            if matches!(kind, "index" | "toast table" | "composite type") {
                continue;
            }
            let ancestors = ancestors.as_deref().unwrap_or_default().split(' ');
            let ancestors = ancestors.filter_map(|oid| oid.parse().ok());
            all.push(Lock {
                oid,
                identity,
                ancestors: ancestors.filter(|it| *it != oid).collect(),
            });
        }
        let held: BTreeSet<u32> = all.iter().map(|lock| lock.oid).collect();
        for lock in all {
            // What changes a partition makes stale what depends on its parents. Partitions were judged
            // together with the parents.
            if lock.ancestors.iter().any(|parent| held.contains(parent)) {
                let is_judged = lock.ancestors.iter().any(|parent| judged.contains(parent));
                if is_judged || judged.contains(&lock.oid) {
                    continue;
                }
            }
            if !judged.contains(&lock.oid) {
                found.unknown.insert(lock.oid);
            }
            match RelationName::parse(lock.identity) {
                Some(name) => drop(found.relations.insert(name)),
                None => found.nameless = true,
            }
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(oid: u32, strong: bool, kind: &str, identity: &str, ancestors: &str) -> TextRow {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let oid = Some(oid.to_string());
        vec![
            text("lock"),
            oid,
            Some(strong.to_string()),
            text(kind),
            text(identity),
            text(ancestors),
        ]
    }

    fn names(locks: &Locks) -> Vec<String> {
        locks.relations.iter().map(RelationName::canonical).collect()
    }

    #[test]
    fn partitions_go_where_a_parent_is_held_and_stay_where_none_is() {
        let judged = BTreeSet::from([1]);
        let rows = [
            lock(1, false, "table", "public.p", "1"),
            lock(2, false, "table", "public.p1", "2 1"),
            lock(3, false, "index", "public.p_id", ""),
            lock(4, false, "table", "\"S.x\".\"Odd\"", ""),
            vec![Some("session".to_owned()), None, None, None, None, None],
        ];
        let locks = Locks::read(&rows, &judged).unwrap();
        assert_eq!(names(&locks), ["\"S.x\".\"Odd\"", "public.p"]);
        assert_eq!(locks.unknown, BTreeSet::from([4]));
        assert!(!locks.acts && !locks.nameless);
        let alone = Locks::read(&rows[1..2], &judged).unwrap();
        assert_eq!((names(&alone), alone.unknown), (vec!["public.p1".to_owned()], [2].into()));
    }

    #[test]
    fn a_scan_counts_if_there_were_fewer_before_the_query() {
        let scan = |mark: &str, oid, scans: &str| {
            let mut row = lock(oid, false, "table", &format!("public.t{oid}"), "");
            (row[0], row[2]) = (Some(mark.to_owned()), Some(scans.to_owned()));
            row
        };
        let rows = [
            scan(BEFORE, 1, "3"),
            scan(BEFORE, 2, "3"),
            lock(4, false, "table", "public.t4", ""),
            scan(AFTER, 1, "3"),
            scan(AFTER, 2, "4"),
            scan(AFTER, 3, "1"),
        ];
        let locks = Locks::read(&rows, &[1, 2, 3, 4].into()).unwrap();
        assert_eq!(names(&locks), ["public.t2", "public.t3", "public.t4"]);
        assert!(!locks.acts);
    }

    #[test]
    fn what_locks_more_strongly_acts_and_what_is_gone_has_no_name() {
        let judged = BTreeSet::from([1]);
        let strong = [lock(1, true, "sequence", "public.sq", "")];
        assert!(Locks::read(&strong, &judged).unwrap().acts);
        let gone = [lock(1, false, "", "", "")];
        assert!(Locks::read(&gone, &judged).unwrap().nameless);
        assert_eq!(Locks::read(&[vec![None]], &judged), None);
    }
}
