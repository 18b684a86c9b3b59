//! [`LOADING`]: the load that runs in the current task.

use crate::flight::waits::Loading;

tokio::task_local! {
    /// The load that a read is part of. Such a read must not wait for a permit, since the load holds
    /// one: if all permits are held by such loads, they would wait for each other. Nor may it wait
    /// for a flight that waits for the load.
    pub(crate) static LOADING: Loading;
}
