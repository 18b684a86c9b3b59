//! [`Lineage`]: what views read, also through plain views.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::types::Type;

use super::session::Session;
use super::state::Kind;
use crate::learn::{settled, tree};
use crate::postgres::catalogs::PARTS_OF_TYPE;

/// What some views read, directly and through others, according to PostgreSQL's rewrite rules and
/// row-level policies.
///
/// It does not contain what functions read: PostgreSQL does not record that.
#[derive(Debug, Default)]
pub(crate) struct Lineage {
    relations: BTreeMap<u32, LineageNode>,
    /// For each view, the relations that its query names. For each table, those that its row-level
    /// policies name, if they apply.
    reads: BTreeMap<u32, BTreeSet<u32>>,
}

#[derive(Debug, Clone)]
pub(crate) struct LineageNode {
    pub(crate) kind: Kind,
    pub(crate) quoted: String,
    /// For a view: why its content may change without a write to what it reads.
    pub(crate) untraceable: Vec<String>,
    /// The functions that its query or its policies call, except PostgreSQL's own.
    calls: Vec<u32>,
    pub(crate) populated: bool,
}

/// What a view's rows are computed from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    pub(crate) tables: Vec<u32>,
    /// Materialized views, without their own sources: their rows change only by refreshes.
    pub(crate) views: Vec<u32>,
}

/// The edges of the lineage: `oid` is read by `reader`, with the rights of `role`.
///
/// A view reads what its rewrite rule names. A table "reads" what its row-level policies name, if
/// they apply to the role that reads the table. The names are in `pg_depend`, except those of
/// PostgreSQL's own relations and functions, which are searched for in the rule itself.
const EDGES: &str = "\
    edges AS ( \
      SELECT c.oid, 0::oid AS reader, c.relowner AS role FROM pg_class c WHERE c.oid = ANY ($1) \
      UNION \
      SELECT s.oid, e.oid, CASE WHEN s.relkind = 'm' OR s.relkind = 'v' AND NOT EXISTS ( \
          SELECT FROM pg_options_to_table(s.reloptions) o \
          WHERE o.option_name = 'security_invoker' AND o.option_value::bool) \
        THEN s.relowner ELSE e.role END \
      FROM edges e JOIN pg_class c ON c.oid = e.oid CROSS JOIN LATERAL ( \
        SELECT d.refobjid FROM pg_rewrite r \
          JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid \
            AND d.refclassid = 'pg_class'::regclass \
          WHERE r.ev_class = c.oid AND c.relkind IN ('m', 'v') \
        UNION ALL \
        SELECT d.refobjid FROM pg_policy p \
          JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid \
            AND d.refclassid = 'pg_class'::regclass \
          WHERE p.polrelid = c.oid AND {APPLIES} \
      ) read(oid) JOIN pg_class s ON s.oid = read.oid AND s.oid <> e.oid)";

/// Whether the policy `p` of the table `c` keeps rows from the role of `e` when it reads. See
/// `check_enable_rls` in PostgreSQL's `rls.c`.
const APPLIES: &str = "\
    c.relrowsecurity AND p.polcmd IN ('r', '*') \
      AND NOT EXISTS (SELECT FROM pg_roles a \
        WHERE a.oid = e.role AND (a.rolsuper OR a.rolbypassrls)) \
      AND (c.relforcerowsecurity OR NOT pg_has_role(e.role, c.relowner, 'USAGE')) \
      AND EXISTS (SELECT FROM unnest(p.polroles) g(role) \
        WHERE CASE WHEN g.role = 0 THEN true ELSE pg_has_role(e.role, g.role, 'USAGE') END)";

/// The condition that a function `p` is STABLE only because its result depends on settings of the
/// session. With the same settings and arguments, the result is the same.
fn is_settled() -> String {
    let names: Vec<String> = settled::names().map(|name| format!("'{name}'")).collect();
    let names = names.join(", ");
    format!(
        "p.pronamespace = 'pg_catalog'::regnamespace AND (p.proname IN ({names}) \
           OR p.proname ~ '{TIMES}')",
        TIMES = settled::COMPARES_TIMES
    )
}

