//! [`Schema`]: the definitions of the database, to see what has changed among them.
//!
//! PostgreSQL's plugins do not show changes of definitions. A transaction without lines in the stream
//! is likely one, so the catalogs are compared then, and once a second whatever the stream shows.

mod sql;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Row;

use super::changes::KeyColumns;
use super::server::{Server, limited};
use crate::postgres::catalogs::IS_KNOWN;
use crate::postgres::replication::error::ReplicationError;
use crate::value::checksum;
use crate::value::relation::RelationName;

/// The definitions as they were read once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Schema {
    of_server: String,
    of_database: String,
    of_relations: String,
    relations: HashMap<u32, Described>,
    by_name: HashMap<RelationName, u32>,
    /// Of all relations that hold rows.
    key_columns: Arc<KeyColumns>,
    /// The key columns of all tables that hold rows of a relation, if there are any.
    common: HashMap<u32, BTreeSet<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Described {
    name: RelationName,
    definition: u64,
    parents: Vec<u32>,
    /// What is written to it is decoded.
    is_logged: bool,
    /// It may have rows of its own, unlike a view or a partitioned table.
    holds_rows: bool,
    key_columns: Arc<[String]>,
    /// Its file, and the transactions that have written its columns.
    file: u32,
    columns: u64,
    /// Changes whenever something may have changed that shows which rows a query reads, or which rows a
    /// change is of.
    proofs: u64,
}

impl Described {
    /// Whether its rows may have been written anew with other values, which is in no log: as by
    /// `ALTER v TYPE int USING v + 1`, which leaves the definition as it was. `VACUUM FULL` writes the same
    /// values into another file, and `ATTACH` columns that say where they come from.
    fn is_rewritten_as(&self, now: &Described) -> bool {
        self.file != now.file && self.columns != now.columns
    }
}

/// Which definitions have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Redefined {
    pub(super) relations: BTreeSet<RelationName>,
    /// Those of which it may not be true any more which rows were read or changed.
    pub(super) proofs: BTreeSet<RelationName>,
    /// One that any result may depend on.
    pub(super) anything: bool,
}

/// How much of the catalogs is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// What a session of another database may change.
    Server,
    All,
}

/// The pauses between two questions whether all sessions know what has changed, and how long it is
/// asked.
const PAUSE: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(5);

impl Redefined {
    pub(super) fn is_empty(&self) -> bool {
        self.relations.is_empty() && self.proofs.is_empty() && !self.anything
    }

    pub(super) fn add(&mut self, more: &Redefined) {
        self.relations.extend(more.relations.iter().cloned());
        self.proofs.extend(more.proofs.iter().cloned());
        self.anything |= more.anything;
    }
}

impl Schema {
    /// Reads all definitions.
    pub(super) async fn read(server: &Server) -> Result<Schema, ReplicationError> {
        let [of_server, of_database, of_relations] = fingerprint(server).await?;
        let relations = relations(server).await?;
        Ok(Schema { of_server, of_database, of_relations, ..Schema::of(relations) })
    }

    fn of(relations: HashMap<u32, Described>) -> Schema {
        let by_name = relations.iter().map(|(&oid, it)| (it.name.clone(), oid)).collect();
        let keyed = relations.values().filter(|it| !it.key_columns.is_empty());
        let key_columns = keyed.map(|it| (it.name.clone(), it.key_columns.clone())).collect();
        let mut schema =
            Schema { relations, by_name, key_columns: Arc::new(key_columns), ..Schema::default() };
        let mut common: HashMap<u32, BTreeSet<String>> = HashMap::new();
        for (&oid, holder) in schema.relations.iter().filter(|(_, it)| it.holds_rows) {
            for reader in schema.family_with_oids(oid).into_keys() {
                common
                    .entry(reader)
                    .and_modify(|all| all.retain(|column| holder.key_columns.contains(column)))
                    .or_insert_with(|| holder.key_columns.iter().cloned().collect());
            }
        }
        common.retain(|_, columns| !columns.is_empty());
        schema.common = common;
        schema
    }

