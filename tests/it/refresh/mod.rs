//! Are materialized views refreshed, and does the cache follow?

mod basics;
mod check;
mod errors;
mod names;
mod order;
mod unchanged;
