//! The money test: clients move money between accounts, most of it between a few, while the host dies again and again.
//!
//! Afterwards the books must balance to the unit: every account holds its opening balance and what the transfers that
//! succeeded have moved, each exactly once; whatever a client was told still holds; no saga is lost. The accounts are
//! plain key-value of `plugins/account`, which knows nothing of duplicates, crashes or concurrency.
//!
//! Once with a process that is killed (SIGKILL: what it wrote stays in the page cache), and once with a host in this
//! process whose disk loses everything that was not synced at each cut. Both run for some seconds, or for as many as
//! `WASAGA_MONEY_SECONDS` says.

mod bank;
mod books;
mod power;
mod process;

use std::time::Duration;

/// How long the clients are at it.
fn duration() -> Duration {
    let seconds = std::env::var("WASAGA_MONEY_SECONDS").map_or(5, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

/// What the dice of a run are thrown with; printed, to tell runs apart.
fn seed() -> u64 {
    wasaga_testkit::seed(fastrand::u64(..))
}
