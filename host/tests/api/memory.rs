//! The budget of memory: what does not fit is refused with 503 or waits, nothing of it is stored, and all is released.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::Method,
};
use futures_util::{StreamExt, stream};
use serde_json::Value;

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
            let (router, body) = (host.router.clone(), unfinished(870_000));
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
    assert!(accepted.len() >= 3, "{accepted:?}");
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
    let held = share.try_reserve(share.limit() / 8 * 7 - 100_000).unwrap();
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
    let _held = host.engine.memory().guests().try_reserve(1234).unwrap();
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
