//! What is still current: the table of invalidations, and the order in which threads may meet there.

mod table;
#[cfg(test)]
mod tests;

pub(crate) use self::table::{Applied, Currency, Position, Stamp};
