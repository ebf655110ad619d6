//! DTM's API as JSON-RPC, and branches that speak it.

use serde_json::{Value, json};

use crate::{participant::Answer, world::World};

async fn call(world: &World, body: &Value) -> Value {
    let answer = world.post("/api/json-rpc", &body.to_string()).await;
    assert_eq!((answer.status, answer.content_type.as_str()), (200, "application/json; charset=utf-8"), "{answer:?}");
    let reply = answer.json();
    assert_eq!((reply["jsonrpc"].as_str(), reply["id"].as_str()), (Some("2.0"), body["id"].as_str().or(Some(""))));
    assert!(reply["error"].is_null() || reply["result"].is_null(), "{reply}");
    reply
}

fn request(method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": "1", "method": method, "params": params })
}

#[track_caller]
fn assert_refused(reply: &Value, code: i64, message: &str) {
    assert_eq!((reply["error"]["code"].as_i64(), reply["error"]["message"].as_str()), (Some(code), Some(message)));
}

#[tokio::test(start_paused = true)]
async fn a_saga_over_json_rpc() {
    let world = World::new().await;
    let reply = call(&world, &request("newGid", &Value::Null)).await;
    let gid = reply["result"]["gid"].as_str().unwrap().to_owned();
    assert_eq!(gid.len(), 22);
    let saga = world.transfer(&gid, json!({}));
    for method in ["prepare", "submit"] {
        let answer = world.post("/api/json-rpc", &request(method, &saga).to_string()).await;
        assert_eq!(answer.parts(), (200, r#"{"error":null,"id":"1","jsonrpc":"2.0","result":null}"#));
    }
    world.settle().await;
    world.assert_saga(&gid, "succeed", "PSPS").await;
    let reply = call(&world, &request("submit", &saga)).await;
    assert_refused(&reply, -32901, "current status 'succeed', cannot sumbmit. FAILURE");
    let reply = call(&world, &request("prepare", &saga)).await;
    assert_refused(&reply, -32901, "current status 'succeed', cannot prepare. FAILURE");
    let reply = call(&world, &request("abort", &json!({ "gid": gid, "trans_type": "saga" }))).await;
    assert_refused(&reply, -32901, "trans type: 'saga' current status 'succeed', cannot abort. FAILURE");
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_for_the_result() {
    let world = World::new().await;
    world.participant.switch("TransIn", Answer::Failure("no"));
    let reply = call(&world, &request("submit", &world.transfer("g", json!({ "wait_result": true })))).await;
    assert_refused(&reply, -32901, &world.rollback_reason("g").await);
    world.participant.switch("TransIn", Answer::Error);
    let reply = call(&world, &request("submit", &world.transfer("h", json!({ "wait_result": true })))).await;
    assert_refused(&reply, -32901, "wait result not return success: FAILURE");
}

/// Deviation: the bad request itself is not repeated in the answer, which says instead what a good one has; and the
/// runtime error of an unknown `trans_type` has words.
#[tokio::test(start_paused = true)]
async fn msg_jrpc_abnormal() {
    let world = World::new().await;
    for body in ["", "{", r#"{"jsonrpc":"2.0","id":1,"method":"newGid"}"#, "[]", "\"newGid\""] {
        let answer = world.post("/api/json-rpc", body).await;
        let reply = answer.json();
        assert_eq!((answer.status, reply["error"]["code"].as_i64()), (400, Some(-32700)), "{body}");
        assert!(reply["error"]["message"].as_str().unwrap().starts_with("Parse json error: "), "{reply}");
        assert_eq!(reply["id"], "");
    }
    let bad = "Bad json request: id must be a string that is not empty, and jsonrpc \"2.0\"";
    for wrong in [json!({ "id": "" }), json!({ "id": null }), json!({ "jsonrpc": "1.0" }), json!({ "jsonrpc": null })] {
        let mut body = request("newGid", &Value::Null);
        body.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        assert_refused(&call(&world, &body).await, -32600, bad);
    }
    assert_refused(&call(&world, &request("newGidd", &json!({}))).await, -32601, "Method not found: newGidd");
    let reply = call(&world, &request("submit", &json!({ "gid": "g", "trans_type": "unknown" }))).await;
    assert_refused(&reply, -32603, "trans_type is \"unknown\": it must be \"saga\"");
    let reply = call(&world, &request("abort", &json!({ "gid": "nobody" }))).await;
    assert_refused(&reply, -32603, "no TransGlobal with gid: nobody found");
    let reply = call(&world, &request("registerBranch", &json!({ "gid": "g" }))).await;
    assert!(reply["error"]["message"].as_str().unwrap().contains("Wasaga runs sagas only"), "{reply}");
    assert_eq!(reply["error"]["code"], -32603);
}

/// Deviation: DTM compares a code with a number of another type, so that only the words in the body count there.
#[tokio::test(start_paused = true)]
async fn branches_by_json_rpc() {
    let world = World::new().await;
    let options = json!({
        "protocol": "json-rpc",
        "payloads": [r#"{"amount":30,"op":"mine"}"#, "", r#"{"amount":30}"#],
        "branch_headers": { "x-tenant": "t" },
    });
    let steps = [("pay?method=out&x=1", "pay?method=outRevert"), ("pay?method=in", ""), ("TransIn", "TransInRevert")];
    let saga = world.saga("g", &steps, options);
    world.participant.always("pay", 200, r#"{"jsonrpc":"2.0","id":"1","error":null,"result":1}"#);
    world.participant.switch("pay", Answer::Raw(200, r#"{"error":{"code":-32902,"message":"later"}}"#));
    world.participant.switch("pay", Answer::Raw(200, r#"{"error":{"code":-32603,"message":"trouble"}}"#));
    world.participant.switch("pay", Answer::Raw(200, "no JSON"));
    world.submit_and_settle(&saga).await;
    for _ in 0..3 {
        world.assert_saga("g", "submitted", "PPPPPP").await;
        world.next_retry("g").await;
    }
    world.assert_saga("g", "succeed", "PSPSPS").await;

    let calls = world.participant.calls();
    let body: Value = serde_json::from_str(&calls[0].body).unwrap();
    let params = json!({ "amount": 30, "gid": "g", "trans_type": "saga", "branch_id": "01", "op": "action" });
    let wanted = json!({ "jsonrpc": "2.0", "id": "g-01-action", "method": "out", "params": params });
    assert_eq!((body, calls[0].query.len(), calls[0].method.as_str()), (wanted, 2, "POST"));
    assert_eq!(calls[0].headers["content-type"], "application/json");
    assert_eq!(calls[0].headers["x-tenant"], "t");
    // Without a method it is an ordinary call.
    assert_eq!((calls[5].param("op"), calls[5].body.as_str()), ("action", r#"{"amount":30}"#));
}

#[tokio::test(start_paused = true)]
async fn a_branch_refuses_by_json_rpc() {
    let world = World::new().await;
    let refusal = r#"{"jsonrpc":"2.0","id":"1","error":{"code":-32901,"message":"no"}}"#;
    world.participant.always("pay", 200, refusal);
    let options = json!({ "protocol": "json-rpc", "retry_interval": 1000 });
    world.submit_and_settle(&world.saga("g", &[("pay?method=out", "")], options.clone())).await;
    world.assert_saga("g", "failed", "SF").await;
    assert!(world.rollback_reason("g").await.contains(r#""message":"no""#));

    // A payload that cannot be parameters: nothing is called, and the error says why.
    let mut saga = world.saga("h", &[("pay?method=out", "")], options);
    saga["payloads"] = json!(["[1]"]);
    world.submit_and_settle(&saga).await;
    let error = world.query("h").await["branches"][1]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("the payload is not a JSON object"), "{error}");
    assert_eq!(world.participant.count("pay"), 1);
}