    /// Tables with these key columns.
    #[cfg(test)]
    pub(super) fn of_tables(tables: &[(&str, &[&str])]) -> Schema {
        let described = |&(name, columns): &(&str, &[&str])| Described {
            name: RelationName::of("public", name),
            definition: 0,
            parents: vec![],
            is_logged: true,
            holds_rows: true,
            file: 0,
            columns: 0,
            proofs: 0,
            key_columns: columns.iter().map(|&column| column.to_owned()).collect(),
        };
        Schema::of((1..).zip(tables.iter().map(described)).collect())
    }

    /// The key columns of all relations, whose values are read with each change.
    pub(super) fn key_columns(&self) -> &Arc<KeyColumns> {
        &self.key_columns
    }

    /// The key columns of a relation that are those of all its partitions and children as well.
    pub(super) fn common_keys(&self, name: &RelationName) -> Option<&BTreeSet<String>> {
        self.common.get(self.by_name.get(name)?)
    }

    /// Compares the catalogs with these definitions. If something has changed, it returns the present
    /// ones and what is different, when all sessions of the server know of it.
    pub(super) async fn compare(
        &self,
        server: &Server,
        extent: Extent,
    ) -> Result<Option<(Schema, Redefined)>, ReplicationError> {
        let [of_server, of_database, of_relations] = match extent {
            Extent::Server => {
                let asked =
                    async { Ok(server.client().query_one(&sql::server_fingerprint(), &[]).await?) };
                let row = limited("comparing roles and their settings", asked).await?;
                [row.get(0), self.of_database.clone(), self.of_relations.clone()]
            }
            Extent::All => fingerprint(server).await?,
        };
        let mut redefined = Redefined {
            anything: of_server != self.of_server || of_database != self.of_database,
            ..Redefined::default()
        };
        if !redefined.anything && of_relations == self.of_relations {
            return Ok(None);
        }
        // A collation decides on key columns, too.
        let is_same = of_relations == self.of_relations && of_database == self.of_database;
        let mut present = if is_same { self.clone() } else { Schema::of(relations(server).await?) };
        redefined.relations = self.different(&present);
        redefined.proofs = self.unproven(&present);
        (present.of_server, present.of_database) = (of_server, of_database);
        present.of_relations = of_relations;
        if !redefined.is_empty() {
            all_know(server).await?;
        }
        Ok(Some((present, redefined)))
    }

    /// The relations of which results are different, by the names that they had and that they have.
    fn different(&self, present: &Schema) -> BTreeSet<RelationName> {
        let mut names = BTreeSet::new();
        let with_family = |oid: u32, names: &mut BTreeSet<RelationName>| {
            names.extend(self.family(oid).cloned());
            names.extend(present.family(oid).cloned());
        };
        for (&oid, before) in &self.relations {
            let Some(now) = present.relations.get(&oid) else {
                with_family(oid, &mut names);
                continue;
            };
            if before.name != now.name {
                names.extend([before.name.clone(), now.name.clone()]);
            }
            if before.definition != now.definition || before.is_rewritten_as(now) {
                with_family(oid, &mut names);
            }
            if self.common.get(&oid) != present.common.get(&oid) {
                names.insert(now.name.clone());
            }
            let mut parents = before.parents.iter().chain(&now.parents);
            for &parent in parents.by_ref() {
                if before.parents.contains(&parent) != now.parents.contains(&parent) {
                    with_family(parent, &mut names);
                }
            }
        }
        for (&oid, now) in &present.relations {
            if self.relations.contains_key(&oid) {
                continue;
            }
            // It may be found now where another one of its name was.
            names.insert(now.name.clone());
            // Rows of a new partition that is logged are decoded, and mapped to its parents. Other
            // rows are not.
            if !now.is_logged {
                with_family(oid, &mut names);
            }
        }
        names
    }

    /// The relations that a proof was of which may not hold any more: those whose proofs have changed, and
    /// those with a new partition or child.
    fn unproven(&self, present: &Schema) -> BTreeSet<RelationName> {
        let changed = present.relations.iter().filter(|(oid, now)| {
            self.relations.get(oid).is_none_or(|before| before.proofs != now.proofs)
        });
        changed.flat_map(|(&oid, _)| present.family(oid).cloned()).collect()
    }

    /// A relation and all that it is a partition or a child of.
    fn family(&self, oid: u32) -> impl Iterator<Item = &RelationName> {
        self.family_with_oids(oid).into_values()
    }

