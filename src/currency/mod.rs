//! Which results are current: the table of invalidations, and the memory order of its readers and
//! writers.

mod table;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use self::table::Announcement;
pub(crate) use self::table::{Applied, Currency, Position, Stamp};
