//! Are materialized views refreshed, and does the cache follow?

mod basics;
