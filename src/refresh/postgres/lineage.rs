//! [`Lineage`]: what views read, also through plain views.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::types::Type;

use super::session::Session;
use super::state::Kind;

/// What some views read, directly and through others, according to PostgreSQL's rewrite rules.
///
/// It does not contain what functions read: PostgreSQL does not record that.
#[derive(Debug, Default)]
pub(crate) struct Lineage {
    relations: BTreeMap<u32, LineageNode>,
    /// For each view, the relations that its query names.
    reads: BTreeMap<u32, BTreeSet<u32>>,
}

#[derive(Debug, Clone)]
pub(crate) struct LineageNode {
    pub(crate) kind: Kind,
    pub(crate) quoted: String,
    /// For a view: why its content may change without a write to what it reads.
    pub(crate) untraceable: Vec<String>,
}

/// What a view's rows are computed from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    pub(crate) tables: Vec<u32>,
    /// Materialized views, without their own sources: their rows change only by refreshes.
    pub(crate) views: Vec<u32>,
}

/// The rewrite rule of each view on the way down, and all relations that its query names.
/// `pg_depend` contains nothing about PostgreSQL's own relations and functions, so they are
/// searched for in the rule itself.
const READS: &str = "\
    WITH RECURSIVE down AS ( \
      SELECT c.oid, c.relkind FROM pg_class c WHERE c.oid = ANY ($1) \
      UNION \
      SELECT s.oid, s.relkind FROM down v \
      JOIN pg_rewrite r ON r.ev_class = v.oid \
      JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid \
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> v.oid \
      JOIN pg_class s ON s.oid = d.refobjid \
      WHERE v.relkind IN ('m', 'v')) \
    SELECT v.oid, v.relkind::text, format('%I.%I', n.nspname, c.relname), \
      ARRAY(SELECT DISTINCT d.refobjid FROM pg_rewrite r \
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid \
          AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> v.oid \
        WHERE r.ev_class = v.oid ORDER BY 1), \
      CASE WHEN v.relkind IN ('m', 'v') THEN ARRAY( ";

/// Functions that are STABLE only because their result depends on settings of the session (time
/// zone, date style). With the same settings and arguments, the result is the same. `now()` is
/// STABLE as well, and is not among them.
const SETTLED: &str = "\
    p.pronamespace = 'pg_catalog'::regnamespace AND ( \
      p.proname IN ('date_trunc', 'to_char', 'date_part', 'extract', 'timezone', 'date', \
        'time', 'timetz', 'timestamp', 'timestamptz', 'interval', 'make_timestamptz', \
        'to_date', 'to_timestamp', 'to_number', 'concat', 'concat_ws', 'format', \
        'array_to_string', 'string_to_array', 'to_json', 'to_jsonb', 'row_to_json', \
        'array_to_json', 'json_build_object', 'jsonb_build_object', 'json_build_array', \
        'jsonb_build_array', 'json_object_agg', 'jsonb_object_agg', 'json_agg', 'jsonb_agg', \
        'anytextcat', 'textanycat', 'quote_nullable', 'generate_series', 'date_bin', \
        'to_tsvector', 'to_tsquery', 'plainto_tsquery', 'ts_headline', 'regexp_split_to_table', \
        'timestamptz_pl_interval', 'timestamptz_mi_interval', 'interval_pl_timestamptz', \
        'overlaps', 'money', 'cash_out', 'numeric', 'text', 'xml', 'quote_literal') \
      OR p.proname ~ '^(date|timestamp|timestamptz)_(eq|ne|lt|le|gt|ge|cmp)_(date|timestamp|timestamptz)$')";

fn sql() -> String {
    format!(
        "{READS} \
        SELECT why FROM pg_rewrite r CROSS JOIN LATERAL ( \
          SELECT DISTINCT format('it calls %s, whose result may change by itself', \
              p.oid::regprocedure) AS why \
            FROM regexp_matches(r.ev_action::text, \
              ':(?:funcid|opfuncid|winfnoid|aggfnoid) ([0-9]+)', 'g') m(id) \
            JOIN pg_proc p ON p.oid = m.id[1]::oid \
            WHERE p.provolatile <> 'i' AND NOT ({SETTLED}) \
              AND NOT (p.proname = 'age' AND p.pronargs = 2) \
          UNION ALL \
          SELECT DISTINCT format('it reads %s, whose writes are not counted', m.id[1]::oid::regclass) \
            FROM regexp_matches(r.ev_action::text, ':relid ([0-9]+)', 'g') m(id) \
            WHERE m.id[1]::int8 BETWEEN 1 AND 16383 \
          UNION ALL \
          SELECT 'it asks for the time or for who asks (CURRENT_DATE and the like)' \
            WHERE r.ev_action::text ~ '[{{]SQLVALUEFUNCTION ' \
          UNION ALL \
          SELECT 'it takes a random sample (TABLESAMPLE)' \
            WHERE r.ev_action::text ~ '[{{]TABLESAMPLECLAUSE ' \
        ) found WHERE r.ev_class = v.oid ORDER BY 1) \
      ELSE ARRAY[]::text[] END \
    FROM down v JOIN pg_class c ON c.oid = v.oid JOIN pg_namespace n ON n.oid = c.relnamespace"
    )
}

