//! Tests of the shares of memory.

use std::{thread, time::Duration};

use futures_util::{FutureExt, poll};

use super::*;

/// A share in which all items are small.
fn share(limit: usize) -> Arc<Share> {
    Share::new(limit, usize::MAX)
}

/// A holder of a new share in which no item is small.
fn large(limit: usize) -> (Arc<Share>, Arc<Holder>) {
    let share = Share::new(limit, 0);
    let holder = share.holder();
    (share, holder)
}

/// Reserves as many items of so many bytes as there is room for.
fn fill(holder: &Arc<Holder>, bytes: usize) -> Vec<Reserved> {
    std::iter::from_fn(|| holder.try_reserve(bytes)).collect()
}

#[test]
fn what_is_dropped_is_released() {
    let (share, one) = large(1000);
    let two = share.holder();
    let other = two.try_reserve(50).unwrap();
    let mut first = one.try_reserve(300).unwrap();
    assert!(one.try_reserve(500).is_none());
    assert!(!one.try_reserve(300).unwrap().try_grow(250));
    assert!(first.try_grow(100));
    assert_eq!((share.used(), one.used(), two.used(), share.refused()), (450, 400, 50, 2));
    first.shrink_to(10);
    first.shrink_to(20);
    assert_eq!((first.bytes(), one.used()), (10, 10));
    let second = one.try_reserve(400).unwrap();
    drop((first, second));
    assert_eq!((share.used(), one.used()), (50, 0));
    drop(other);
    assert_eq!((share.used(), two.used()), (0, 0));
}

#[test]
fn an_item_that_is_larger_than_the_share_counts_as_half_of_it() {
    let (share, holder) = large(100);
    let mut item = holder.try_reserve(1000).unwrap();
    assert!(item.try_grow(1000));
    assert_eq!((item.bytes(), share.used()), (2000, 50));
    assert!(share.holder().try_reserve(1000).is_none());
    assert!(share.holder().try_reserve(30).is_some());
    item.shrink_to(60);
    assert_eq!(share.used(), 50);
    item.shrink_to(40);
    assert_eq!(share.used(), 40);
    drop(item);
    assert_eq!(share.used(), 0);
}

#[test]
fn one_holder_has_three_quarters_of_a_share_and_seven_eighths_in_small_items() {
    let share = Share::new(800, 10);
    let holder = share.holder();
    let mut items = fill(&holder, 50);
    assert_eq!(holder.used(), 600);
    let small = fill(&holder, 10);
    assert_eq!(holder.used(), 700);
    items.clear();
    drop(small);
    // A small item that grows is a large one.
    let mut grows = holder.try_reserve(10).unwrap();
    let rest = fill(&holder, 59);
    assert_eq!(rest.len(), 10);
    assert!(!grows.try_grow(1));
}

#[test]
fn greedy_holders_leave_room_for_those_that_have_little() {
    for greedy in 1..100 {
        let share = Share::new(1_000_000, 0);
        let holders: Vec<_> = (0..greedy).map(|_| share.holder()).collect();
        let mut held = Vec::new();
        // Each takes what it can, in turns.
        while let more @ 1.. =
            holders.iter().filter_map(|holder| holder.try_reserve(100)).map(|item| held.push(item)).count()
        {
            assert!(more <= greedy);
        }
        let free = share.limit() - share.used();
        assert!(free >= share.limit() / (3 * greedy + 1), "{greedy}: {free}");
        let equal = share.limit() * 3 / (3 * greedy + 1);
        assert!(holders.iter().all(|holder| holder.used().abs_diff(equal) <= 200), "{greedy}");
        // One that comes then has a part of what is free at once, and its equal part when others have released.
        let late = share.holder();
        let mut item = late.try_reserve(free / 2).unwrap();
        held.truncate(held.len() / 2);
        assert!(item.try_grow(free / 2), "{greedy}");
    }
}

#[test]
fn what_cannot_be_refused_is_counted() {
    let (share, holder) = large(100);
    let mut over = holder.nothing();
    over.grow_over(150);
    assert!(share.holder().try_reserve(1).is_none());
    drop(over);
    assert_eq!(share.used(), 0);
}

#[tokio::test]
async fn items_of_one_holder_get_room_in_their_order() {
    let (share, holder) = large(800);
    let (first, second) = (holder.try_reserve(300).unwrap(), holder.try_reserve(300).unwrap());
    let mut large = Box::pin(holder.reserve(400));
    let mut next = Box::pin(holder.reserve(100));
    assert!(poll!(&mut large).is_pending() && poll!(&mut next).is_pending());
    drop(first);
    assert!(poll!(&mut large).is_pending() && poll!(&mut next).is_pending());
    drop(second);
    let large = large.await;
    assert_eq!((large.bytes(), next.await.bytes()), (400, 100));
    assert_eq!(share.used(), 400);
}

#[tokio::test]
async fn a_holder_that_waits_is_in_the_way_of_no_other() {
    let (share, greedy) = large(800);
    let held = fill(&greedy, 100);
    let mut waits = Box::pin(greedy.reserve(400));
    assert!(poll!(&mut waits).is_pending());
    let other = share.holder();
    for _ in 0..10 {
        assert!(other.try_reserve(100).is_some());
        assert_eq!(other.reserve(100).now_or_never().map(|item| item.bytes()), Some(100));
    }
    drop(held);
    assert_eq!(waits.await.bytes(), 400);
}

