//! The budget of memory: what does not fit is refused with 503 or waits, nothing of it is stored, and all is released.

use std::{net::IpAddr, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::Method,
};
use futures_util::{StreamExt, stream};
use serde_json::Value;

use wasaga::api::serve::Peer;

use crate::host::{Answer, Host, saga};

const MIB: u64 = 1 << 20;

/// A saga of one step with a payload of so many bytes.
fn with_payload(gid: &str, action: &str, bytes: usize, fields: &str) -> String {
    saga(gid, &[action], fields).replace(r#""payloads":["{}"]"#, &format!(r#""payloads":["{}"]"#, "x".repeat(bytes)))
}

fn refused(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.headers.contains_key("retry-after"));
    assert!(answer.body.contains("memory"), "{}", answer.body);
}

/// Bytes that are reserved in all shares together.
fn reserved(host: &Host) -> usize {
    host.engine.memory().shares().iter().map(|(_, share)| share.used()).sum()
}

/// Waits until nothing is reserved any more.
async fn released(host: &Host) {
    for _ in 0..2_000 {
        if reserved(host) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{:?} stay reserved", host.engine.memory());
}

/// A body that sends some bytes, and no more.
fn unfinished(bytes: usize) -> Body {
    let chunk = Ok::<_, std::convert::Infallible>(Bytes::from(vec![b'"'; bytes]));
    Body::from_stream(stream::iter([chunk]).chain(stream::pending()))
}

#[tokio::test]
async fn bodies_that_are_not_finished_leave_room_for_small_ones_and_release_theirs() {
    let host = Host::start_within(16 * MIB);
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let (router, body) = (host.router.clone(), unfinished(100_000));
            let request = axum::http::Request::post("/api/dtmsvr/submit").body(body).unwrap();
            tokio::spawn(tower::ServiceExt::oneshot(router, request))
        })
        .collect();
    while host.engine.memory().requests().refused() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let share = host.engine.memory().requests();
    assert!(share.used() <= share.limit());
    refused(&host.submit(with_payload("large", "http://a/try", 900_000, "")).await);
    let wait = r#","wait_result":true"#;
    assert_eq!(host.submit(saga("small", &["http://a/try"], wait)).await.parts().0, 200);
    assert_eq!(host.query("large").await["transaction"], Value::Null, "a refused saga is not stored");

    clients.iter().for_each(tokio::task::JoinHandle::abort);
    released(&host).await;
    assert_eq!(host.submit(with_payload("large", "http://a/try", 900_000, wait)).await.parts().0, 200);
    released(&host).await;
}

