//! The tutorial that Wasaga started from, against the real program: its very request, and its variants.

use wasaga_testkit::process::{Host, branch_statuses, transfer};

const REQUEST: &str = include_str!("../../../examples/tutorial/submit.json");
const GID: &str = "saga-golang-demo-001";

#[tokio::test]
async fn the_tutorials_request_is_compensated() {
    let data = tempfile::tempdir().unwrap();
    let host = Host::start(data.path());
    assert_eq!(host.submit(REQUEST).await.unwrap(), (200, r#"{"dtm_result":"SUCCESS"}"#.to_owned()));
    let view = host.wait_for_end(GID).await;
    assert_eq!(view["transaction"]["status"], "failed");
    // 01: compensated and done; 02: nothing to compensate, rejected.
    assert_eq!(branch_statuses(&view), "sssf", "{view:#}");
    let reason = view["transaction"]["rollback_reason"].as_str().unwrap();
    assert_eq!(reason, "url:http://service-b:8082/try return failed: simulated failure FAILURE");
    host.wait_for_log(&["service-a", GID, "try"]).await;
    host.wait_for_log(&["service-a", GID, "cancel"]).await;
    let cancels_of_b = host.log().iter().filter(|line| line.contains("[Service B] cancel")).count();
    assert_eq!(cancels_of_b, 0, "B had no effect: there is nothing to cancel");
}

#[tokio::test]
async fn with_amounts_that_fit_it_succeeds() {
    let data = tempfile::tempdir().unwrap();
    let host = Host::start(data.path());
    let request = REQUEST.replace("600", "100");
    assert_eq!(host.submit(request).await.unwrap(), (200, r#"{"dtm_result":"SUCCESS"}"#.to_owned()));
    let view = host.wait_for_end(GID).await;
    assert_eq!(view["transaction"]["status"], "succeed");
    assert_eq!(branch_statuses(&view), "psps");
}

#[tokio::test]
async fn a_finished_gid_is_refused_in_dtms_words() {
    let data = tempfile::tempdir().unwrap();
    let host = Host::start(data.path());
    host.submit(REQUEST).await.unwrap();
    host.wait_for_end(GID).await;
    let (status, body) = host.submit(REQUEST).await.unwrap();
    let refusal = r#"{"dtm_result":"FAILURE","message":"current status 'failed', cannot sumbmit. FAILURE"}"#;
    assert_eq!((status, body.as_str()), (409, refusal));
}

#[tokio::test]
async fn a_client_can_wait_for_the_result() {
    let data = tempfile::tempdir().unwrap();
    let host = Host::start(data.path());
    let (status, body) = host.submit(transfer("fits", [100, 100], true)).await.unwrap();
    assert_eq!((status, body.as_str()), (200, r#"{"dtm_result":"SUCCESS"}"#));
    let (status, body) = host.submit(transfer("too-much", [100, 600], true)).await.unwrap();
    assert_eq!(status, 409);
    assert_eq!(
        body,
        r#"{"dtm_result":"FAILURE","message":"url:wasm://service-b/try return failed: simulated failure FAILURE"}"#
    );
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_stop_and_a_start() {
    let data = tempfile::tempdir().unwrap();
    let host = Host::start(data.path());
    host.submit(transfer("before", [100, 600], true)).await.unwrap();
    assert!(host.terminate().success());
    let host = Host::start(data.path());
    assert_eq!(branch_statuses(&host.query("before").await), "sssf");
}