#[tokio::test]
async fn room_gathers_for_a_large_item_while_others_take_small_ones() {
    let (share, busy) = large(800);
    let mut held: VecDeque<_> = fill(&busy, 50).into();
    let patient = share.holder();
    let mut waits = Box::pin(patient.reserve(400));
    assert!(poll!(&mut waits).is_pending());
    let mut rounds = 0;
    let item = loop {
        // As one ends, another begins where it may; what has begun goes on.
        assert!(held.iter_mut().all(|item| item.try_grow(0)));
        held.pop_front();
        held.extend(busy.try_reserve(50));
        rounds += 1;
        assert!(rounds < 20, "it never gets room");
        if let Some(item) = (&mut waits).now_or_never() {
            break item;
        }
    };
    assert_eq!(item.bytes(), 400);
    drop((item, held));
    assert_eq!((share.used(), share.bound.load(Ordering::SeqCst)), (0, UNBOUNDED));
}

#[test]
fn holders_of_most_leave_a_part_to_the_others_however_many_they_are() {
    let share = Share::new(80_000, 0);
    let many: Vec<_> = (0..1000).map(|_| share.holder_of_most()).collect();
    let held: Vec<_> = many.iter().flat_map(|holder| fill(holder, 10)).collect();
    assert!(share.used() <= 70_000 && held.len() > 6_000, "{}", held.len());
    assert!(share.holder().try_reserve(5_000).is_some());
}

#[tokio::test]
async fn no_room_gathers_for_a_holder_that_has_more_than_its_part() {
    let (share, greedy) = large(800);
    let held = fill(&greedy, 100);
    let mut waits = Box::pin(greedy.reserve(100));
    assert!(poll!(&mut waits).is_pending());
    let others: Vec<_> = (0..3).map(|_| share.holder()).collect();
    let few: Vec<_> = others.iter().map(|other| other.reserve(40).now_or_never().unwrap()).collect();
    assert_eq!(few.len(), 3);
    drop(held);
    assert_eq!(waits.await.bytes(), 100);
}

#[tokio::test]
async fn an_item_that_gives_up_waiting_stands_in_no_way() {
    let (share, holder) = large(800);
    let held = fill(&holder, 100);
    let mut gives_up = Box::pin(holder.reserve(400));
    let mut next = Box::pin(holder.reserve(100));
    assert!(poll!(&mut gives_up).is_pending() && poll!(&mut next).is_pending());
    drop(gives_up);
    drop(held);
    assert_eq!(next.await.bytes(), 100);
    // One that was granted room and is dropped before it looks gives the room back.
    let held = fill(&holder, 100);
    let mut granted = Box::pin(holder.reserve(400));
    assert!(poll!(&mut granted).is_pending());
    drop(held);
    assert_eq!(share.used(), 400);
    drop(granted);
    assert_eq!((share.used(), share.bound.load(Ordering::SeqCst)), (0, UNBOUNDED));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn invariants_hold_in_any_order_of_events() {
    const LIMIT: usize = 10_000;
    let share = Share::new(LIMIT, 64);
    let holders: Vec<_> = (0..3).map(|_| share.holder()).collect();
    let tasks = (0..8).map(|seed| {
        let (share, holder) = (share.clone(), holders[seed % holders.len()].clone());
        tokio::spawn(async move {
            let mut rng = fastrand::Rng::with_seed(seed as u64);
            let mut held: Vec<Reserved> = Vec::new();
            for _ in 0..5_000 {
                match rng.u32(0..6) {
                    0 => held.extend(holder.try_reserve(rng.usize(0..3_000))),
                    1 => held.extend(holder.try_reserve(rng.usize(0..64))),
                    2 => {
                        // Waits with empty hands, so that no two wait for each other; sometimes not to the end.
                        held.clear();
                        let wait = holder.reserve(rng.usize(0..20_000));
                        held.extend(tokio::time::timeout(Duration::from_micros(rng.u64(0..500)), wait).await);
                    }
                    3 => drop(held.pop()),
                    4 => {
                        if let Some(last) = held.last_mut() {
                            last.try_grow(rng.usize(0..1_000));
                        }
                    }
                    _ => {
                        if let Some(last) = held.last_mut() {
                            last.shrink_to(rng.usize(0..1_000));
                        }
                    }
                }
                let used = share.used();
                assert!(used <= LIMIT, "{used}");
                assert!(held.iter().map(|item| item.counted).sum::<usize>() <= holder.used());
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert!(holders.iter().all(|holder| holder.used() == 0 && holder.waiting.load(Ordering::SeqCst) == 0));
    assert_eq!((share.used(), share.waiting.load(Ordering::SeqCst), share.active.load(Ordering::SeqCst)), (0, 0, 0));
    assert_eq!(share.bound.load(Ordering::SeqCst), UNBOUNDED);
}

/// What waits always comes to an end while everything else ends at some time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_wait_is_forgotten() {
    let share = Share::new(1_000, 10);
    let holders: Vec<_> = (0..4).map(|_| share.holder()).collect();
    let tasks: Vec<_> = (0..16)
        .map(|seed| {
            let holder = holders[seed % holders.len()].clone();
            tokio::spawn(async move {
                let mut rng = fastrand::Rng::with_seed(seed as u64);
                for _ in 0..2_000 {
                    let item = holder.reserve(rng.usize(0..1_500)).await;
                    if rng.bool() {
                        tokio::task::yield_now().await;
                    }
                    drop(item);
                }
            })
        })
        .collect();
    for task in tasks {
        tokio::time::timeout(Duration::from_mins(1), task).await.expect("a wait has no end").unwrap();
    }
    assert_eq!(share.used(), 0);
}

#[test]
fn a_panic_releases_too() {
    let share = share(100);
    let panicking = share.holder();
    let ended = thread::spawn(move || {
        let _held = panicking.try_reserve(50).unwrap();
        panic!("with bytes in its hands");
    });
    assert!(ended.join().is_err());
    assert_eq!(share.used(), 0);
}
