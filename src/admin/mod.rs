//! For operators: what Redis holds for one result and whether it would be served, and what the
//! server is like and its user may do.
//!
//! The command `larder` prints what this module reports. Nothing here changes what is cached.
//!
//! ```no_run
//! use larder::admin::{Inspection, KeyBuilder, Redis};
//!
//! # async fn run() -> Result<(), larder::admin::Error> {
//! let redis = Redis::connect("redis://127.0.0.1:6379", "shop").await?;
//! let query = KeyBuilder::rows("shop", "SELECT count(*) FROM orders WHERE region = $1").param(&"eu");
//! let report = redis.inspect(&Inspection::of_query(&query).tag("orders")).await?;
//! println!("{}: {}", report.name, report.verdict);
//! # Ok(())
//! # }
//! ```

mod directory;
mod entry;
mod error;
mod find;
mod inspect;
mod key;
mod redis;
mod rights;
mod survey;
mod verdict;

pub use self::directory::Directory;
pub use self::entry::{
    EntryCodec, EntryDetails, EntryHeader, EntryReport, LeaseDetails, Seal, SlotState,
};
pub use self::error::{Error, ErrorKind};
pub use self::find::FoundKeys;
pub use self::inspect::Inspection;
pub use self::key::{KeyBuilder, ResultKey};
pub use self::redis::Redis;
pub use self::rights::{MissingRight, Right};
pub use self::survey::{EntrySummary, FoundEntries};
pub use self::verdict::Verdict;
