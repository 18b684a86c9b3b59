//! [`Decoded`]: the transactions that a follower has read from the stream and may have to announce.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::snapshot::Snapshot;
use crate::postgres::replication::test_decoding::{self, Encoding, Line};
use crate::value::lsn::Lsn;
use crate::value::relation::RelationName;

/// What a transaction, or several, have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) relations: BTreeSet<RelationName>,
    /// It is not known what was changed.
    pub(super) anything: bool,
    /// There was not one line: a definition may have been changed.
    pub(super) definitions: bool,
}

/// Of how many relations names are kept for one transaction.
const MOST_RELATIONS: usize = 10_000;

/// How many transactions are kept one by one.
pub(super) const KEPT_ONE_BY_ONE: usize = 4_096;

/// The prefix of the messages that a follower itself emits, to have the log flushed.
pub(super) const OWN_MESSAGE: &str = "larder.flush";

impl Changes {
    pub(super) fn add(&mut self, more: &Changes) {
        self.relations.extend(more.relations.iter().cloned());
        self.anything |= more.anything;
        self.definitions |= more.definitions;
        self.bound();
    }

    /// Takes care that a transaction that writes to very many relations takes no more memory.
    fn bound(&mut self) {
        if self.relations.len() > MOST_RELATIONS {
            self.relations.clear();
            self.anything = true;
        }
    }
}

/// A committed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Transaction {
    /// The lower half of its number; `None` of several that are all visible, or of none.
    xid: Option<u32>,
    /// Where its commit ends in the log.
    end: Lsn,
    changes: Changes,
    is_announced: bool,
}

/// A transaction of which not all lines have been read.
#[derive(Debug, Default)]
struct Open {
    xid: u32,
    changes: Changes,
    /// Something was written but messages of our own, or nothing at all.
    has_lines: bool,
}

/// All transactions since the last leader's low end, in the order of their commits: also those that
/// are announced already, which a later term may have to announce again.
#[derive(Debug)]
pub(super) struct Decoded {
    encoding: Encoding,
    open: Option<Open>,
    all: VecDeque<Transaction>,
    /// The beginning of the last line that named one relation.
    last: Vec<u8>,
    /// The numbers of the transactions that were read since they were asked for.
    ended: Vec<u32>,
}

/// What is to be announced.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Visible {
    pub(super) changes: Changes,
    /// Where the last of their commits ends.
    pub(super) end: Lsn,
    /// Where the first commit ends that is not visible yet.
    pub(super) held: Option<Lsn>,
    /// How many are not visible yet.
    pub(super) held_count: usize,
    /// The transactions that may have changed definitions.
    pub(super) definers: Vec<u32>,
    /// Where the last commit ends that was looked at.
    through: Lsn,
}

impl Decoded {
    pub(super) fn new(encoding: Encoding) -> Decoded {
        Decoded { encoding, open: None, all: VecDeque::new(), last: vec![], ended: vec![] }
    }

    /// Takes a line that was streamed. Returns where the commit ends, if it is one.
    pub(super) fn take(&mut self, at: Lsn, text: &Bytes, is_whole: bool) -> Option<Lsn> {
        if self.open.is_some() && test_decoding::is_alike(text, &self.last) {
            return None;
        }
        match test_decoding::read(text, is_whole, self.encoding) {
            Line::Begin(xid) => {
                // One that has not ended is not one that we understand.
                let before = self.open.replace(Open { xid, ..Open::default() });
                if before.is_some() {
                    self.stray(at);
                }
            }
            Line::Changes(names) => {
                let Some(open) = &mut self.open else {
                    self.stray(at);
                    return None;
                };
                open.has_lines = true;
                if let [_] = names.as_slice() {
                    self.last = test_decoding::beginning(text).to_vec();
                }
                open.changes.relations.extend(names);
                open.changes.bound();
            }
            Line::Message(prefix) => {
                if let Some(open) = &mut self.open {
                    open.has_lines |= prefix == OWN_MESSAGE;
                }
            }
            Line::Commit(xid) => {
                // The next transaction may begin with the same relation.
                self.last.clear();
                let Some(mut open) = self.open.take() else {
                    self.stray(at);
                    return None;
                };
                open.changes.anything |= open.xid != xid;
                open.changes.definitions = !open.has_lines;
                self.ended.push(open.xid);
                // What only had the log flushed has changed nothing.
                if open.changes != Changes::default() {
                    self.all.push_back(Transaction {
                        xid: Some(open.xid),
                        end: at,
                        changes: open.changes,
                        is_announced: false,
                    });
                }
                return Some(at);
            }
            Line::Unknown => match &mut self.open {
                Some(open) => {
                    open.has_lines = true;
                    open.changes.anything = true;
                }
                None => self.stray(at),
            },
        }
        None
    }

