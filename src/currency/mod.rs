//! Which results are current: the table of invalidations, and the memory order of its readers and
//! writers.

mod gate;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use self::gate::Round;
#[cfg(test)]
pub(crate) use self::table::Announcement;
pub(crate) use self::table::{Applied, Currency, Position, Stamp};