    fn family_with_oids(&self, oid: u32) -> BTreeMap<u32, &RelationName> {
        let (mut all, mut next) = (BTreeMap::new(), vec![oid]);
        while let Some(oid) = next.pop() {
            if let Some(relation) = self.relations.get(&oid)
                && all.insert(oid, &relation.name).is_none()
            {
                next.extend(&relation.parents);
            }
        }
        all
    }

    /// A relation by its name, and all that it is a partition or a child of. `None` if it is not known.
    pub(super) fn family_of(
        &self,
        name: &RelationName,
    ) -> Option<impl Iterator<Item = &RelationName>> {
        self.by_name.get(name).map(|&oid| self.family(oid))
    }
}

/// Relations that are not among the definitions that were read: they may be younger. Of those that are
/// there now, it returns all that they are partitions or children of.
pub(super) async fn families(
    server: &Server,
    names: &[&RelationName],
) -> Result<HashMap<RelationName, BTreeSet<RelationName>>, ReplicationError> {
    let schemas: Vec<&str> = names.iter().map(|name| name.schema().unwrap_or_default()).collect();
    let relations: Vec<&str> = names.iter().map(|name| name.relation()).collect();
    let asked = async { Ok(server.client().query(sql::FAMILIES, &[&schemas, &relations]).await?) };
    let rows = limited("looking relations up by name", asked).await?;
    let mut all: HashMap<RelationName, BTreeSet<RelationName>> = HashMap::new();
    for row in rows {
        let name = |schema, relation| RelationName::of(row.get(schema), row.get(relation));
        all.entry(name(0, 1)).or_default().insert(name(2, 3));
    }
    Ok(all)
}

async fn fingerprint(server: &Server) -> Result<[String; 3], ReplicationError> {
    let asked = async { Ok(server.client().query_one(&sql::fingerprint(), &[]).await?) };
    let row = limited("comparing definitions", asked).await?;
    Ok([row.get(0), row.get(1), row.get(2)])
}

async fn relations(server: &Server) -> Result<HashMap<u32, Described>, ReplicationError> {
    let asked = async { Ok(server.client().query(&sql::relations(), &[]).await?) };
    let rows = limited("reading the definitions of all relations", asked).await?;
    let described = |row: &Row| Described {
        name: RelationName::of(row.get("nspname"), row.get("relname")),
        definition: checksum::of_name(row.get("definition")),
        parents: row.get("parents"),
        is_logged: row.get("logged"),
        holds_rows: row.get("holds_rows"),
        key_columns: row.get::<_, Vec<String>>("key_columns").into(),
        file: row.get("file"),
        columns: checksum::of_name(row.get("columns")),
        proofs: checksum::of_name(row.get("proofs")),
    };
    Ok(rows.iter().map(|row| (row.get("oid"), described(row))).collect())
}

