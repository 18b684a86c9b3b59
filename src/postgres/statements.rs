//! [`Statements`]: what a cache keeps for each connection that it loads on.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio_postgres::Statement;
use tokio_postgres::types::Type;

use crate::sync::Mutex;

/// The versions of types, by their OIDs, in ascending order; see [`types`](super::types).
pub(super) type Versions = Vec<(u32, i64)>;

/// The connections that a cache has loaded on, and the statements that each of them keeps.
pub struct Statements {
    /// How many statements a connection keeps.
    limit: usize,
    connections: Mutex<Connections>,
    /// The OIDs of all types that results had and that connections have to look up.
    seen: Mutex<BTreeSet<u32>>,
}

#[derive(Default)]
struct Connections {
    /// By the address of an object that lives as long as the connection. The weak reference keeps
    /// the address from being used again.
    by_address: HashMap<usize, (Weak<dyn Any + Send + Sync>, Arc<Session>)>,
    /// Closed connections are removed when the map has this many.
    sweep_at: usize,
}

impl Statements {
    pub(crate) fn new(limit: usize) -> Statements {
        Statements { limit, connections: Mutex::default(), seen: Mutex::default() }
    }

    /// What is kept for the connection that owns `owner`.
    pub(super) fn session<T: Any + Send + Sync>(&self, owner: &Arc<T>) -> Arc<Session> {
        let address = Arc::as_ptr(owner) as usize;
        let mut connections = self.connections.lock();
        if let Some((_, session)) = connections.by_address.get(&address) {
            return session.clone();
        }
        if connections.by_address.len() >= connections.sweep_at {
            connections.by_address.retain(|_, (owner, _)| owner.strong_count() > 0);
            connections.sweep_at = (2 * connections.by_address.len()).max(16);
        }
        let session = Arc::new(Session { limit: self.limit, ..Session::default() });
        let owner: Weak<T> = Arc::downgrade(owner);
        connections.by_address.insert(address, (owner, session.clone()));
        session
    }
}

impl Statements {
    pub(super) fn saw(&self, types: &[Type]) {
        self.seen.lock().extend(types.iter().map(Type::oid));
    }

    /// The types that results had.
    pub(super) fn seen(&self) -> Vec<u32> {
        self.seen.lock().iter().copied().collect()
    }

    /// Forgets a type that does not exist any more.
    pub(super) fn unsee(&self, oid: u32) {
        self.seen.lock().remove(&oid);
    }
}

/// A prepared statement, and the versions that its types had when they were compared with the
/// database.
#[derive(Clone)]
pub(super) struct Prepared {
    pub(super) statement: Statement,
    pub(super) versions: Arc<Versions>,
}

/// When the settings of a connection were last compared with those of its source, and were the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compared {
    /// How often the connection had been taken from its pool.
    pub(super) uses: usize,
    pub(super) at: Instant,
    /// A hash of what they were compared with.
    pub(super) with: [u8; 32],
}

/// What is kept for one connection.
#[derive(Default)]
pub(super) struct Session {
    limit: usize,
    statements: Mutex<Kept<Prepared>>,
    types: Mutex<HashMap<u32, (Type, i64)>>,
    compared: Mutex<Option<Compared>>,
}

impl Session {
    /// When its session was last compared with that of its source.
    pub(super) fn compared(&self) -> Option<Compared> {
        *self.compared.lock()
    }

    pub(super) fn compare(&self, compared: Compared) {
        *self.compared.lock() = Some(compared);
    }

    pub(super) fn statement(&self, sql: &str) -> Option<Prepared> {
        self.statements.lock().get(sql)
    }

    /// Keeps a statement. The least recently used one is closed if there are too many.
    pub(super) fn keep(&self, sql: &Arc<str>, prepared: Prepared) {
        // Dropped after the lock is released: a statement that is dropped writes to its connection.
        let _closed = self.statements.lock().insert(sql, prepared, self.limit);
    }

    pub(super) fn keeps_statements(&self) -> bool {
        self.limit > 0
    }

    /// Keeps a statement whose types are PostgreSQL's own.
    pub(super) fn keep_statement(&self, sql: &str, statement: Statement) {
        self.keep(&sql.into(), Prepared { statement, versions: Arc::default() });
    }

    pub(super) fn forget(&self, sql: &str) {
        let _closed = self.statements.lock().remove(sql);
    }

