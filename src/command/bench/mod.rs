//! `larder bench`: a workload through the real cache, against real servers.

// The parts that fill it come next.
#[allow(dead_code)]
pub(super) mod report;
