//! Fuzz targets: the bodies of DTM's HTTP API.

use serde_json::{Value, json};
use wasaga_fuzz::Target;

use super::{json_rpc, request};
use crate::{
    api::error::{Error, Rendered},
    causes,
    saga::{Definition, Gid, Timestamp},
};

const NOW: Timestamp = Timestamp(7);

/// What every refusal says is short, in one line, and free of the words of a debugger.
pub(in crate::api) fn assert_is_for_people(message: &str) {
    assert!(message.len() <= 1100, "{} bytes: {message}", message.len());
    assert!(!message.is_empty());
}

/// The request that describes a saga.
fn body_of(definition: &Definition) -> Vec<u8> {
    let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
    let options = definition.options();
    let headers: serde_json::Map<String, Value> =
        options.branch_headers.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    let steps: Vec<Value> = definition
        .steps()
        .iter()
        .map(|step| json!({ "action": step.action, "compensate": step.compensation }))
        .collect();
    let payloads: Vec<String> = definition.steps().iter().map(|step| text(&step.payload)).collect();
    let body = json!({
        "gid": definition.gid().as_str(), "trans_type": "saga", "steps": steps, "payloads": payloads,
        "custom_data": options.custom_data, "wait_result": options.wait_result, "timeout_to_fail": options.timeout_to_fail_s,
        "request_timeout": options.request_timeout_s, "retry_interval": options.retry_interval_s,
        "retry_limit": options.retry_limit, "branch_headers": headers, "concurrent": options.concurrent,
        "protocol": options.protocol, "query_prepared": options.query_prepared,
    });
    body.to_string().into_bytes()
}

fn check(body: &[u8]) {
    match request::decode(body, NOW) {
        Ok(definition) => {
            assert!(definition.steps().len() <= Definition::STEPS_MAX);
            assert!(definition.bytes() <= 2 * body.len() + 100, "a saga is hardly larger than its request");
            let gid = definition.gid().as_str();
            assert_eq!(Gid::new(gid).as_ref(), Ok(definition.gid()));
            assert_eq!(request::decode_gid(body).unwrap().replace(['\n', '\r', ';'], ""), gid);
            assert_eq!(request::decode(&body_of(&definition), NOW).unwrap(), definition);
        }
        Err(error) => {
            assert!(!causes::in_one_line(&error).is_empty());
            assert_is_for_people(&Rendered::from(Error::Request(error)).message);
        }
    }
    if let Err(error) = request::decode_gid(body) {
        assert_is_for_people(&Rendered::from(Error::Request(error)).message);
    }
}

#[test]
fn fuzz_requests() {
    Target::new("requests")
        .tokens([
            "\"gid\":",
            "\"trans_type\":\"saga\"",
            "\"steps\":[",
            "\"action\":\"\"",
            "\"compensate\":\"\"",
            "\"payloads\":[",
            "\"data\":",
            "\"custom_data\":\"",
            "\\\"orders\\\":{",
            "\\\"concurrent\\\":true",
            "\"branch_headers\":{",
            "\"wait_result\":",
            "\"timeout_to_fail\":",
            "\"retry_limit\":",
            "null",
            "true",
            "{",
            "}",
            "[",
            "]",
            ",",
            "\"",
            "\\u0000",
            "\\ud83d",
            "\\ude00",
            "\u{feff}",
            "\u{202e}",
            "1e400",
            "-0",
            "0.5",
            "18446744073709551616",
        ])
        .run(check);
}

#[test]
fn fuzz_json_rpc_requests() {
    Target::new("json-rpc-requests")
        .tokens([
            "\"jsonrpc\":\"2.0\"",
            "\"id\":",
            "\"method\":\"submit\"",
            "\"params\":",
            "null",
            "{",
            "}",
            "[",
            "]",
            "\\ud83d",
        ])
        .run(|body| match request::read::<json_rpc::RpcRequest<'_>>(body) {
            Ok(call) => {
                if let Some(params) = call.params {
                    check(params.get().as_bytes());
                }
            }
            Err(error) => assert_is_for_people(&Rendered::from(Error::Request(error)).message),
        });
}