#[tokio::test]
async fn a_client_with_unfinished_bodies_leaves_room_for_large_ones_of_others() {
    let host = Host::start_within(16 * MIB);
    let submission = |client: [u8; 4], body| {
        let mut request = axum::http::Request::post("/api/dtmsvr/submit").body(body).unwrap();
        request.extensions_mut().insert(Peer(IpAddr::from(client)));
        request
    };
    let (greedy, other) = ([127, 0, 0, 1], [127, 0, 0, 2]);
    let clients: Vec<_> = (0..20)
        .map(|_| tokio::spawn(tower::ServiceExt::oneshot(host.router.clone(), submission(greedy, unfinished(100_000)))))
        .collect();
    while host.engine.memory().requests().refused() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let large = |gid: &str| Body::from(with_payload(gid, "http://a/try", 300_000, r#","wait_result":true"#));
    refused(&host.send_whole(submission(greedy, large("greedy"))).await);
    for number in 0..20 {
        let answer = host.send_whole(submission(other, large(&number.to_string()))).await;
        assert_eq!(answer.status, 200, "{number}: {}", answer.body);
    }
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    released(&host).await;
}

#[tokio::test]
async fn a_client_whose_sagas_hang_leaves_room_for_large_ones_of_others() {
    let host = Host::start_within(16 * MIB);
    let submit = async |client: [u8; 4], body| {
        let mut request = axum::http::Request::post("/api/dtmsvr/submit").body(Body::from(body)).unwrap();
        request.extensions_mut().insert(Peer(IpAddr::from(client)));
        host.send_whole(request).await.status.as_u16()
    };
    let mut answers = Vec::new();
    for number in 0..30 {
        answers.push(submit([127, 0, 0, 1], with_payload(&format!("g{number}"), "http://a/hang", 300_000, "")).await);
    }
    assert_eq!((answers.first(), answers.last()), (Some(&200), Some(&503)));
    for number in 0..20 {
        let body = with_payload(&format!("s{number}"), "http://a/try", 150_000, r#","wait_result":true"#);
        assert_eq!(submit([127, 0, 0, 2], body).await, 200, "{number}");
    }
}

#[tokio::test]
async fn live_sagas_reserve_what_they_hold_until_they_end() {
    let host = Host::start_within(16 * MIB);
    let share = host.engine.memory().payloads();
    let mut accepted = Vec::new();
    for number in 0..20 {
        let gid = format!("s{number}");
        let answer = host.submit(with_payload(&gid, "http://a/hang", 900_000, "")).await;
        if answer.status == 200 {
            accepted.push(gid);
        } else {
            refused(&answer);
            assert_eq!(host.query(&gid).await["transaction"], Value::Null);
        }
        assert!(share.used() <= share.limit());
    }
    // What its copies had is free again once a saga is on disk.
    assert!(accepted.len() >= 2, "{accepted:?}");
    assert!(share.used() >= accepted.len() * 900_000);
    let small = host.submit(saga("small", &["http://a/try"], r#","wait_result":true"#)).await;
    assert_eq!(small.parts().0, 200, "small sagas have room of their own");
    for gid in &accepted {
        assert_eq!(host.post("forceStop", format!(r#"{{"gid":"{gid}"}}"#)).await.parts().0, 200);
    }
    released(&host).await;
}

#[tokio::test]
async fn prepared_sagas_hold_nothing_once_they_are_on_disk() {
    let host = Host::start_within(16 * MIB);
    for number in 0..10 {
        let prepared = host.post("prepare", with_payload(&number.to_string(), "http://a/try", 900_000, "")).await;
        assert_eq!(prepared.parts().0, 200, "{number}");
        released(&host).await;
    }
    // The steps are those that were prepared, and the room is for them.
    let named = host.submit(r#"{"gid":"3","trans_type":"saga","steps":[],"payloads":[],"wait_result":true}"#).await;
    assert_eq!(named.parts().0, 200, "{}", named.body);
    released(&host).await;
}

#[tokio::test]
async fn pages_of_large_sagas_end_where_memory_does_and_go_on_there() {
    let host = Host::start_within(32 * MIB);
    let wait = r#","wait_result":true"#;
    for number in 0..12 {
        let stored = host.submit(with_payload(&format!("s{number}"), "http://a/try", 1_000_000, wait)).await;
        assert_eq!(stored.status, 200, "{}", stored.body);
        released(&host).await;
    }
    let (mut seen, mut position, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = host.get(&format!("/api/dtmsvr/all?limit=100&position={position}")).await.json();
        let sagas = page["transactions"].as_array().unwrap();
        seen.extend(sagas.iter().map(|saga| saga["gid"].as_str().unwrap().to_owned()));
        position = page["next_position"].as_str().unwrap().to_owned();
        pages += 1;
        assert!(!sagas.is_empty() || position.is_empty(), "a page moves on");
        if position.is_empty() {
            break;
        }
    }
    let expected: Vec<_> = (0..12).rev().map(|number| format!("s{number}")).collect();
    assert_eq!(seen, expected);
    assert!(pages >= 2, "one page would have 12 MB");
    released(&host).await;
}

#[tokio::test]
async fn sagas_that_are_large_for_the_budget_are_listed_too() {
    // The share of answers has 2 MiB.
    let host = Host::start_within(8 * MIB);
    let wait = r#","wait_result":true"#;
    for gid in ["s0", "s1"] {
        assert_eq!(host.submit(with_payload(gid, "http://a/try", 500_000, wait)).await.parts().0, 200);
        released(&host).await;
    }
    for path in ["limit=2", "gid=s0"] {
        let page = host.get(&format!("/api/dtmsvr/all?{path}")).await.json();
        assert!(!page["transactions"].as_array().unwrap().is_empty(), "{path}");
    }
    assert_eq!(host.query("s1").await["transaction"]["gid"], "s1");
    released(&host).await;
}

#[tokio::test]
async fn an_answer_is_counted_until_it_has_been_read() {
    let host = Host::start_within(64 * MIB);
    let wait = r#","wait_result":true"#;
    for gid in ["s0", "s1"] {
        assert_eq!(host.submit(with_payload(gid, "http://a/try", 1_000_000, wait)).await.parts().0, 200);
    }
    released(&host).await;
    for path in ["/api/dtmsvr/all", "/api/dtmsvr/query?gid=s0", "/api/dtmsvr/all?gid=s0"] {
        let request = axum::http::Request::builder().method(Method::GET).uri(path).body(Body::empty()).unwrap();
        let response = tower::ServiceExt::oneshot(host.router.clone(), request).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        assert!(reserved(&host) >= 1_000_000, "{path}");
        let mut body = response.into_body().into_data_stream();
        let first = body.next().await.unwrap().unwrap();
        assert!(reserved(&host) >= 1_000_000 || first.len() < 1_000, "{path}");
        // The client goes away in the middle.
        drop((first, body));
        released(&host).await;
    }

    let share = host.engine.memory().requests();
    let mut held = share.holder().nothing();
    held.grow_over(share.limit() / 8 * 7 - 100_000);
    for path in ["/api/dtmsvr/all", "/api/dtmsvr/query?gid=s0", "/api/dtmsvr/all?gid=s0", "/api/v1/sagas/s0"] {
        refused(&host.get(path).await);
    }
    drop(held);
    assert_eq!(host.get("/api/v1/sagas/s0").await.status, 200);
    released(&host).await;
}

#[tokio::test]
async fn metrics_show_every_share() {
    let host = Host::start_within(16 * MIB);
    let _held = host.engine.memory().guests_of("p").try_reserve(1234).unwrap();
    let metrics = host.get("/api/metrics").await.body;
    for line in [
        r#"wasaga_memory_reserved_bytes{share="guests"} 1234"#,
        r#"wasaga_memory_limit_bytes{share="requests"} 4194304"#,
        r#"wasaga_memory_limit_bytes{share="payloads"} 6291456"#,
        r#"wasaga_memory_refused_total{share="payloads"} 0"#,
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
}
