//! `all`: pages and filters.

use serde_json::Value;

use crate::host::{Host, saga};

async fn all(host: &Host, query: &str) -> Value {
    host.get(&format!("/api/dtmsvr/all?{query}")).await.json()
}

fn gids(page: &Value) -> Vec<&str> {
    page["transactions"].as_array().unwrap().iter().map(|saga| saga["gid"].as_str().unwrap()).collect()
}

async fn host_with_sagas() -> Host {
    let host = Host::start();
    let wait = r#","wait_result":true"#;
    for (gid, action) in [("s1", "try"), ("f1", "reject"), ("s2", "try"), ("u1", "fail")] {
        host.submit(saga(gid, &[&format!("http://a/{action}")], wait)).await;
    }
    host.post("prepare", saga("p1", &["http://a/try"], "")).await;
    host
}

#[tokio::test]
async fn pages_follow_each_other_to_the_end_newest_first() {
    let host = host_with_sagas().await;
    let (mut seen, mut position) = (Vec::new(), String::new());
    loop {
        let page = all(&host, &format!("limit=1&position={position}")).await;
        seen.extend(gids(&page).into_iter().map(str::to_owned));
        let next = page["next_position"].as_str().unwrap().to_owned();
        assert_ne!(next, position, "the position moves");
        if next.is_empty() {
            break;
        }
        position = next;
    }
    assert_eq!(seen, ["p1", "u1", "s2", "f1", "s1"]);

    let whole = all(&host, "limit=1000&position=&gid=&status=&transType=&createTimeStart=&createTimeEnd=").await;
    assert_eq!((gids(&whole).len(), &whole["next_position"]), (5, &Value::from("")));
    assert_eq!(gids(&all(&host, "limit=-1").await).len(), 5);
    assert_eq!(gids(&all(&host, "").await).len(), 5);
}

#[tokio::test]
async fn a_list_longer_than_one_read_of_the_store_has_no_seams() {
    let host = Host::start();
    for number in 0..70 {
        host.submit(saga(&number.to_string(), &[], r#","wait_result":true"#)).await;
    }
    let expected: Vec<_> = (0..70).rev().map(|number: u32| number.to_string()).collect();
    let whole = all(&host, "").await;
    assert_eq!(gids(&whole), expected);
    assert_eq!(whole["next_position"], "");
    let first = all(&host, "limit=33").await;
    let rest = all(&host, &format!("position={}", first["next_position"].as_str().unwrap())).await;
    assert_eq!([gids(&first), gids(&rest)].concat(), expected);
}

#[tokio::test]
async fn filters_are_respected() {
    let host = host_with_sagas().await;
    for (status, expected) in [
        ("succeed", vec!["s2", "s1"]),
        ("failed", vec!["f1"]),
        ("submitted", vec!["u1"]),
        ("prepared", vec!["p1"]),
        ("aborting", vec![]),
        ("nonsense", vec![]),
    ] {
        let page = all(&host, &format!("status={status}")).await;
        assert_eq!((gids(&page), &page["next_position"]), (expected, &Value::from("")), "{status}");
    }
    assert_eq!(gids(&all(&host, "transType=saga").await).len(), 5);
    assert_eq!(gids(&all(&host, "transType=tcc").await).len(), 0);

    let far = u64::MAX / 4;
    assert_eq!(gids(&all(&host, "createTimeStart=1&createTimeEnd=2").await).len(), 0);
    assert_eq!(gids(&all(&host, &format!("createTimeStart=1&createTimeEnd={far}")).await).len(), 5);
    assert_eq!(gids(&all(&host, &format!("createTimeStart={far}")).await).len(), 0);
    assert_eq!(gids(&all(&host, "createTimeStart=-5").await).len(), 5);
}

#[tokio::test]
async fn a_gid_finds_one_saga_whatever_else_is_asked_for() {
    let host = host_with_sagas().await;
    let page = all(&host, "gid=s1&status=failed&position=7").await;
    assert_eq!((gids(&page), &page["next_position"]), (vec!["s1"], &Value::from("7")));
    let none = host.get("/api/dtmsvr/all?gid=nobody&position=7").await;
    assert_eq!(none.parts(), (200, r#"{"next_position":"7","transactions":null}"#));
    let nothing = host.get("/api/dtmsvr/all?status=aborting").await;
    assert_eq!(nothing.parts(), (200, r#"{"next_position":"","transactions":[]}"#));
}

#[tokio::test]
async fn a_page_of_large_sagas_is_short_and_says_where_to_go_on() {
    let host = Host::start();
    let payload = "x".repeat(300_000);
    for number in 0..40 {
        let body = saga(&number.to_string(), &[""], "").replace("\"{}\"", &format!("\"{payload}\""));
        host.post("prepare", body).await;
    }
    let first = all(&host, "limit=100").await;
    let next = first["next_position"].as_str().unwrap();
    assert!(!next.is_empty() && gids(&first).len() < 40, "{} sagas, next {next:?}", gids(&first).len());
    let rest = all(&host, &format!("position={next}")).await;
    let expected: Vec<_> = (0..40).rev().map(|number: u32| number.to_string()).collect();
    assert_eq!([gids(&first), gids(&rest)].concat(), expected);
}
