//! Forward and back, by DTM's names.

use std::collections::HashMap;

use serde_json::json;
use tonic::Code;

use crate::{
    participant::Answer,
    world::{DtmRequest, OUT_IN, PAYLOAD, TransOptions, World, waiting},
};

#[tokio::test]
async fn saga_grpc_normal() {
    let world = World::new().await;
    let gid = world.new_gid().await;
    world.submit(&world.transfer(&gid)).await.unwrap();
    world.wait_for(&gid, "succeed", "PSPS").await;
    assert_eq!(world.rollback_reason(&gid).await, "");

    let calls = world.participant.calls();
    assert_eq!(world.participant.names(), ["TransOut", "TransIn"]);
    assert!(calls.iter().all(|call| call.message == PAYLOAD));
    let ids = ["dtm-gid", "dtm-trans_type", "dtm-branch_id", "dtm-op"].map(|name| calls[1].meta(name));
    assert_eq!(ids, [&*gid, "saga", "02", "action"]);
    // Present and empty, as under DTM.
    assert_eq!(calls[1].metadata.get("dtm-dtm").unwrap(), "");

    // Bytes are shown with the branches, not where text is expected.
    let view = world.host.query(&gid).await;
    assert_eq!(view["branches"][1]["bin_data"], "CB7/AP4=");
    assert_eq!(view["transaction"]["protocol"], "grpc");
    assert!(view["transaction"].get("payloads").is_none());
}

#[tokio::test]
async fn saga_grpc_rollback() {
    let world = World::new().await;
    world.participant.switch("TransIn", Answer::Refuse(Code::Aborted, "Insufficient balance"));
    world.participant.switch("TransOutRevert", Answer::Refuse(Code::FailedPrecondition, "ONGOING"));
    let (has_come, release) = world.participant.hold("TransOutRevert");
    world.submit(&world.transfer("g")).await.unwrap();
    has_come.await.unwrap();
    world.assert_saga("g", "aborting", "PSSF").await;
    release.send(()).unwrap();
    world.wait_for("g", "failed", "SSSF").await;
    let url = world.participant.url("TransIn");
    assert_eq!(world.rollback_reason("g").await, format!("url:{url} return failed: Insufficient balance FAILURE"));
    let back = ["TransOut", "TransIn", "TransInRevert", "TransOutRevert", "TransOutRevert"];
    assert_eq!(world.participant.names(), back);
}

#[tokio::test]
async fn saga_grpc_current() {
    let world = World::new().await;
    let (out_has_come, release_out) = world.participant.hold("TransOut");
    let (in_has_come, release_in) = world.participant.hold("TransIn");
    let saga = DtmRequest { custom_data: json!({ "concurrent": true }).to_string(), ..world.transfer("g") };
    world.submit(&saga).await.unwrap();
    // Both are under way at once.
    out_has_come.await.unwrap();
    in_has_come.await.unwrap();
    release_in.send(()).unwrap();
    world.wait_for("g", "submitted", "PPPS").await;
    release_out.send(()).unwrap();
    world.wait_for("g", "succeed", "PSPS").await;
}

#[tokio::test]
async fn saga_grpc_current_order() {
    let world = World::new().await;
    let custom_data = json!({ "concurrent": true, "orders": { "0": [1] } }).to_string();
    world.submit(&DtmRequest { custom_data, ..world.transfer("g") }).await.unwrap();
    world.wait_for("g", "succeed", "PSPS").await;
    assert_eq!(world.participant.names(), ["TransIn", "TransOut"]);
}

/// Both forms of ONGOING: today's, and that of DTM before 1.10.
#[tokio::test]
async fn saga_grpc_committed_ongoing() {
    for (gid, code, message) in [("new", Code::FailedPrecondition, "later"), ("old", Code::Aborted, "ONGOING")] {
        let world = World::new().await;
        world.participant.switch("TransOut", Answer::Refuse(code, message));
        let (has_come, release) = world.participant.hold("TransOut");
        world.submit(&world.transfer(gid)).await.unwrap();
        has_come.await.unwrap();
        world.assert_saga(gid, "submitted", "PPPP").await;
        release.send(()).unwrap();
        world.wait_for(gid, "succeed", "PSPS").await;
        assert_eq!(world.participant.names(), ["TransOut", "TransOut", "TransIn"]);
    }
}

#[tokio::test]
async fn saga_grpc_normal_wait() {
    let world = World::new().await;
    world.submit(&DtmRequest { options: Some(waiting()), ..world.transfer("g") }).await.unwrap();
    world.assert_saga("g", "succeed", "PSPS").await;
}

#[tokio::test]
async fn saga_grpc_empty_url() {
    let world = World::new().await;
    let saga = world.saga("g", &[("TransOut", ""), ("", "")]);
    world.submit(&DtmRequest { options: Some(waiting()), ..saga }).await.unwrap();
    world.assert_saga("g", "succeed", "PSPS").await;
    assert_eq!(world.participant.names(), ["TransOut"]);
}

