//! Tests of bulkheads.

use std::time::Duration;

use futures_util::FutureExt;

use super::*;

type Granted = mpsc::UnboundedReceiver<(SagaId, Place<u8>)>;

fn bulkhead(total: usize, per_holder: usize) -> (Bulkhead<u8>, Granted) {
    let (granted, receiver) = mpsc::unbounded_channel();
    (Bulkhead::new(Limits { total, per_holder }, granted), receiver)
}

fn waiting(bulkhead: &Bulkhead<u8>, holder: u8) -> Waiting<u8> {
    bulkhead.enter(holder, None).err().unwrap()
}

fn numbers(bulkhead: &Bulkhead<u8>, holder: u8) -> (usize, usize) {
    let load = bulkhead.loads().into_iter().find(|load| load.holder == holder);
    load.map_or((0, 0), |load| (load.running, load.waiting))
}

#[test]
fn one_holder_has_at_most_its_own_limit() {
    let (bulkhead, _granted) = bulkhead(8, 2);
    let places = [bulkhead.try_enter(1), bulkhead.try_enter(1), bulkhead.try_enter(1)];
    assert_eq!(places.map(|place| place.is_some()), [true, true, false]);
}

#[test]
fn greedy_holders_leave_places_for_those_that_have_few() {
    let (bulkhead, _granted) = bulkhead(64, 64);
    let greedy: Vec<_> = (0..200).filter_map(|n| bulkhead.try_enter(n % 2)).collect();
    assert!(greedy.len() >= 48, "what nobody else asks for is used: {}", greedy.len());
    for holder in 2..10 {
        assert!(bulkhead.try_enter(holder).is_some(), "{holder}");
    }
    let few: Vec<_> = (2..7).map(|holder| bulkhead.try_enter(holder)).collect();
    assert!(few.iter().all(Option::is_some), "one of each at once");
}

#[test]
fn waits_of_a_holder_end_in_order_and_a_parked_saga_keeps_its_turn() {
    let (bulkhead, mut granted) = bulkhead(4, 1);
    let place = bulkhead.try_enter(1).unwrap();
    let (first, mut second, third) = (waiting(&bulkhead, 1), waiting(&bulkhead, 1), waiting(&bulkhead, 1));
    assert!(first.park(SagaId(1)) && third.park(SagaId(3)));
    assert!((&mut second).now_or_never().is_none());
    assert_eq!(numbers(&bulkhead, 1), (1, 3));
    drop(place);
    let (id, place) = granted.try_recv().unwrap();
    assert_eq!((id, granted.try_recv().is_err()), (SagaId(1), true));
    drop(place);
    let place = second.now_or_never().unwrap();
    assert!(granted.try_recv().is_err());
    // Saga 3 is driven for another reason: it takes up its turn, before one that comes later.
    let mut third = bulkhead.enter(1, Some(SagaId(3))).err().unwrap();
    let mut late = waiting(&bulkhead, 1);
    drop(place);
    let place = (&mut third).now_or_never().unwrap();
    assert!((&mut late).now_or_never().is_none());
    assert_eq!(numbers(&bulkhead, 1), (1, 1));
    drop((place, third, late));
    assert_eq!(numbers(&bulkhead, 1), (0, 0));
}

#[test]
fn a_saga_that_parks_twice_waits_once() {
    let (bulkhead, mut granted) = bulkhead(4, 1);
    let place = bulkhead.try_enter(1).unwrap();
    assert!(waiting(&bulkhead, 1).park(SagaId(1)) && waiting(&bulkhead, 1).park(SagaId(1)));
    assert_eq!((numbers(&bulkhead, 1), bulkhead.waiting_in_all()), ((1, 1), 1));
    drop(place);
    assert_eq!(granted.try_recv().unwrap().0, SagaId(1));
    assert_eq!((numbers(&bulkhead, 1), bulkhead.waiting_in_all()), ((0, 0), 0));
}

#[test]
fn a_turn_that_comes_while_its_saga_parks_is_not_lost() {
    let (bulkhead, mut granted) = bulkhead(4, 1);
    let place = bulkhead.try_enter(1).unwrap();
    let wait = waiting(&bulkhead, 1);
    drop(place);
    assert!(!wait.park(SagaId(1)), "the caller drives it again");
    assert!(granted.try_recv().is_err());
    assert_eq!(numbers(&bulkhead, 1), (0, 0));
}

#[test]
fn a_saga_that_parks_twice_keeps_the_earlier_turn() {
    let (bulkhead, mut granted) = bulkhead(4, 1);
    let place = bulkhead.try_enter(1).unwrap();
    let [early, other, late] = [waiting(&bulkhead, 1), waiting(&bulkhead, 1), waiting(&bulkhead, 1)];
    assert!(early.park(SagaId(1)) && other.park(SagaId(2)) && late.park(SagaId(1)));
    drop(place);
    let (first, place) = granted.try_recv().unwrap();
    drop(place);
    assert_eq!((first, granted.try_recv().unwrap().0), (SagaId(1), SagaId(2)));
}

/// When the host stops, nothing receives the sagas whose turn comes.
#[test]
fn places_that_nothing_wants_return_however_many_sagas_are_parked() {
    let (bulkhead, granted) = bulkhead(4, 1);
    let place = bulkhead.try_enter(1).unwrap();
    for id in 0..200_000 {
        assert!(waiting(&bulkhead, 1).park(SagaId(id)));
    }
    drop(granted);
    drop(place);
    assert_eq!((numbers(&bulkhead, 1), bulkhead.waiting_in_all()), ((0, 0), 0));
}