    /// A line that belongs to no transaction.
    fn stray(&mut self, at: Lsn) {
        let changes = Changes { anything: true, definitions: true, ..Changes::default() };
        self.all.push_back(Transaction { xid: None, end: at, changes, is_announced: false });
    }

    /// The transactions that were read since the last call, whatever they changed.
    pub(super) fn take_ended(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.ended)
    }

    /// Whether something is to be announced, now or when it is visible.
    pub(super) fn is_pending(&self) -> bool {
        self.all.iter().any(|transaction| !transaction.is_announced)
    }

    /// What is to be announced by what a snapshot shows.
    pub(super) fn visible(&self, snapshot: &Snapshot) -> Visible {
        let mut found = Visible::default();
        for transaction in &self.all {
            found.through = found.through.max(transaction.end);
            if transaction.is_announced {
                continue;
            }
            if is_visible(transaction.xid, snapshot) {
                found.changes.add(&transaction.changes);
                found.end = found.end.max(transaction.end);
                if transaction.changes.definitions {
                    found.definers.extend(transaction.xid);
                }
            } else {
                found.held = found.held.or(Some(transaction.end));
                found.held_count += 1;
            }
        }
        found
    }

    /// What was found to be visible in a snapshot has been announced, and a round has said so. What
    /// was read since then has not, even if the snapshot shows it.
    pub(super) fn announced(&mut self, found: &Visible, snapshot: &Snapshot, low: Lsn) {
        for transaction in self.all.iter_mut().filter(|it| it.end <= found.through) {
            transaction.is_announced |= is_visible(transaction.xid, snapshot);
        }
        self.forget(low);
    }

    /// A leader has announced everything before this.
    pub(super) fn forget(&mut self, low: Lsn) {
        while self.all.front().is_some_and(|first| first.end <= low) {
            self.all.pop_front();
        }
    }

    /// A term begins: everything that is kept is to be announced in it.
    pub(super) fn announce_again(&mut self) {
        self.all.iter_mut().for_each(|transaction| transaction.is_announced = false);
    }

    /// Keeps no more than memory should hold: the older ones that are visible become one.
    pub(super) fn bound(&mut self, snapshot: &Snapshot) {
        if self.all.len() <= KEPT_ONE_BY_ONE {
            return;
        }
        let (mut merged, mut kept) = (None::<Transaction>, VecDeque::new());
        let newest = self.all.len() - KEPT_ONE_BY_ONE / 2;
        for (number, transaction) in self.all.drain(..).enumerate() {
            if number >= newest || !is_visible(transaction.xid, snapshot) {
                kept.push_back(transaction);
                continue;
            }
            match &mut merged {
                None => merged = Some(Transaction { xid: None, ..transaction }),
                Some(merged) => {
                    merged.changes.add(&transaction.changes);
                    merged.end = merged.end.max(transaction.end);
                    merged.is_announced &= transaction.is_announced;
                }
            }
        }
        // Behind it there may be some that end before it and are not visible yet. They are kept
        // until the low end has passed both.
        kept.extend(merged);
        kept.make_contiguous().sort_by_key(|transaction| transaction.end);
        self.all = kept;
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

fn is_visible(xid: Option<u32>, snapshot: &Snapshot) -> bool {
    xid.is_none_or(|xid| snapshot.has_ended(snapshot.whole(xid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stream(Decoded, u64);

    impl Stream {
        fn new() -> Stream {
            Stream(Decoded::new(Encoding::Utf8), 0)
        }

        fn lines(&mut self, lines: &[&str]) {
            for line in lines {
                self.1 += 10;
                let bytes = Bytes::copy_from_slice(line.as_bytes());
                self.0.take(Lsn::of(self.1), &bytes, true);
            }
        }

        fn announce(&mut self, snapshot: &str, low: u64) {
            let snapshot = Snapshot::parse(snapshot).unwrap();
            let found = self.0.visible(&snapshot);
            self.0.announced(&found, &snapshot, Lsn::of(low));
        }

        fn visible(&self, snapshot: &str) -> (Vec<String>, bool, bool) {
            let changes = self.0.visible(&Snapshot::parse(snapshot).unwrap()).changes;
            let names = changes.relations.iter().map(RelationName::canonical).collect();
            (names, changes.anything, changes.definitions)
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn what_is_not_visible_yet_is_held() {
        let mut stream = Stream::new();
        stream.lines(&["BEGIN 7", "table public.a: INSERT: x", "table public.a: INSERT: y"]);
        stream.lines(&["table public.b: UPDATE: y", "COMMIT 7"]);
        stream.lines(&["BEGIN 8", "table public.c, public.d: TRUNCATE: (no-flags)", "COMMIT 8"]);
        assert_eq!(stream.visible("7:9:7,8").0, names(&[]));
        assert_eq!(stream.visible("7:9:7").0, names(&["public.c", "public.d"]));
        let held = stream.0.visible(&Snapshot::parse("7:9:7").unwrap());
        assert_eq!((held.held, held.end), (Some(Lsn::of(50)), Lsn::of(80)));
        stream.announce("7:9:7", 49);
        assert_eq!(stream.visible("9:9:").0, names(&["public.a", "public.b"]));
        assert!(stream.0.is_pending());
        stream.announce("9:9:", 49);
        assert!(!stream.0.is_pending());
        // Another term: what the last one may not have told.
        stream.0.forget(Lsn::of(50));
        stream.0.announce_again();
        assert_eq!(stream.visible("9:9:").0, names(&["public.c", "public.d"]));
        assert_eq!(stream.0.take_ended(), [7, 8]);
    }

    #[test]
    fn a_transaction_without_lines_may_have_changed_definitions() {
        let mut stream = Stream::new();
        stream.lines(&["BEGIN 7", "COMMIT 7"]);
        assert_eq!(stream.visible("8:8:"), (names(&[]), false, true));
        let mut stream = Stream::new();
        stream.lines(&["BEGIN 7", "message: transactional: 1 prefix: other, sz: 0 content:"]);
        stream.lines(&["COMMIT 7"]);
        assert_eq!(stream.visible("8:8:"), (names(&[]), false, true));
        let mut stream = Stream::new();
        stream
            .lines(&["BEGIN 7", "message: transactional: 1 prefix: larder.flush, sz: 0 content:"]);
        stream.lines(&["COMMIT 7"]);
        assert!(!stream.0.is_pending());
        assert_eq!(stream.0.take_ended(), [7]);
    }

    #[test]
    fn what_is_not_understood_may_be_anything() {
        for lines in [
            &["BEGIN 7", "nonsense", "COMMIT 7"][..],
            &["BEGIN 7", "table public.a: INSERT: x", "COMMIT 8"],
            &["table public.a: INSERT: x"],
            &["COMMIT 7"],
            &["BEGIN 7", "BEGIN 8"],
            &["nonsense"],
        ] {
            let mut stream = Stream::new();
            stream.lines(lines);
            assert!(stream.visible("9:9:").1, "{lines:?}");
        }
        let mut stream = Stream::new();
        stream.lines(&["message: transactional: 0 prefix: other, sz: 0 content:"]);
        assert!(!stream.0.is_pending(), "it belongs to no transaction");
        // It is read after what is visible was looked for, and visible by then.
        stream.lines(&["BEGIN 7", "table public.a: INSERT: x", "COMMIT 7"]);
        let all = Snapshot::parse("9:9:").unwrap();
        let found = stream.0.visible(&all);
        stream.lines(&["BEGIN 8", "table public.b: INSERT: x", "COMMIT 8"]);
        stream.0.announced(&found, &all, Lsn::ZERO);
        assert_eq!(stream.visible("9:9:").0, names(&["public.b"]));
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_lost() {
        let mut stream = Stream::new();
        for xid in 0..3 * KEPT_ONE_BY_ONE as u32 {
            let table = format!("table public.t{}: INSERT: x", xid % 50);
            stream.lines(&[
                &format!("BEGIN {}", 100 + xid),
                &table,
                &format!("COMMIT {}", 100 + xid),
            ]);
        }
        // One of the first is not visible yet.
        let some = Snapshot::parse("101:1000000:101").unwrap();
        let before = stream.0.visible(&some);
        stream.0.bound(&some);
        assert!(stream.0.len() <= KEPT_ONE_BY_ONE);
        assert_eq!(stream.0.visible(&some), before);
        assert_eq!(before.held, Some(Lsn::of(60)));
        stream.announce("101:1000000:101", 59);
        let all = Snapshot::parse("1000000:1000000:").unwrap();
        let last = stream.0.visible(&all).changes.relations;
        assert_eq!(last.into_iter().collect::<Vec<_>>(), [RelationName::of("public", "t1")]);
        stream.lines(&["BEGIN 900000"]);
        for relation in 0..=MOST_RELATIONS {
            stream.lines(&[&format!("table public.r{relation}: INSERT: x")]);
        }
        stream.lines(&["COMMIT 900000"]);
        assert_eq!(stream.visible("1000000:1000000:"), (names(&["public.t1"]), true, false));
    }
}