/// The participant learns how long it may take.
#[tokio::test]
async fn saga_grpc_with_global_trans_request_timeout() {
    let world = World::new().await;
    let options = TransOptions { request_timeout: 6, ..waiting() };
    world.submit(&DtmRequest { options: Some(options), ..world.saga("g", &[("TransOut", "")]) }).await.unwrap();
    world.submit(&DtmRequest { options: Some(waiting()), ..world.saga("h", &[("TransOut", "")]) }).await.unwrap();
    let told: Vec<_> = world.participant.calls().iter().map(|call| call.meta("grpc-timeout").to_owned()).collect();
    assert_eq!(told, ["6000000u", "3000000u"]);
}

#[tokio::test]
async fn saga_grpc_options_rollback_wait() {
    let world = World::new().await;
    world.participant.switch("TransIn", Answer::Refuse(Code::Aborted, "Insufficient balance"));
    let status = world.submit(&DtmRequest { options: Some(waiting()), ..world.transfer("g") }).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Aborted, &*world.rollback_reason("g").await));
    assert!(status.message().ends_with("Insufficient balance FAILURE"), "{status:?}");
    world.wait_for("g", "failed", "SSSF").await;
}

/// Also with the retry, which finds them in the store.
#[tokio::test]
async fn saga_grpc_headers_and_cron_headers() {
    let world = World::new().await;
    world.participant.switch("TransOut", Answer::Refuse(Code::FailedPrecondition, "ONGOING"));
    let headers = [("test_header", "test"), ("raw-bin", "a\u{e9}"), ("grpc-timeout", "1n"), ("content-type", "x/y")];
    let branch_headers: HashMap<_, _> = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let options = TransOptions { branch_headers, ..TransOptions::default() };
    world.submit(&DtmRequest { options: Some(options), ..world.saga("g", &[("TransOut", "")]) }).await.unwrap();
    world.wait_for("g", "succeed", "PS").await;
    let calls = world.participant.calls();
    assert_eq!(calls.len(), 2);
    for call in calls {
        assert_eq!((call.meta("test_header"), call.meta("grpc-timeout")), ("test", "3000000u"));
        // The protocol wants such values in base64.
        assert_eq!(call.metadata.get_bin("raw-bin").unwrap().to_bytes().unwrap(), "a\u{e9}");
    }
}

/// Every answer is lost once; with the ids of the calls the participant sees that the work is done already.
#[tokio::test]
async fn saga_grpc_barrier_normal() {
    let world = World::new().await;
    world.participant.switch("TransOut", Answer::Lost);
    world.participant.switch("TransIn", Answer::Lost);
    world.submit(&world.transfer("g")).await.unwrap();
    world.wait_for("g", "succeed", "PSPS").await;
    assert_eq!(world.participant.names(), ["TransOut", "TransOut", "TransIn", "TransIn"]);
    assert_eq!((world.participant.moved("TransOut"), world.participant.moved("TransIn")), (1, 1));
}

/// The step that was rejected is compensated too, and its barrier finds nothing to take back.
#[tokio::test]
async fn saga_grpc_barrier_rollback() {
    let world = World::new().await;
    world.participant.switch("TransIn", Answer::Refuse(Code::Aborted, "Insufficient balance"));
    world.submit(&world.transfer("g")).await.unwrap();
    world.wait_for("g", "failed", "SSSF").await;
    assert_eq!(world.participant.names(), ["TransOut", "TransIn", "TransInRevert", "TransOutRevert"]);
    assert_eq!((world.participant.moved("TransOut"), world.participant.moved("TransIn")), (0, 0));
}

/// No server listens there: the result is unknown, so nothing is rolled back.
#[tokio::test]
async fn a_service_that_cannot_be_reached_is_tried_again() {
    let world = World::new().await;
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let steps = json!([{ "action": format!("{unused}/busi.Busi/TransOut") }]).to_string();
    let saga = DtmRequest { steps, options: Some(waiting()), ..world.saga("g", &OUT_IN[..1]) };
    let status = world.submit(&saga).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Aborted, "wait result not return success: FAILURE"));
    let view = world.host.query("g").await;
    assert_eq!(view["transaction"]["status"], "submitted");
    assert!(view["branches"][1]["error"].as_str().unwrap().contains("Connection refused"), "{view:#}");
}

/// Plugins, HTTP and gRPC in one saga. DTM knows an HTTP address by its scheme, whatever the protocol.
#[tokio::test]
async fn kinds_of_branches_mix() {
    let world = World::new().await;
    let http = format!("http://{}/api/ping", world.host.address);
    let steps = json!([
        { "action": "wasm://service-a/try", "compensate": "wasm://service-a/cancel" },
        { "action": http },
        { "action": world.participant.url("TransIn"), "compensate": world.participant.url("TransInRevert") },
    ]);
    let saga = DtmRequest {
        steps: steps.to_string(),
        payloads: vec![b"{\"amount\":1}".to_vec(), PAYLOAD.to_vec(), PAYLOAD.to_vec()],
        options: Some(waiting()),
        ..world.saga("g", &[])
    };
    world.submit(&saga).await.unwrap();
    world.assert_saga("g", "succeed", "PSPSPS").await;
    assert_eq!(world.participant.calls()[0].message, PAYLOAD);
}
