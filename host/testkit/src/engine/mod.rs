//! An engine in this process: a disk that can be held and cut, a store that can be made to refuse commits, and a host put
//! together from them.

mod disk;
mod host;
mod plan;
mod store;

pub use self::{
    disk::TestDisk,
    host::{Host, Setup, settled, until},
    plan::Plan,
    store::{EFFECTS, TestStore},
};

/// Lets every task run until it has nothing to do; on the test's own thread, so without waiting for time to pass.
pub async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}