    /// Forgets all statements and the versions of all types.
    pub(super) fn clear(&self) {
        self.forget_statements();
        self.forget_types();
    }

    /// Forgets all statements, which closes them.
    pub(super) fn forget_statements(&self) {
        let _closed = std::mem::take(&mut *self.statements.lock());
    }

    pub(super) fn forget_types(&self) {
        self.types.lock().clear();
    }

    /// Whether the connection has looked up a type.
    pub(super) fn knows_types(&self) -> bool {
        !self.types.lock().is_empty()
    }

    /// The versions of `types`, if this connection has compared all of these descriptions with the
    /// database.
    pub(super) fn versions(&self, types: &[Type]) -> Option<Versions> {
        let known = self.types.lock();
        let version = |type_: &Type| {
            known.get(&type_.oid()).filter(|(known, _)| known == type_).map(|known| known.1)
        };
        let versions = types.iter().map(|type_| Some((type_.oid(), version(type_)?)));
        let mut versions: Versions = versions.collect::<Option<_>>()?;
        versions.sort_unstable();
        Some(versions)
    }

    /// Keeps the versions of `types`, which the database describes as `types` do.
    pub(super) fn keep_versions(&self, types: &[Type], versions: &Versions) {
        let mut known = self.types.lock();
        for type_ in types {
            if let Ok(at) = versions.binary_search_by_key(&type_.oid(), |&(oid, _)| oid) {
                known.insert(type_.oid(), (type_.clone(), versions[at].1));
            }
        }
    }
}

/// A map of which the least recently used value is removed first.
struct Kept<T> {
    values: HashMap<Arc<str>, (T, u64)>,
    /// The keys by their last use.
    by_use: BTreeMap<u64, Arc<str>>,
    uses: u64,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept { values: HashMap::new(), by_use: BTreeMap::new(), uses: 0 }
    }
}

impl<T: Clone> Kept<T> {
    fn get(&mut self, key: &str) -> Option<T> {
        let (value, used) = self.values.get_mut(key)?;
        let key = self.by_use.remove(used).expect("each value has its last use");
        self.uses += 1;
        *used = self.uses;
        self.by_use.insert(self.uses, key);
        Some(value.clone())
    }

    /// Inserts a value, and returns the values that had to leave.
    fn insert(&mut self, key: &Arc<str>, value: T, limit: usize) -> Vec<T> {
        let mut left: Vec<T> = self.remove(key).into_iter().collect();
        if limit == 0 {
            left.push(value);
            return left;
        }
        while self.values.len() >= limit {
            let (_, oldest) = self.by_use.pop_first().expect("each value has its last use");
            left.extend(self.values.remove(&oldest).map(|(value, _)| value));
        }
        self.uses += 1;
        self.by_use.insert(self.uses, key.clone());
        self.values.insert(key.clone(), (value, self.uses));
        left
    }

    fn remove(&mut self, key: &str) -> Option<T> {
        let (value, used) = self.values.remove(key)?;
        self.by_use.remove(&used);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_value_leaves_first() {
        let mut kept = Kept::default();
        let key = |n: u32| Arc::<str>::from(n.to_string());
        for n in 0..3 {
            assert!(kept.insert(&key(n), n, 3).is_empty());
        }
        assert_eq!(kept.get("0"), Some(0));
        assert_eq!(kept.insert(&key(3), 3, 3), [1]);
        assert_eq!(kept.insert(&key(0), 10, 3), [0]);
        assert_eq!(kept.insert(&key(4), 4, 3), [2]);
        assert_eq!((kept.get("3"), kept.get("0"), kept.get("2")), (Some(3), Some(10), None));
        assert_eq!(kept.remove("3"), Some(3));
        assert_eq!((kept.values.len(), kept.by_use.len()), (2, 2));
        assert_eq!(kept.insert(&key(5), 5, 0), [5]);
    }

    #[test]
    fn a_closed_connection_is_forgotten_and_its_address_is_not_another_connections() {
        let statements = Statements::new(1);
        let lasting = Arc::new(0_u64);
        let session = statements.session(&lasting);
        for n in 0..1_000_u64 {
            let connection = Arc::new(n);
            let its_own = statements.session(&connection);
            assert!(!Arc::ptr_eq(&its_own, &session));
            assert_eq!(Arc::strong_count(&its_own), 2);
        }
        assert!(Arc::ptr_eq(&statements.session(&lasting), &session));
        assert!(statements.connections.lock().by_address.len() <= 16);
    }
}