/// Random entries, waits, parkings and ends; the invariants are checked after each.
#[test]
fn invariants_hold_in_any_order_of_events() {
    wasaga_seed::seeds(300).for_each(|seed| {
        let mut random = wasaga_seed::rng(seed);
        let (total, per_holder) = (random.usize(1..12), random.usize(1..8));
        let (bulkhead, mut granted) = bulkhead(total, per_holder);
        let (mut places, mut waits, mut next) = (Vec::new(), Vec::new(), 0);
        for _ in 0..200 {
            let holder = random.u8(0..4);
            match random.u8(0..6) {
                0 | 1 => match bulkhead.enter(holder, None) {
                    Ok(place) => places.push(place),
                    Err(wait) => waits.push(wait),
                },
                2 if !places.is_empty() => drop(places.swap_remove(random.usize(0..places.len()))),
                3 if !waits.is_empty() => drop(waits.swap_remove(random.usize(0..waits.len()))),
                4 if !waits.is_empty() => {
                    next += 1;
                    let _has_parked = waits.swap_remove(random.usize(0..waits.len())).park(SagaId(next));
                }
                _ => places.extend(bulkhead.try_enter(holder)),
            }
            let mut at = 0;
            while let Some(wait) = waits.get_mut(at) {
                match wait.now_or_never() {
                    Some(place) => {
                        waits.swap_remove(at);
                        places.push(place);
                    }
                    None => at += 1,
                }
            }
            while let Ok((_, place)) = granted.try_recv() {
                places.push(place);
            }
            let loads = bulkhead.loads();
            let state = lock(&bulkhead.0.state);
            assert_eq!(loads.iter().map(|load| load.running).sum::<usize>(), places.len(), "seed {seed}");
            assert!(places.len() <= total && loads.iter().all(|load| load.running <= per_holder), "seed {seed}");
            assert_eq!(state.used, places.len(), "seed {seed}");
            assert_eq!(loads.iter().map(|load| load.waiting).sum::<usize>(), bulkhead.waiting_in_all());
            let active = loads.iter().filter(|load| load.running + load.waiting > 0).count();
            assert_eq!(state.active, active, "seed {seed}");
            for load in loads.iter().filter(|load| load.waiting > 0) {
                assert!(!state.has_room(load.running, false), "{load:?} waits for nothing, seed {seed}");
            }
        }
    });
}

fn with_total(total: usize) -> (Bulkhead<u32>, mpsc::UnboundedReceiver<(SagaId, Place<u32>)>) {
    let (granted, receiver) = mpsc::unbounded_channel();
    (Bulkhead::new(Limits { total, per_holder: total / 2 }, granted), receiver)
}

/// One client can name thousands of services that do not answer.
#[test]
fn thousands_of_slow_holders_leave_places_for_quick_ones() {
    let (bulkhead, _granted) = with_total(64);
    for holder in [1, 2] {
        drop(bulkhead.try_enter(holder).unwrap().begin());
    }
    let slow: Vec<_> = (100..10_000).filter_map(|holder| bulkhead.try_enter(holder)).collect();
    assert_eq!(slow.len(), 56, "the last half of the reserve is not for them");
    let waits: Vec<_> = (100..5_000).map(|holder| bulkhead.enter(holder, None)).collect();
    for _ in 0..100 {
        let places: Vec<_> = (0..2).flat_map(|_| [1, 2]).map(|holder| bulkhead.try_enter(holder)).collect();
        assert!(places.iter().all(Option::is_some), "a part of the reserve each");
    }
    assert!(bulkhead.try_enter(20_000).is_none());
    drop((slow, waits));
    assert_eq!(bulkhead.waiting_in_all(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_holder_is_quick_by_its_last_place() {
    let (bulkhead, _granted) = with_total(16);
    let hold = async |time| {
        let place = bulkhead.try_enter(1).unwrap().begin();
        tokio::time::sleep(time).await;
        drop(place);
        let others: Vec<_> = (100..200).filter_map(|holder| bulkhead.try_enter(holder)).collect();
        assert_eq!(others.len(), 14);
        bulkhead.try_enter(1).is_some()
    };
    assert!(hold(Duration::from_millis(900)).await);
    assert!(!hold(Duration::from_millis(1100)).await);
    drop(bulkhead.try_enter(1));
    assert!(!hold(Duration::from_millis(1100)).await, "a place that was not used says nothing");
    assert!(hold(Duration::ZERO).await);
}

#[test]
fn a_slow_holder_finds_a_place_beside_greedy_ones() {
    for total in [16, 64, 128, 3584] {
        let (bulkhead, _granted) = with_total(total);
        let mut places = Vec::new();
        for holder in 0..4 {
            places.extend(std::iter::from_fn(|| bulkhead.try_enter(holder)));
        }
        assert!(total < 64 || bulkhead.try_enter(4).is_some(), "{total}");
    }
}

#[test]
fn holders_with_the_fewest_places_come_first() {
    let (bulkhead, _granted) = with_total(4);
    let mut places: Vec<_> = [1, 1, 2].into_iter().map(|holder| bulkhead.try_enter(holder).unwrap()).collect();
    let last = bulkhead.try_enter(3).unwrap();
    let mut waits = [1, 2, 4].map(|holder| bulkhead.enter(holder, None).err().unwrap());
    drop(last);
    let ready = waits.each_mut().map(FutureExt::now_or_never);
    assert_eq!(ready.map(|place| place.is_some()), [false, false, true]);
    places.clear();
}