fn sql() -> String {
    let edges = EDGES.replace("{APPLIES}", APPLIES);
    let is_settled = is_settled();
    let of = |oids: &[u32]| oids.iter().map(u32::to_string).collect::<Vec<_>>().join("|");
    // What a cast through text makes, and what functions of JSON and XML make of texts.
    let times = of(tree::TIMES);
    let text_as_time = format!(
        ":resulttype ({times}) :resultcollid|:typid ({times})[ )}}]|:coltypes [(]o ([0-9]+ )*({times})[ )]"
    );
    // A constant that says how words are found is none.
    let names: Vec<u32> =
        tree::NAMES.iter().copied().filter(|&oid| !tree::is_of_words(oid)).collect();
    let names = names.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    format!(
        "WITH RECURSIVE {edges}, \
        relations AS (SELECT DISTINCT oid FROM edges), \
        trees AS ( \
          SELECT n.oid, r.ev_action::text AS tree FROM relations n \
            JOIN pg_class c ON c.oid = n.oid AND c.relkind IN ('m', 'v') \
            JOIN pg_rewrite r ON r.ev_class = n.oid \
          UNION ALL \
          SELECT e.oid, p.polqual::text FROM (SELECT DISTINCT oid, role FROM edges) e \
            JOIN pg_class c ON c.oid = e.oid JOIN pg_policy p ON p.polrelid = c.oid \
            WHERE {APPLIES}), \
        calls AS ( \
          SELECT DISTINCT t.oid, m.id[1]::oid AS id FROM trees t CROSS JOIN LATERAL \
            regexp_matches(t.tree, ':(?:funcid|opfuncid|winfnoid|aggfnoid) ([0-9]+)', 'g') m(id)), \
        called AS ( \
          SELECT oid, id FROM calls \
          UNION \
          SELECT c.oid, s.id FROM calls c JOIN pg_aggregate a ON a.aggfnoid = c.id \
            CROSS JOIN LATERAL unnest(ARRAY[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, \
              a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]) s(id) \
            WHERE c.id >= {FIRST_OF_USERS}), \
        of_types AS ( \
          SELECT DISTINCT t.oid, m.id[1]::oid AS type FROM trees t CROSS JOIN LATERAL \
            regexp_matches(t.tree, ':[a-zA-Z_]*[tT]yp(?:e|eid|eId|id) ([0-9]+)', 'g') m(id)), \
        made_of AS ( \
          SELECT oid, type FROM of_types \
          UNION \
          SELECT m.oid, parts.part FROM made_of m JOIN pg_type t ON t.oid = m.type \
            CROSS JOIN LATERAL {PARTS_OF_TYPE} parts WHERE parts.part <> 0), \
        found AS ( \
          SELECT f.oid, format('it calls %s, whose result may change by itself', \
              p.oid::regprocedure) AS why \
            FROM called f JOIN pg_proc p ON p.oid = f.id \
            WHERE p.provolatile <> 'i' AND NOT ({is_settled}) \
              AND NOT (p.proname = 'age' AND p.pronargs = 2) \
          UNION \
          SELECT f.oid, format('it calls %s, which belongs to a session', p.oid::regprocedure) \
            FROM calls f JOIN pg_proc p ON p.oid = f.id \
            JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname ~ '^pg_temp_' \
          UNION \
          SELECT t.oid, format('it reads %s, whose writes are not counted', m.id[1]::oid::regclass) \
            FROM trees t CROSS JOIN LATERAL regexp_matches(t.tree, ':relid ([0-9]+)', 'g') m(id) \
            WHERE m.id[1]::int8 BETWEEN 1 AND {FIRST_OF_USERS} - 1 \
          UNION \
          SELECT t.oid, 'it asks for the time or for who asks (CURRENT_DATE and the like)' \
            FROM trees t WHERE t.tree ~ '[{{]SQLVALUEFUNCTION ' \
          UNION \
          SELECT t.oid, 'it takes a random sample (TABLESAMPLE)' \
            FROM trees t WHERE t.tree ~ '[{{]TABLESAMPLECLAUSE ' \
          UNION \
          SELECT t.oid, 'it reads a text as a date or a time, and the text may be ''now''' \
            FROM trees t WHERE t.tree ~ '{text_as_time}' \
          UNION \
          SELECT m.oid, 'a value of it is the name of a relation, a type or a role (regclass or the \
              like), which may be renamed' \
            FROM made_of m WHERE m.type IN ({names})), \
        reads AS ( \
          SELECT reader, array_agg(DISTINCT oid) AS oids FROM edges WHERE reader <> 0 GROUP BY 1), \
        functions AS ( \
          SELECT oid, array_agg(id) AS ids FROM called WHERE id >= {FIRST_OF_USERS} GROUP BY 1), \
        reasons AS (SELECT oid, array_agg(why ORDER BY why) AS whys FROM found GROUP BY 1) \
        SELECT c.oid, c.relkind::text, format('%I.%I', n.nspname, c.relname), \
          coalesce(r.oids, ARRAY[]::oid[]), coalesce(w.whys, ARRAY[]::text[]), \
          coalesce(f.ids, ARRAY[]::oid[]), c.relispopulated \
        FROM relations JOIN pg_class c ON c.oid = relations.oid \
        JOIN pg_namespace n ON n.oid = c.relnamespace \
        LEFT JOIN reads r ON r.reader = c.oid LEFT JOIN reasons w ON w.oid = c.oid \
        LEFT JOIN functions f ON f.oid = c.oid"
    )
}

