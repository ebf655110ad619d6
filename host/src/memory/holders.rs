//! The holders of a share by their names.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex},
};

use super::share::{Holder, Share};
use crate::store::sync::lock;

/// How many holders are remembered before those without bytes are forgotten.
const REMEMBERED: usize = 1000;

/// The holders of one share by their names.
#[derive(Debug)]
pub struct Holders<K> {
    share: Arc<Share>,
    new: fn(&Arc<Share>) -> Arc<Holder>,
    by_name: Mutex<ByName<K>>,
}

#[derive(Debug)]
struct ByName<K> {
    holders: HashMap<K, Arc<Holder>>,
    /// How many there may be until those without bytes are forgotten: twice as many as were left the last time.
    most: usize,
}

impl<K: Eq + Hash> Holders<K> {
    /// No holders yet; `new` makes one.
    pub fn new(share: Arc<Share>, new: fn(&Arc<Share>) -> Arc<Holder>) -> Self {
        Self { share, new, by_name: Mutex::new(ByName { holders: HashMap::new(), most: REMEMBERED }) }
    }

    /// The share.
    pub fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// The holder of this name.
    pub fn of<Q>(&self, name: &Q) -> Arc<Holder>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let mut by_name = lock(&self.by_name);
        if let Some(holder) = by_name.holders.get(name) {
            return holder.clone();
        }
        if by_name.holders.len() >= by_name.most {
            // One that something else refers to may get bytes, which its name must find again.
            by_name.holders.retain(|_, holder| Arc::strong_count(holder) > 1);
            by_name.most = by_name.holders.len().saturating_mul(2).max(REMEMBERED);
        }
        by_name.holders.entry(name.to_owned()).or_insert_with(|| (self.new)(&self.share)).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_without_bytes_are_forgotten_and_others_are_not() {
        let holders = Holders::new(Share::new(1 << 20, 0), Share::holder);
        let held = holders.of(&7).try_reserve(100).unwrap();
        for name in 0..10_000 {
            holders.of(&name);
            assert!(lock(&holders.by_name).holders.len() <= REMEMBERED);
        }
        assert_eq!(holders.of(&7).used(), 100);
        drop(held);
        assert_eq!(holders.of(&7).used(), 0);
    }
}
