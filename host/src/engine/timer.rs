//! The due times of parked sagas. An entry has sixteen bytes; everything else about the saga is in the store.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Mutex};

use tokio::sync::Notify;

use super::{clock::Clock, format::SagaId};
use crate::saga::Timestamp;
use crate::store::sync::lock;

/// A queue of sagas by due time. An entry may be out of date, so the due time in the store decides.
#[derive(Default)]
pub(super) struct Timer {
    heap: Mutex<BinaryHeap<Reverse<(Timestamp, SagaId)>>>,
    earlier: Notify,
}

impl Timer {
    /// Adds a saga.
    pub fn push(&self, due: Timestamp, id: SagaId) {
        let mut heap = lock(&self.heap);
        let is_earliest = heap.peek().is_none_or(|Reverse((earliest, _))| due < *earliest);
        heap.push(Reverse((due, id)));
        drop(heap);
        if is_earliest {
            self.earlier.notify_one();
        }
    }

    /// Waits until the earliest saga is due, removes it and returns it.
    pub async fn next(&self, clock: &Clock) -> SagaId {
        loop {
            let earliest = {
                let mut heap = lock(&self.heap);
                match heap.peek() {
                    Some(Reverse((due, id))) if *due <= clock.now() => {
                        let id = *id;
                        heap.pop();
                        return id;
                    }
                    Some(Reverse((due, _))) => Some(*due),
                    None => None,
                }
            };
            match earliest {
                None => self.earlier.notified().await,
                Some(due) => tokio::select! {
                    () = self.earlier.notified() => {}
                    () = tokio::time::sleep(clock.now().until(due)) => {}
                },
            }
        }
    }
}