/// `FirstNormalObjectId`: PostgreSQL's own objects have lower OIDs.
const FIRST_OF_USERS: u32 = 16_384;

impl Lineage {
    /// The lineage of these views and of all that they read.
    pub(crate) async fn of(
        session: &mut Session,
        views: &[u32],
    ) -> Result<Lineage, tokio_postgres::Error> {
        let mut lineage = Lineage::default();
        for row in session.query_catalogs(&sql(), &[(&views, Type::OID_ARRAY)]).await? {
            let oid: u32 = row.get(0);
            let relation = LineageNode {
                kind: Kind::of(row.get(1)),
                quoted: row.get(2),
                untraceable: row.get(4),
                calls: row.get(5),
                populated: row.get(6),
            };
            lineage.reads.insert(oid, row.get::<_, Vec<u32>>(3).into_iter().collect());
            lineage.relations.insert(oid, relation);
        }
        Ok(lineage)
    }

    pub(crate) fn relation(&self, oid: u32) -> Option<&LineageNode> {
        self.relations.get(&oid)
    }

    /// The materialized views below this one, at any depth. Not those that only row-level policies
    /// read: these may form a cycle, and views wait for the views below them.
    pub(crate) fn below(&self, view: u32) -> BTreeSet<u32> {
        let mut all = self.reach(view, |kind| matches!(kind, Kind::View | Kind::Materialized));
        all.retain(|oid| self.relations.get(oid).is_some_and(|it| it.kind == Kind::Materialized));
        all
    }

    /// What a view's rows are computed from: tables, and the nearest materialized views below.
    pub(crate) fn sources(&self, view: u32) -> Sources {
        let mut sources = Sources::default();
        for oid in self.scanned(view) {
            match self.relations.get(&oid).map(|relation| relation.kind) {
                Some(Kind::Table | Kind::Partitioned) => sources.tables.push(oid),
                Some(Kind::Materialized) => sources.views.push(oid),
                _ => {}
            }
        }
        sources
    }

    /// All relations that a refresh of this view scans, and the plain views on the way to them.
    pub(crate) fn scanned(&self, view: u32) -> BTreeSet<u32> {
        self.reach(view, |kind| kind != Kind::Materialized)
    }

    /// The functions that a refresh of this view calls, as far as PostgreSQL records it: not those
    /// that functions call.
    pub(crate) fn calls(&self, view: u32) -> BTreeSet<u32> {
        let mut through = self.scanned(view);
        through.retain(|oid| {
            self.relations.get(oid).is_some_and(|relation| relation.kind != Kind::Materialized)
        });
        through.insert(view);
        let relations = through.iter().filter_map(|oid| self.relations.get(oid));
        relations.flat_map(|relation| relation.calls.iter().copied()).collect()
    }

    /// Why a view's content may change without a counted write to its sources.
    pub(crate) fn untraceable(&self, view: u32) -> Vec<String> {
        let through = self.scanned(view);
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
        let mut through = self.scanned(view);
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
    /// Row-level policies can form a cycle.
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