impl Lineage {
    /// The lineage of these views and of all that they read.
    pub(crate) async fn of(
        session: &mut Session,
        views: &[u32],
    ) -> Result<Lineage, tokio_postgres::Error> {
        let mut lineage = Lineage::default();
        for row in session.query(&sql(), &[(&views, Type::OID_ARRAY)]).await? {
            let oid: u32 = row.get(0);
            let relation = LineageNode {
                kind: Kind::of(row.get(1)),
                quoted: row.get(2),
                untraceable: row.get(4),
            };
            if let Kind::Materialized | Kind::View = relation.kind {
                lineage.reads.insert(oid, row.get::<_, Vec<u32>>(3).into_iter().collect());
            }
            lineage.relations.insert(oid, relation);
        }
        Ok(lineage)
    }

    pub(crate) fn relation(&self, oid: u32) -> Option<&LineageNode> {
        self.relations.get(&oid)
    }

    /// The materialized views below this one, at any depth.
    pub(crate) fn below(&self, view: u32) -> BTreeSet<u32> {
        let mut all = self.reach(view, |_| true);
        all.retain(|oid| self.relations.get(oid).is_some_and(|it| it.kind == Kind::Materialized));
        all
    }

    /// What a view's rows are computed from: tables, and the nearest materialized views below.
    pub(crate) fn sources(&self, view: u32) -> Sources {
        let mut sources = Sources::default();
        for oid in self.reach(view, |kind| kind == Kind::View) {
            match self.relations.get(&oid).map(|relation| relation.kind) {
                Some(Kind::Table | Kind::Partitioned) => sources.tables.push(oid),
                Some(Kind::Materialized) => sources.views.push(oid),
                _ => {}
            }
        }
        sources
    }

    /// Why a view's content may change without a counted write to its sources.
    pub(crate) fn untraceable(&self, view: u32) -> Vec<String> {
        let through = self.reach(view, |kind| kind == Kind::View);
        let mut reasons = vec![];
        for oid in through.iter().chain([&view]) {
            let Some(relation) = self.relations.get(oid) else { continue };
            match relation.kind {
                Kind::Materialized if *oid != view => {}
                Kind::Foreign | Kind::Other => {
                    let quoted = &relation.quoted;
                    reasons.push(format!("it reads {quoted}, whose writes are not counted"));
                }
                _ => reasons.extend(relation.untraceable.iter().cloned()),
            }
        }
        reasons.sort();
        reasons.dedup();
        reasons
    }

    /// What a view and the plain views below it read: pairs of the reading view and the relation
    /// that it reads.
    pub(crate) fn edges(&self, view: u32) -> Vec<(u32, u32)> {
        let mut through = self.reach(view, |kind| kind == Kind::View);
        through.insert(view);
        let is_query = |oid: &u32| {
            *oid == view || self.relations.get(oid).is_some_and(|it| it.kind == Kind::View)
        };
        through
            .into_iter()
            .filter(is_query)
            .flat_map(|oid| {
                self.reads.get(&oid).into_iter().flatten().map(move |&read| (oid, read))
            })
            .collect()
    }

    /// What can be reached from a view, through relations of the kinds that `through` allows.
    /// Neither plain views nor materialized ones can form a cycle: PostgreSQL refuses to create it.
    fn reach(&self, view: u32, through: impl Fn(Kind) -> bool) -> BTreeSet<u32> {
        let (mut all, mut next) = (BTreeSet::new(), vec![view]);
        while let Some(oid) = next.pop() {
            for &read in self.reads.get(&oid).into_iter().flatten() {
                let known = self.relations.get(&read);
                if all.insert(read) && known.is_some_and(|relation| through(relation.kind)) {
                    next.push(read);
                }
            }
        }
        all
    }
}
