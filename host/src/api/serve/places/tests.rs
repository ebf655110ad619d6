use super::*;

fn connections(connections_max: usize) -> Connections {
    Connections::new(Settings { connections_max, ..Settings::default() })
}

/// A connection of the address 10.0.0.`host` that has been idle since `ms`.
fn idle(connections: &Connections, host: u8, ms: u64) -> Place {
    let place = connections.try_place([10, 0, 0, host].into()).unwrap();
    place.entry.idle_since.store(ms, Relaxed);
    place
}

/// Which of these connections are asked to end, in order, until none is.
fn displaced(connections: &Connections, places: &[&Place]) -> Vec<usize> {
    let mut order = Vec::new();
    while connections.make_room() {
        let chosen = |index: &usize| places[*index].entry.is_chosen.load(Relaxed) && !order.contains(index);
        order.push((0..places.len()).find(chosen).unwrap());
    }
    order
}

#[tokio::test]
async fn the_longest_idle_one_goes_first_and_one_with_a_request_never() {
    let connections = connections(10);
    let places = [idle(&connections, 1, 30), idle(&connections, 1, 10), idle(&connections, 1, 20)];
    let busy = places[1].entry.request();
    assert_eq!(displaced(&connections, &places.each_ref()), [2, 0]);
    drop(busy);
    assert_eq!(displaced(&connections, &places.each_ref()[1..2]), [0]);
}

#[tokio::test]
async fn silent_ones_go_before_those_that_have_asked() {
    let connections = connections(10);
    let places = [idle(&connections, 1, 10), idle(&connections, 1, 50)];
    drop(places[0].entry.request());
    places[0].entry.idle_since.store(10, Relaxed);
    assert_eq!(displaced(&connections, &places.each_ref()), [1, 0]);
}

#[tokio::test]
async fn the_address_with_the_most_idle_ones_gives_first() {
    let connections = connections(10);
    let places =
        [idle(&connections, 1, 10), idle(&connections, 2, 40), idle(&connections, 2, 30), idle(&connections, 2, 20)];
    assert_eq!(displaced(&connections, &places.each_ref()), [3, 2, 0, 1]);
}

#[tokio::test]
async fn one_that_was_found_and_has_asked_since_is_passed_over() {
    let connections = connections(20);
    // Enough that one search finds two.
    let places: Vec<_> = (1..=16).map(|since| idle(&connections, 1, since)).collect();
    assert!(connections.make_room());
    let busy = places[1].entry.request();
    assert!(connections.make_room());
    let chosen = |place: &Place| place.entry.is_chosen.load(Relaxed);
    assert_eq!(places.iter().map(chosen).collect::<Vec<_>>()[..4], [true, false, true, false]);
    drop(busy);
}

#[tokio::test]
async fn the_networks_of_ipv6_are_one_client_each_and_proxies_give_last() {
    let settings = Settings { connections_max: 10, ..Settings::default() };
    let connections = Connections::new(Settings { proxies: vec!["10.0.0.0/24".parse().unwrap()], ..settings });
    let at = |address: &str| connections.try_place(address.parse().unwrap()).unwrap();
    let places = [idle(&connections, 1, 1), idle(&connections, 1, 2), idle(&connections, 1, 3), at("192.0.2.1")];
    let crowd = [at("2001:db8::1"), at("2001:db8::2"), at("2001:db8::3:4")];
    let all: Vec<&Place> = places.iter().chain(&crowd).collect();
    for (place, since) in crowd.iter().zip(10..) {
        place.entry.idle_since.store(since, Relaxed);
    }
    places[3].entry.idle_since.store(20, Relaxed);
    // The proxy's are the oldest and the most.
    assert_eq!(displaced(&connections, &all), [4, 5, 6, 3, 0, 1, 2]);
}

/// Which of these were asked to end.
fn chosen(places: &[Place]) -> Vec<usize> {
    (0..places.len()).filter(|index| places[*index].entry.is_chosen.load(Relaxed)).collect()
}

/// Makes all that is known of a connection older by more than [`SLOW`].
fn age(connections: &mut Connections) {
    Arc::get_mut(&mut connections.0).unwrap().began -= SLOW * 2;
}

#[tokio::test]
async fn slow_connections_of_one_address_give_way_to_each_other_while_places_are_free() {
    let mut connections = connections(100);
    age(&mut connections);
    let many = |host, count| -> Vec<Place> { (0..count).map(|_| idle(&connections, host, 0)).collect() };
    let mut slow = many(1, 25);
    assert_eq!(chosen(&slow), [0; 0], "a quarter of all");
    let (other, asks) = (many(2, 25), slow[0].entry.request());
    slow.extend(many(1, 1));
    assert_eq!(chosen(&slow), [0; 0], "one has asked");
    slow.extend(many(1, 2));
    assert_eq!((chosen(&slow), chosen(&other)), (vec![1, 2], vec![]));
    slow.drain(1..3);
    slow.extend(many(1, 1));
    assert_eq!(chosen(&slow), [1], "the count has gone down with those that ended");
    drop((slow, other, asks));
    assert!(lock(&connections.0.silent.0).is_empty());
}

#[tokio::test]
async fn new_connections_and_proxies_may_be_many() {
    let settings = Settings { connections_max: 100, silent_per_client: 2, ..Settings::default() };
    let mut connections = Connections::new(Settings { proxies: vec!["10.0.0.9".parse().unwrap()], ..settings });
    let new: Vec<Place> = (0..20).map(|_| connections.try_place([10, 0, 0, 1].into()).unwrap()).collect();
    assert_eq!(chosen(&new), [0; 0]);
    drop(new);
    age(&mut connections);
    let of_proxy: Vec<Place> = (0..20).map(|_| idle(&connections, 9, 0)).collect();
    assert_eq!(chosen(&of_proxy), [0; 0]);
    let of_client: Vec<Place> = (0..4).map(|_| idle(&connections, 1, 0)).collect();
    assert_eq!(chosen(&of_client), [0, 1]);
}

#[tokio::test]
async fn what_is_remembered_of_connections_that_ask_does_not_grow() {
    let connections = connections(100);
    let first = idle(&connections, 1, 0);
    for _ in 0..1000 {
        drop(idle(&connections, 1, 0).entry.request());
    }
    assert!(lock(&connections.0.silent.0)[&first.entry.client].queue.len() <= 4);
}

#[tokio::test]
async fn a_place_is_free_when_its_connection_ends() {
    let connections = connections(1);
    let first = connections.place([10, 0, 0, 1].into()).await;
    assert!(connections.try_place([10, 0, 0, 2].into()).is_none());
    drop(first);
    let second = connections.place([10, 0, 0, 2].into()).await;
    assert_eq!(connections.counts(), Counts { open: 1, displaced: 0 });
    drop(second);
}
