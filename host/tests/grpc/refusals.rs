//! What is refused, with which code, and that nothing is stored then.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::json;
use tonic::Code;

use crate::world::{DtmRequest, OUT_IN, TransOptions, World, waiting};

#[tokio::test]
async fn what_describes_no_saga_is_refused_and_not_stored() {
    let world = World::new().await;
    let saga = || world.transfer("g");
    let with = |options: TransOptions| DtmRequest { options: Some(options), ..saga() };
    let to = |action: &str| DtmRequest { steps: json!([{ "action": action }]).to_string(), ..saga() };
    let headers = |name: &str| HashMap::from([(name.to_owned(), "x".to_owned())]);
    let refused = [
        // DTM's GrpcPanic.
        (DtmRequest { trans_type: "no-type".into(), ..saga() }, "trans_type is \"no-type\""),
        (DtmRequest { trans_type: "tcc".into(), ..saga() }, "Wasaga runs sagas only"),
        (DtmRequest { gid: String::new(), ..saga() }, "gid is empty"),
        (DtmRequest { gid: "a\u{1}b".into(), ..saga() }, "gid holds a control or a text direction character"),
        (DtmRequest { steps: "{}".into(), ..saga() }, "expected an array"),
        (DtmRequest { steps: "nonsense".into(), ..saga() }, "the body cannot be read"),
        (DtmRequest { payloads: vec![vec![]], ..saga() }, "step 1 (counted from 0) has no payload"),
        (DtmRequest { custom_data: "[".into(), ..saga() }, "custom_data cannot be read"),
        (with(TransOptions { retry_limit: -1, ..waiting() }), "RetryLimit is -1: it must be 0 or more"),
        (with(TransOptions { branch_headers: headers("a b"), ..waiting() }), "cannot be the name of a header"),
        (to("no-port/busi.Busi/TransOut"), "write it as host:port/package.Service/Method"),
        (to("127.0.0.1:1/busi.Busi"), "write it as host:port/package.Service/Method"),
        (to("user@127.0.0.1:1/busi.Busi/TransOut"), "write it as host:port/package.Service/Method"),
        (to("wasm://no-such-plugin/try"), "no-such-plugin"),
        (to("wasm://service-a/try"), "the payload is not UTF-8 text"),
    ];
    for (request, words) in refused {
        for method in ["Submit", "Prepare"] {
            let status = world.call(method, &request).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{method} {request:?}: {status:?}");
            assert!(status.message().contains(words), "{method} {request:?}: {status:?}");
        }
    }
    assert!(world.host.query("g").await["transaction"].is_null());
    assert!(!world.new_gid().await.is_empty(), "it still serves");
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused() {
    let world = World::new().await;
    let status = world.call_raw("Submit", &b"\xff\xff\xff"[..]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let status = world.call_raw("Submit", vec![0; 5 << 20]).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(!world.new_gid().await.is_empty(), "it still serves");
}

#[tokio::test]
async fn methods_of_other_modes_say_so() {
    let world = World::new().await;
    for method in ["RegisterBranch", "PrepareWorkflow", "Subscribe", "Unsubscribe", "DeleteTopic"] {
        let status = world.call_raw(method, Bytes::new()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
        assert!(
            status.message().starts_with(method) && status.message().contains("Wasaga runs sagas only"),
            "{status:?}"
        );
    }
    let status = world.call_raw("Query", Bytes::new()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("no such method"), "{status:?}");
}

#[tokio::test]
async fn what_has_ended_is_refused_in_dtms_words() {
    let world = World::new().await;
    let saga = DtmRequest { options: Some(waiting()), ..world.saga("g", &OUT_IN[..1]) };
    world.submit(&saga).await.unwrap();
    for (method, words) in [
        ("Submit", "current status 'succeed', cannot sumbmit. FAILURE"),
        ("Prepare", "current status 'succeed', cannot prepare. FAILURE"),
        ("Abort", "trans type: 'saga' current status 'succeed', cannot abort. FAILURE"),
    ] {
        let status = world.call(method, &saga).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Aborted, words));
    }
    let status = world.call("Abort", &world.transfer("nobody")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "no TransGlobal with gid: nobody found"));
}

#[tokio::test]
async fn a_prepared_saga_waits_for_its_submission() {
    let world = World::new().await;
    let saga = DtmRequest { options: Some(waiting()), ..world.transfer("g") };
    world.call("Prepare", &saga).await.unwrap();
    world.assert_saga("g", "prepared", "PPPP").await;
    assert!(world.participant.names().is_empty());
    world.submit(&saga).await.unwrap();
    world.assert_saga("g", "succeed", "PSPS").await;
}
