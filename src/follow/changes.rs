//! [`Changes`]: what a transaction, or several, have changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::value::relation::RelationName;

/// What a transaction, or several, have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) relations: BTreeMap<RelationName, ChangedRows>,
    /// It is not known what was changed.
    pub(super) anything: bool,
    /// There was not one line: a definition may have been changed.
    pub(super) definitions: bool,
}

/// Of how many relations names are kept for one transaction, and of how many keys the values for one
/// relation.
const MOST_RELATIONS: usize = 10_000;
const MOST_KEYS: usize = 1_000;

/// A value that is longer stands for all of them.
const LONGEST_VALUE: usize = 256;

/// The key columns of relations.
pub(super) type KeyColumns = HashMap<RelationName, Arc<[String]>>;

/// Which rows of a relation were changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ChangedRows {
    Any,
    /// Those that have, or had, one of these values in one of the columns that were its key columns when
    /// the change was read.
    Some {
        columns: Arc<[String]>,
        values: BTreeSet<(usize, String)>,
    },
}

impl ChangedRows {
    /// The rows of one change. `None`: it is not known which.
    pub(super) fn of(columns: &Arc<[String]>, values: Option<Vec<(usize, String)>>) -> ChangedRows {
        match values {
            Some(values) if values.iter().all(|(_, value)| value.len() <= LONGEST_VALUE) => {
                let values = values.into_iter().collect();
                ChangedRows::Some { columns: columns.clone(), values }
            }
            _ => ChangedRows::Any,
        }
    }

    fn add(&mut self, more: ChangedRows) {
        let (
            ChangedRows::Some { columns, values },
            ChangedRows::Some { columns: of, values: more },
        ) = (&mut *self, more)
        else {
            *self = ChangedRows::Any;
            return;
        };
        values.extend(more);
        if *columns != of || values.len() > MOST_KEYS {
            *self = ChangedRows::Any;
        }
    }
}

impl Changes {
    pub(super) fn add(&mut self, more: &Changes) {
        for (name, rows) in &more.relations {
            self.changed(name, rows.clone());
        }
        self.anything |= more.anything;
        self.definitions |= more.definitions;
    }

    pub(super) fn changed(&mut self, name: &RelationName, rows: ChangedRows) {
        match self.relations.get_mut(name) {
            Some(known) => known.add(rows),
            None => drop(self.relations.insert(name.clone(), rows)),
        }
        // A transaction that writes to very many relations takes no more memory.
        if self.relations.len() > MOST_RELATIONS {
            self.relations.clear();
            self.anything = true;
        }
    }

    /// Whether nothing more can be learned of a relation.
    pub(super) fn is_any(&self, name: &RelationName) -> bool {
        self.relations.get(name) == Some(&ChangedRows::Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(columns: &[&str], values: &[(usize, &str)]) -> ChangedRows {
        let columns: Arc<[String]> = columns.iter().map(|&it| it.to_owned()).collect();
        let values = values.iter().map(|&(at, value)| (at, value.to_owned())).collect();
        ChangedRows::of(&columns, Some(values))
    }

    #[test]
    fn what_is_too_much_or_not_known_is_any_row() {
        let name = RelationName::of("public", "t");
        let mut changes = Changes::default();
        changes.changed(&name, rows(&["id"], &[(0, "1")]));
        changes.changed(&name, rows(&["id"], &[(0, "2")]));
        assert_eq!(changes.relations[&name], rows(&["id"], &[(0, "1"), (0, "2")]));
        let but = |more: ChangedRows| {
            let mut changes = changes.clone();
            changes.changed(&name, more);
            changes.is_any(&name)
        };
        assert!(but(ChangedRows::Any) && but(rows(&["org", "id"], &[(0, "3")])));
        let long = "x".repeat(LONGEST_VALUE + 1);
        assert!(but(rows(&["id"], &[(0, &long)])) && !but(rows(&["id"], &[(0, &long[1..])])));
        for value in 0..MOST_KEYS - 1 {
            assert!(!changes.is_any(&name));
            changes.changed(&name, rows(&["id"], &[(0, &(7 + value).to_string())]));
        }
        assert!(changes.is_any(&name));
        changes.changed(&name, rows(&["id"], &[]));
        assert!(changes.is_any(&name), "it stays so");
    }
}
