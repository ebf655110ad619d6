//! Requests that describe no saga: each is answered with its reason, none leaves anything behind, and the server goes
//! on serving.

use serde_json::{Value, json};

use crate::world::World;

/// What stands in the way of a decent saga, and the words that must be in the answer.
struct Bad {
    body: Vec<u8>,
    status: u16,
    words: &'static str,
}

fn raw(body: impl AsRef<[u8]>, words: &'static str) -> Bad {
    Bad { body: body.as_ref().to_vec(), status: 400, words }
}

/// A decent saga with this field instead of its own.
fn field(name: &str, value: &str, words: &'static str) -> Bad {
    let mut fields = vec![
        ("gid", r#""g""#),
        ("trans_type", r#""saga""#),
        ("steps", r#"[{"action":"http://a/try","compensate":"http://a/cancel"}]"#),
        ("payloads", r#"["{}"]"#),
    ];
    fields.retain(|(known, _)| *known != name);
    fields.push((name, value));
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    raw(format!("{{{}}}", fields.join(",")), words)
}

/// The same for the text of `custom_data`.
fn custom(data: &str, words: &'static str) -> Bad {
    field("custom_data", &json!(data).to_string(), words)
}

fn step(action: &str, words: &'static str) -> Bad {
    field("steps", &json!([{ "action": action, "compensate": "" }]).to_string(), words)
}

fn no_json() -> Vec<Bad> {
    let deep = |bytes: &str| bytes.repeat(100_000);
    vec![
        raw("", "the body cannot be read: EOF"),
        raw(" \n", "EOF"),
        raw("{", "EOF"),
        raw("null", "expected a JSON object"),
        raw("7", "expected a JSON object"),
        raw("[]", "expected a JSON object"),
        raw(r#""saga""#, "expected a JSON object"),
        raw("gid=g&trans_type=saga", "expected"),
        raw(r#"{"gid":"g""#, "EOF"),
        raw(r#"{"gid":"g",}"#, "trailing comma"),
        raw(r#"{"gid":"g"} x"#, "trailing characters"),
        raw(r"{'gid':'g'}", "key must be a string"),
        raw(b"\xef\xbb\xbf[]", "expected a JSON object"),
        raw(b"{\"gid\":\"\xff\"}", "not UTF-8 from byte 8 on"),
        raw("{\"gid\":\"g\"}".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>(), "key must be a string"),
        raw("{\"gid\":\"a\nb\"}", "control character"),
        raw([0; 64], "expected value"),
        raw(deep("["), "expected a JSON object"),
        raw(deep(r#"{"a":"#), "EOF"),
        raw(format!(r#"{{"steps":{}"#, deep("[")), "steps: element 0: invalid type: sequence"),
    ]
}

fn identity() -> Vec<Bad> {
    vec![
        field("gid", "7", "gid: invalid type: integer `7`, expected a string"),
        field("gid", r#"{"a":1}"#, "gid: invalid type: map, expected a string"),
        field("gid", "null", "gid is empty"),
        field("gid", r#""""#, "gid is empty"),
        field("gid", r#"";\n;""#, "gid is empty"),
        field("gid", r#""a\u0000b""#, "gid holds a control or a text direction character"),
        field("gid", r#""\ud800""#, "gid: half a surrogate pair (was the text cut within a character?)"),
        field("gid", &json!("x".repeat(129)).to_string(), "gid has 129 characters, the limit is 128"),
        field("trans_type", "null", "trans_type is \"\": it must be \"saga\""),
        field("trans_type", "true", "trans_type: invalid type: boolean"),
        field("trans_type", r#""SAGA""#, "it must be \"saga\""),
        field("trans_type", r#""msg""#, "Wasaga runs sagas only"),
        field("trans_type", r#""tcc""#, "Wasaga runs sagas only"),
        field("trans_type", r#""xa""#, "Wasaga runs sagas only"),
        field("trans_type", r#""workflow""#, "Wasaga runs sagas only"),
    ]
}

fn steps_and_payloads() -> Vec<Bad> {
    let many = vec![json!({}); 1001];
    vec![
        field("steps", "7", "steps: invalid type: integer `7`, expected an array"),
        field("steps", r#"{"action":"http://a"}"#, "steps: invalid type: map, expected an array"),
        field("steps", r#"["http://a"]"#, "element 0: invalid type: string"),
        field("steps", r#"[{"action":7}]"#, "action: invalid type: integer `7`, expected a string"),
        field("steps", r#"[{"compensate":["http://a"]}]"#, "compensate: invalid type: sequence, expected a string"),
        field("steps", r#"[{"unknown":7}]"#, "unknown: invalid type: integer `7`, expected a string"),
        field("steps", &json!(many).to_string(), "the saga has 1001 steps, the limit is 1000"),
        step("service-a", "does not start with http:// or https://"),
        step("ftp://a/try", "does not start with http:// or https://"),
        step("http://", "names no host"),
        step("http:///try", "names no host"),
        step("http://a:99999/try", "malformed"),
        step("http://a/\ntry", "control character"),
        step(&format!("http://a/{}", "x".repeat(8000)), "the limit is 8000"),
        field("payloads", "null", "step 0 (counted from 0) has no payload"),
        field("payloads", "[]", "step 0 (counted from 0) has no payload"),
        field("payloads", r#""{}""#, "payloads: invalid type: string"),
        field("payloads", r#"{"0":"{}"}"#, "payloads: invalid type: map"),
        field("payloads", "[7]", "payloads: element 0: invalid type: number"),
        field("payloads", "[true]", "payloads: element 0: invalid type: bool"),
        field("payloads", r#"["\x"]"#, "invalid escape"),
        field("payloads", &json!(["x".repeat((1 << 20) + 1)]).to_string(), "the limit is 1048576"),
    ]
}

fn options() -> Vec<Bad> {
    let headers = |count: usize| {
        let all: Vec<_> = (0..count).map(|number| format!("\"h{number}\":\"\"")).collect();
        format!("{{{}}}", all.join(","))
    };
    let mut bad = vec![
        field("wait_result", "1", "wait_result: invalid type: integer `1`, expected a boolean"),
        field("wait_result", r#""true""#, "wait_result: invalid type: string"),
        field("concurrent", r#""true""#, "concurrent: invalid type: string"),
        field("protocol", "7", "protocol: invalid type: integer"),
        field("query_prepared", "[]", "query_prepared: invalid type: sequence"),
        field("branch_headers", "[1]", "branch_headers: invalid type: sequence, expected an object of strings"),
        field("branch_headers", r#"{"a":7}"#, "branch_headers: a: invalid type: integer"),
        field("branch_headers", r#"{"a b":"c"}"#, "\"a b\" cannot be the name of a header"),
        field("branch_headers", r#"{"":"c"}"#, "\"\" cannot be the name of a header"),
        field("branch_headers", r#"{"a":"b\r\nc: d"}"#, "the value of a holds a line break"),
        field("branch_headers", &headers(65), "branch_headers: the limit is 64 headers"),
        field("branch_headers", &json!({ "a": "x".repeat(8192) }).to_string(), "the limit is 8192"),
        field("custom_data", r#"{"concurrent":true}"#, "custom_data: invalid type: map, expected a string"),
        custom("{", "custom_data cannot be read"),
        custom("[1]", "custom_data cannot be read"),
        custom(r#"{"concurrent":1}"#, "concurrent: invalid type: integer `1`, expected a boolean"),
        custom(r#"{"orders":[[0]]}"#, "orders: invalid type: sequence"),
        custom(r#"{"orders":{"first":[0]}}"#, "\"first\" is not the number of a step"),
        custom(r#"{"orders":{"0":[-1]}}"#, "orders: 0: invalid value: integer `-1`"),
        custom(r#"{"orders":{"0":[7]}}"#, "names step 7, but the saga has 1 steps"),
        custom(r#"{"orders":{"7":[0]}}"#, "names step 7, but the saga has 1 steps"),
        custom(r#"{"orders":{"0":[0]}}"#, "custom_data.orders is cyclic"),
        custom(&"[".repeat(60_000), "custom_data cannot be read"),
        custom(&" ".repeat(65_537), "custom_data has 65537 bytes, the limit is 65536"),
        custom(r#"{"any_2xx_succeeds":"yes"}"#, "any_2xx_succeeds: invalid type: string"),
        custom(r#"{"rejects_5xx_after":-1}"#, "rejects_5xx_after: invalid value: integer `-1`"),
    ];
    for number in ["timeout_to_fail", "request_timeout", "retry_interval", "retry_limit"] {
        for (value, words) in [
            ("-1", "invalid value: integer `-1`, expected a whole number, 0 or more"),
            ("1.5", "expected a whole number, 0 or more"),
            (r#""5""#, "expected a whole number, 0 or more"),
            ("9223372036854775808", "expected a number below 2^63"),
            ("1e400", "number out of range"),
        ] {
            bad.push(field(number, value, words));
        }
    }
    bad
}

fn sizes() -> Vec<Bad> {
    let too_large = field("unknown", &json!("x".repeat(4 << 20)).to_string(), "more than 4194304 bytes, the limit");
    vec![Bad { status: 413, ..too_large }]
}

#[tokio::test(start_paused = true)]
async fn what_describes_no_saga_is_refused_with_its_reason_and_leaves_nothing() {
    let world = World::new().await;
    let table: Vec<_> =
        [no_json(), identity(), steps_and_payloads(), options(), sizes()].into_iter().flatten().collect();
    assert!(table.len() >= 100, "{}", table.len());
    for path in ["/api/dtmsvr/submit", "/api/dtmsvr/prepare"] {
        for (row, bad) in table.iter().enumerate() {
            let answer = world.call("POST", path, bad.body.clone(), "application/json").await;
            let start = String::from_utf8_lossy(&bad.body[..bad.body.len().min(200)]).into_owned();
            assert_eq!(answer.status, bad.status, "row {row}: {start}\n{answer:?}");
            let Value::Object(body) = answer.json() else { panic!("{answer:?}") };
            assert_eq!(body.len(), 1, "a refusal without a verdict: {answer:?}");
            let message = body["message"].as_str().unwrap();
            assert!(message.contains(bad.words), "row {row}: {start}\n{message}\nlacks {:?}", bad.words);
            assert!(message.len() < 1100, "a long request has a long answer: {}", message.len());
        }
    }
    assert_eq!(world.host.store.commits(), 0, "something was stored");
    assert_eq!(world.get("/api/dtmsvr/all").await.body, r#"{"next_position":"","transactions":[]}"#);
    assert_eq!(world.host.engine.counts(), wasaga::engine::Counts::default());
    assert!(world.participant.calls().is_empty());
    world.submit_and_settle(&world.transfer("g", json!({}))).await;
    world.assert_saga("g", "succeed", "PSPS").await;
}

/// The other endpoints that read a body, and the parameters of those that read none.
#[tokio::test(start_paused = true)]
async fn so_is_whatever_names_no_saga() {
    let world = World::new().await;
    for path in ["abort", "forceStop", "resetNextCronTime"] {
        for (body, status, words) in [
            ("", 400, "EOF"),
            (r#"{"gid":7}"#, 400, "gid: invalid type"),
            ("{}", 500, "no TransGlobal with gid:  found"),
            (r#"{"gid":"nobody"}"#, 500, "no TransGlobal with gid: nobody found"),
        ] {
            let answer = world.post(&format!("/api/dtmsvr/{path}"), body).await;
            assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
            assert!(answer.json()["message"].as_str().unwrap().contains(words), "{path} {body}: {answer:?}");
        }
    }
    for (path, status) in [
        ("query", 500),
        ("all?limit=ten", 500),
        ("all?createTimeStart=now", 500),
        ("all?createTimeEnd=1.5", 500),
        ("all?position=x", 400),
        ("resetCronTime?limit=x", 500),
        ("resetCronTime?timeout=1.5", 500),
    ] {
        let answer = world.get(&format!("/api/dtmsvr/{path}")).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(answer.json()["message"].is_string());
    }
    world.submit_and_settle(&world.transfer("g", json!({}))).await;
    world.assert_saga("g", "succeed", "PSPS").await;
}
