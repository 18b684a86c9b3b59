//! [`RefreshPlan`]: the order in which views are refreshed.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::refresh::postgres::lineage::Lineage;

/// Which of a refresher's views read which, directly or through other views.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// The OID of each view that exists.
    oids: Vec<Option<u32>>,
    below: Vec<Vec<usize>>,
}

impl Order {
    pub(super) fn new(oids: Vec<Option<u32>>, lineage: &Lineage) -> Order {
        let below = oids.iter().map(|oid| {
            let reached = oid.map(|oid| lineage.below(oid)).unwrap_or_default();
            let is_reached = |at: &usize| oids[*at].is_some_and(|oid| reached.contains(&oid));
            (0..oids.len()).filter(is_reached).collect()
        });
        let below = below.collect();
        Order { oids, below }
    }

    /// The views below this one. They are refreshed first.
    pub(super) fn below(&self, at: usize) -> &[usize] {
        self.below.get(at).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_of(&self, oids: &[Option<u32>]) -> bool {
        self.oids == oids
    }

    /// Groups the views into layers. The views of one layer do not depend on each other, and all
    /// views below them are in earlier layers. There is no cycle: PostgreSQL cannot create one.
    pub(super) fn layers(&self) -> Vec<Vec<usize>> {
        let mut layers: Vec<Vec<usize>> = vec![];
        let mut left: BTreeSet<usize> = (0..self.below.len()).collect();
        while !left.is_empty() {
            let is_free = |at: &usize| self.below[*at].iter().all(|below| !left.contains(below));
            let mut layer: Vec<usize> = left.iter().copied().filter(is_free).collect();
            if layer.is_empty() {
                // A name changed its meaning between two queries. It is better to refresh all
                // remaining views at once than none.
                layer = left.iter().copied().collect();
            }
            left.retain(|at| !layer.contains(at));
            layers.push(layer);
        }
        layers
    }
}

/// The order in which a refresher's views are refreshed: from the bottom up, and the views of one
/// step in parallel. Its `Display` is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshPlan {
    pub(super) steps: Vec<Vec<PlannedView>>,
}

/// A view in a [`RefreshPlan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedView {
    pub(super) name: Arc<str>,
    pub(super) after: Vec<Arc<str>>,
    pub(super) exists: bool,
}

impl RefreshPlan {
    pub(super) fn new(order: &Order, names: &[Arc<str>]) -> RefreshPlan {
        let planned = |at: usize| PlannedView {
            name: names[at].clone(),
            after: order.below(at).iter().map(|&below| names[below].clone()).collect(),
            exists: order.oids[at].is_some(),
        };
        let step = |layer: Vec<usize>| layer.into_iter().map(planned).collect();
        RefreshPlan { steps: order.layers().into_iter().map(step).collect() }
    }

    /// The steps, each of views that do not depend on each other.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = &[PlannedView]> {
        self.steps.iter().map(Vec::as_slice)
    }
}

impl PlannedView {
    /// The name of the view, as given to the refresher.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The refresher's views that this view reads, directly or through other views.
    pub fn after(&self) -> impl ExactSizeIterator<Item = &str> {
        self.after.iter().map(|name| &**name)
    }

    /// Whether PostgreSQL has a materialized view of this name.
    pub fn exists(&self) -> bool {
        self.exists
    }
}

impl fmt::Display for RefreshPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "{}.", at + 1)?;
            for (at, view) in step.iter().enumerate() {
                let separator = if at > 0 { "; " } else { " " };
                write!(f, "{separator}{}", view.name)?;
                if !view.exists {
                    f.write_str(" (missing)")?;
                }
                if !view.after.is_empty() {
                    write!(f, " after {}", view.after.join(", "))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(below: &[&[usize]]) -> Order {
        Order {
            oids: (0..below.len() as u32).map(Some).collect(),
            below: below.iter().map(|below| below.to_vec()).collect(),
        }
    }

    #[test]
    fn layers_go_from_the_bottom_up() {
        let diamond = order(&[&[1, 2, 3], &[3], &[3], &[]]);
        assert_eq!(diamond.layers(), [vec![3], vec![1, 2], vec![0]]);
        assert_eq!(order(&[]).layers(), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn a_plan_is_printed_step_by_step() {
        let names = ["monthly", "daily", "users"].map(Arc::from);
        let mut order = order(&[&[1], &[], &[]]);
        order.oids[2] = None;
        let plan = RefreshPlan::new(&order, &names);
        assert_eq!(plan.to_string(), "1. daily; users (missing)\n2. monthly after daily");
    }
}