/// Waits until all sessions know the definitions that are visible.
async fn all_know(server: &Server) -> Result<(), ReplicationError> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let asked = async { Ok(server.client().query_one(IS_KNOWN, &[]).await?) };
        if limited("asking whether definitions are known", asked).await?.get(0) {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
    Err(ReplicationError::TimedOut("all sessions are to know what was redefined"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(name: &str, definition: u64, parents: &[u32]) -> Described {
        let (name, parents) = (RelationName::of("public", name), parents.to_vec());
        let key_columns = ["id", name.relation()].map(str::to_owned).into();
        let (is_logged, holds_rows, file, columns, proofs) = (true, true, 0, 0, 0);
        Described {
            name,
            definition,
            parents,
            is_logged,
            holds_rows,
            key_columns,
            file,
            columns,
            proofs,
        }
    }

    /// A parent, two partitions of it, one of them with a partition of its own, and a table.
    fn before() -> HashMap<u32, Described> {
        HashMap::from([
            (1, relation("p", 0, &[])),
            (2, relation("p1", 0, &[1])),
            (3, relation("p2", 0, &[1])),
            (4, relation("p21", 0, &[3])),
            (5, relation("t", 0, &[])),
        ])
    }

    fn different(change: impl FnOnce(&mut HashMap<u32, Described>)) -> Vec<String> {
        let mut after = before();
        change(&mut after);
        let names = Schema::of(before()).different(&Schema::of(after));
        names.iter().map(|name| name.unqualified()).collect()
    }

    #[test]
    fn what_was_redefined_is_named_with_all_that_reads_it() {
        assert!(different(|_| ()).is_empty());
        assert_eq!(different(|all| all.get_mut(&4).unwrap().definition = 1), ["p", "p2", "p21"]);
        assert_eq!(different(|all| drop(all.remove(&2))), ["p", "p1"]);
        assert_eq!(different(|all| all.get_mut(&3).unwrap().parents.clear()), ["p"]);
        assert_eq!(different(|all| all.get_mut(&5).unwrap().parents = vec![3]), ["p", "p2"]);
        assert!(different(|all| all.get_mut(&5).unwrap().file = 7).is_empty());
        assert!(different(|all| all.get_mut(&5).unwrap().columns = 7).is_empty());
        let rewritten = |all: &mut HashMap<u32, Described>| {
            let table = all.get_mut(&4).unwrap();
            (table.file, table.columns) = (7, 7);
        };
        assert_eq!(different(rewritten), ["p", "p2", "p21"]);
        let renamed = |all: &mut HashMap<u32, Described>| {
            all.insert(5, relation("p1", 0, &[]));
            all.insert(2, relation("t", 0, &[1]));
        };
        assert_eq!(different(renamed), ["p1", "t"]);
        // A new partition is empty, or what was written to it is in the stream.
        assert_eq!(different(|all| drop(all.insert(6, relation("n", 0, &[1])))), ["n"]);
        let unlogged = Described { is_logged: false, ..relation("n", 0, &[3]) };
        assert_eq!(different(|all| drop(all.insert(6, unlogged))), ["n", "p", "p2"]);
    }

    #[test]
    fn what_a_plan_relied_on_is_unproven_for_all_that_read_it() {
        let unproven = |change: &dyn Fn(&mut HashMap<u32, Described>)| {
            let mut after = before();
            change(&mut after);
            let names = Schema::of(before()).unproven(&Schema::of(after));
            names.iter().map(|name| name.unqualified()).collect::<Vec<_>>()
        };
        assert_eq!(unproven(&|_| ()), [""; 0]);
        assert_eq!(unproven(&|all| all.get_mut(&4).unwrap().proofs = 1), ["p", "p2", "p21"]);
        assert_eq!(unproven(&|all| drop(all.insert(6, relation("n", 0, &[1])))), ["n", "p"]);
    }

    #[test]
    fn a_key_counts_if_all_tables_below_have_it() {
        let common = |change: &dyn Fn(&mut HashMap<u32, Described>)| {
            let mut all = before();
            all.get_mut(&1).unwrap().holds_rows = false;
            change(&mut all);
            let schema = Schema::of(all);
            let of = |name: &str| {
                let columns = schema.common_keys(&RelationName::of("public", name));
                columns.map(|it| it.iter().cloned().collect::<Vec<_>>().join(" "))
            };
            (of("p").unwrap_or_default(), of("p21").unwrap_or_default())
        };
        assert_eq!(common(&|_| ()), ("id".to_owned(), "id p21".to_owned()));
        let without = |all: &mut HashMap<u32, Described>| {
            all.get_mut(&4).unwrap().key_columns = ["p".to_owned()].into();
        };
        assert_eq!(common(&without), (String::new(), "p".to_owned()));
        let new = |all: &mut HashMap<u32, Described>| drop(all.insert(6, relation("n", 0, &[3])));
        assert_eq!(common(&new).0, "id");
        assert_eq!(different(without), ["p", "p2", "p21"]);
    }

    #[test]
    fn a_family_has_no_end_that_is_not_found() {
        let schema = Schema::of(before());
        let family = |name: &str| {
            let name = RelationName::of("public", name);
            Some(schema.family_of(&name)?.map(RelationName::unqualified).collect::<Vec<_>>())
        };
        assert_eq!(family("p21").unwrap(), ["p", "p2", "p21"]);
        assert_eq!(family("t").unwrap(), ["t"]);
        assert_eq!(family("x"), None);
        let loops = HashMap::from([(1, relation("a", 0, &[2])), (2, relation("b", 0, &[1]))]);
        assert_eq!(Schema::of(loops).family(1).count(), 2);
    }
}
