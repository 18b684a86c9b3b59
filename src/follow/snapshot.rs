//! [`Snapshot`]: which transactions a query of the database sees.

use std::collections::BTreeSet;

/// What `pg_current_snapshot()` returned: who sees this sees what was committed by every transaction
/// before `xmax` that is not in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    xmax: u64,
    in_progress: BTreeSet<u64>,
}

impl Snapshot {
    /// Reads `xmin:xmax:xip,xip`.
    pub(super) fn parse(text: &str) -> Option<Snapshot> {
        let mut parts = text.splitn(3, ':');
        let _xmin: u64 = parts.next()?.parse().ok()?;
        let xmax = parts.next()?.parse().ok()?;
        let list = parts.next()?;
        let in_progress = match list {
            "" => BTreeSet::new(),
            list => list.split(',').map(|xid| xid.parse().ok()).collect::<Option<_>>()?,
        };
        Some(Snapshot { xmax, in_progress })
    }

    /// Whether what the transaction has done, if it is committed, is visible.
    pub(super) fn has_ended(&self, xid: u64) -> bool {
        xid < self.xmax && !self.in_progress.contains(&xid)
    }

    /// As if every transaction had ended.
    pub(super) fn show_all(&mut self) {
        self.xmax += 1 << 30;
        self.in_progress.clear();
    }

    /// The transactions that had a number and had not ended.
    pub(super) fn in_progress(&self) -> &BTreeSet<u64> {
        &self.in_progress
    }

    /// The whole number of a transaction of which the lower 32 bits are known. All that are in
    /// question are within two thousand million of the present ones.
    pub(super) fn whole(&self, low: u32) -> u64 {
        let ahead = low.wrapping_sub(self.xmax as u32).cast_signed();
        self.xmax.wrapping_add_signed(ahead.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_before_the_snapshot_is_visible_in_it() {
        let snapshot = Snapshot::parse("10:20:10,14").unwrap();
        for (xid, ended) in
            [(3, true), (10, false), (11, true), (14, false), (19, true), (20, false)]
        {
            assert_eq!(snapshot.has_ended(xid), ended, "{xid}");
        }
        assert!(Snapshot::parse("10:10:").unwrap().in_progress().is_empty());
        for wrong in ["", "10", "10:20", "10:20:x", "x:20:", "10:20:10,"] {
            assert_eq!(Snapshot::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_upper_half_of_a_number_is_that_of_the_nearest() {
        let at = |xmax: u64| Snapshot { xmax, in_progress: BTreeSet::new() };
        let era = 1_u64 << 32;
        assert_eq!(at(era + 5).whole(4), era + 4);
        assert_eq!(at(era + 5).whole(7), era + 7);
        assert_eq!(at(era + 5).whole(u32::MAX), era - 1);
        assert_eq!(at(era - 2).whole(3), era + 3);
        assert_eq!(at(800).whole(733), 733);
    }
}
