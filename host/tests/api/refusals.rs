//! Bad input: answered as documented, and nothing stored, nothing called.

use std::{convert::Infallible, time::Duration};

use axum::{body::Body, http::Request};
use futures_util::{StreamExt, stream};
use wasaga::{api::Limits, engine::Settings, store::Condition};
use wasaga_testkit::engine::{TestDisk, until};

use crate::host::{Host, TUTORIAL, saga};

/// A request, as body of `submit`; what it is answered, or how that begins.
const BAD_BODIES: &[(&[u8], &str)] = &[
    (b"", "the body cannot be read: EOF while parsing a value"),
    (b"saga", "the body cannot be read: expected value at line 1 column 1"),
    (b"null", "the body cannot be read: invalid type: null, expected a JSON object"),
    (b"[]", "the body cannot be read: invalid type: sequence, expected a JSON object"),
    (b"\"saga\"", "the body cannot be read: invalid type: string \"saga\", expected a JSON object"),
    (br#"{"gid":"g","trans_type":"saga""#, "the body cannot be read: EOF while parsing an object"),
    (br#"{"gid":"g","trans_type":"saga"} {}"#, "the body cannot be read: trailing characters"),
    (br"{'gid':'g'}", "the body cannot be read: key must be a string"),
    (b"{\"gid\":\"\xb0\xa1\"}", "the body is not UTF-8 from byte 8 on: send JSON in UTF-8"),
    (b"\xef\xbb\xbf{}", "trans_type is \"\": it must be \"saga\""),
    (br#"{"gid":"\ud800","trans_type":"saga"}"#, "the body cannot be read: gid: "),
    (br#"{"gid":"","trans_type":"saga"}"#, "gid is empty: choose one, or ask GET /api/dtmsvr/newGid for one"),
    (br#"{"gid":";\n","trans_type":"saga"}"#, "gid is empty"),
    (br#"{"trans_type":"saga"}"#, "gid is empty"),
    (br#"{"gid":7,"trans_type":"saga"}"#, "the body cannot be read: gid: invalid type: integer `7`, expected a string"),
    (br#"{"gid":"a\u0000b","trans_type":"saga"}"#, "gid holds a control or a text direction character: remove it"),
    (br#"{"gid":"g"}"#, "trans_type is \"\": it must be \"saga\""),
    (br#"{"gid":"g","trans_type":"sage"}"#, "trans_type is \"sage\": it must be \"saga\""),
    (br#"{"gid":"g","trans_type":"msg"}"#, "trans_type is \"msg\", but Wasaga runs sagas only"),
    (br#"{"gid":"g","trans_type":"workflow"}"#, "trans_type is \"workflow\", but Wasaga runs sagas only"),
];

/// Further fields of a saga that is good otherwise; what they are answered, or how that begins.
const BAD_FIELDS: &[(&str, &str)] = &[
    (r#""steps":{}"#, "the body cannot be read: steps: invalid type: map, expected an array"),
    (r#""steps":["http://a/try"],"payloads":[""]"#, "the body cannot be read: steps: element 0: invalid type: string"),
    (r#""steps":[{"action":1}],"payloads":[""]"#, "the body cannot be read: steps: element 0: action: invalid type"),
    (r#""steps":[{"x":{}}],"payloads":[""]"#, "the body cannot be read: steps: element 0: x: invalid type: map"),
    (r#""steps":[{"action":"http://a/try"}]"#, "step 0 (counted from 0) has no payload"),
    (r#""steps":[{},{}],"payloads":[""]"#, "step 1 (counted from 0) has no payload"),
    (r#""payloads":"x""#, "the body cannot be read: payloads: invalid type: string \"x\", expected an array"),
    (
        r#""payloads":[{"a":1},5]"#,
        "the body cannot be read: payloads: element 1: invalid type: number, expected a string",
    ),
    (r#""payloads":[true]"#, "the body cannot be read: payloads: element 0: invalid type: bool, expected a string"),
    (r#""custom_data":{}"#, "the body cannot be read: custom_data: invalid type: map, expected a string"),
    (r#""custom_data":"{""#, "custom_data cannot be read: write it like"),
    (r#""custom_data":"{\"orders\":{\"-1\":[0]}}""#, "custom_data cannot be read: write it like"),
    (
        r#""steps":[{}],"payloads":[""],"custom_data":"{\"orders\":{\"0\":[9]}}""#,
        "custom_data.orders of step 0 names step 9, but the saga has 1 steps (counted from 0)",
    ),
    (
        r#""steps":[{},{}],"payloads":["",""],"custom_data":"{\"concurrent\":true,\"orders\":{\"0\":[1],\"1\":[0]}}""#,
        "custom_data.orders is cyclic: step 0 (counted from 0) waits for itself, so it could never start",
    ),
    (
        r#""wait_result":"yes""#,
        "the body cannot be read: wait_result: invalid type: string \"yes\", expected a boolean",
    ),
    (r#""timeout_to_fail":-1"#, "the body cannot be read: timeout_to_fail: invalid value: integer `-1`"),
    (r#""request_timeout":0.5"#, "the body cannot be read: request_timeout: invalid type: floating point `0.5`"),
    (r#""retry_interval":"3""#, "the body cannot be read: retry_interval: invalid type: string \"3\""),
    (r#""retry_limit":9223372036854775808"#, "the body cannot be read: retry_limit: invalid value"),
    (r#""branch_headers":[1]"#, "the body cannot be read: branch_headers: invalid type: sequence"),
    (r#""branch_headers":{"a":1}"#, "the body cannot be read: branch_headers: a: invalid type: integer `1`"),
    (r#""concurrent":1"#, "the body cannot be read: concurrent: invalid type: integer `1`, expected a boolean"),
    (r#""protocol":[]"#, "the body cannot be read: protocol: invalid type: sequence, expected a string"),
    (
        r#""steps":[{"action":"http://a/try"},{"action":"wasm://nobody/try"}],"payloads":["",""]"#,
        "the action of step 1 (counted from 0) cannot be called: there is no plugin \"nobody\"",
    ),
];

async fn assert_untouched(host: &Host) {
    let all = host.get("/api/dtmsvr/all").await;
    assert_eq!(all.body, r#"{"next_position":"","transactions":[]}"#);
    assert_eq!(host.branches.calls(), [""; 0]);
}

#[tokio::test]
async fn bad_input_is_answered_and_nothing_is_stored() {
    let host = Host::start();
    let with_fields = BAD_FIELDS
        .iter()
        .map(|(fields, message)| (format!(r#"{{"gid":"g","trans_type":"saga",{fields}}}"#).into_bytes(), *message));
    let whole = BAD_BODIES.iter().map(|(body, message)| (body.to_vec(), *message));
    for (body, message) in whole.chain(with_fields) {
        for endpoint in ["submit", "prepare"] {
            let answer = host.post(endpoint, body.clone()).await;
            assert_eq!(answer.parts().0, 400, "{}: {}", body.escape_ascii(), answer.body);
            let json = answer.json();
            let said = json["message"].as_str().unwrap();
            assert!(said.starts_with(message), "{}: {said}", body.escape_ascii());
            assert_eq!(json.as_object().unwrap().len(), 1, "no dtm_result: this is no verdict");
        }
    }
    assert_untouched(&host).await;
    assert_eq!(host.submit(TUTORIAL).await.status.as_u16(), 200, "the host still serves");
}

/// Half of a surrogate pair is named, at a place that is in the body.
#[tokio::test]
async fn half_a_surrogate_pair_is_named_and_the_place_is_one_of_the_body() {
    let host = Host::start();
    let body = r#"{"gid":"g","trans_type":"saga","steps":[{}],"payloads":["{\"name\":\"\ud83d\"}"]}"#;
    let said = host.submit(body).await.json()["message"].as_str().unwrap().to_owned();
    let (words, column) = said.split_once(" at line 1 column ").unwrap();
    let expected =
        "the body cannot be read: payloads: element 0: half a surrogate pair (was the text cut within a character?)";
    assert_eq!(words, expected);
    let end = body.find("]}").unwrap();
    assert!((end - 1..=end + 1).contains(&column.parse().unwrap()), "{said}");
    assert_untouched(&host).await;
}

#[tokio::test]
async fn a_body_with_a_content_coding_is_refused_by_its_name() {
    let host = Host::start();
    for (coding, status) in [("gzip", 415), ("identity, br", 415), ("identity", 200), ("", 200)] {
        let request = Request::post("/api/dtmsvr/submit")
            .header("host", "127.0.0.1")
            .header("content-encoding", coding)
            .body(Body::from(TUTORIAL))
            .unwrap();
        let answer = host.send_whole(request).await;
        assert_eq!(answer.status.as_u16(), status, "{coding}: {}", answer.body);
        if status == 415 {
            let message = answer.json()["message"].as_str().unwrap().to_owned();
            assert!(
                message.contains("bodies must not be compressed")
                    && message.contains(coding.rsplit(' ').next().unwrap()),
                "{message}"
            );
        }
    }
}

#[tokio::test]
async fn a_message_quotes_no_more_than_it_must() {
    let host = Host::start();
    let long = "é".repeat(100_000);
    let answer = host.submit(format!(r#"{{"gid":"g","wait_result":"{long}"}}"#)).await;
    assert_eq!(answer.parts().0, 400);
    assert!(answer.body.len() < 1100 && answer.body.ends_with("…\"}"), "{}", answer.body.len());
}

#[tokio::test]
async fn bad_requests_about_sagas_have_dtms_words() {
    let host = Host::start();
    for (endpoint, message) in [
        ("query", "no gid specified"),
        ("query?gid=", "no gid specified"),
        ("all?limit=ten", "convert to int error: ten"),
        ("all?createTimeStart=1.5", "convert to int error: 1.5"),
        ("all?createTimeEnd=now", "convert to int error: now"),
    ] {
        let answer = host.get(&format!("/api/dtmsvr/{endpoint}")).await;
        assert_eq!(answer.parts(), (500, &*format!(r#"{{"message":"{message}"}}"#)), "{endpoint}");
    }
    assert_eq!(
        host.get("/api/dtmsvr/all?position=x").await.parts(),
        (
            400,
            r#"{"message":"position is \"x\": send the next_position of the previous page, or none for the first page"}"#
        )
    );
    for endpoint in ["abort", "forceStop", "resetNextCronTime"] {
        for (body, gid) in [(r#"{"gid":"nobody"}"#, "nobody"), ("{}", "")] {
            let answer = host.post(endpoint, body).await;
            let expected = format!(r#"{{"message":"no TransGlobal with gid: {gid} found"}}"#);
            assert_eq!(answer.parts(), (500, &*expected), "{endpoint}");
        }
        assert_eq!(host.post(endpoint, "gid=nobody").await.parts().0, 400, "{endpoint}");
    }
    assert_untouched(&host).await;
}

fn small_body() -> Limits {
    Limits { body_bytes_max: 300, ..Limits::default() }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_however_it_arrives() {
    let host = Host::start_with(Settings::default(), small_body());
    let refusal = r#"{"message":"the body has more than 300 bytes, the limit: send less, or raise the limit"}"#;
    let fitting = |gid: &str| format!("{:<300}", saga(gid, &[], ""));
    let pieces = |body: String, bytes: usize| {
        let pieces: Vec<_> = body.as_bytes().chunks(bytes).map(|piece| Ok::<_, Infallible>(piece.to_vec())).collect();
        Body::from_stream(stream::iter(pieces))
    };
    assert_eq!(host.submit(fitting("1")).await.parts().0, 200);
    assert_eq!(host.submit(pieces(fitting("2"), 7)).await.parts().0, 200);
    assert_eq!(host.submit(fitting("3") + " ").await.parts(), (413, refusal));
    assert_eq!(host.submit(pieces(fitting("3") + " ", 100)).await.parts(), (413, refusal));

    let endless = Body::from_stream(stream::repeat(Ok::<_, Infallible>(vec![b' '; 100])));
    assert_eq!(host.submit(endless).await.parts(), (413, refusal));
    assert!(host.query("3").await["transaction"].is_null());
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let limits = Limits { body_timeout: Duration::from_millis(20), ..Limits::default() };
    let host = Host::start_with(Settings::default(), limits);
    let stalled = stream::iter([Ok::<_, Infallible>("{")]).chain(stream::pending());
    assert_eq!(
        host.submit(Body::from_stream(stalled)).await.parts(),
        (408, r#"{"message":"the body did not arrive within 0 s: send it again, nothing was stored"}"#)
    );
    let broken = stream::iter([Ok("{"), Err("connection reset")]);
    assert_eq!(
        host.submit(Body::from_stream(broken)).await.parts(),
        (400, r#"{"message":"the body broke off: send it again, nothing was stored: connection reset"}"#)
    );
    assert_untouched(&host).await;
}

#[tokio::test]
async fn a_busy_host_says_when_to_come_back() {
    let host = Host::start_with(Settings { open_max: 1, ..Settings::default() }, Limits::default());
    host.submit(saga("1", &["http://a/hang"], "")).await;
    for endpoint in ["submit", "prepare"] {
        let answer = host.post(endpoint, saga("2", &["http://a/try"], "")).await;
        assert_eq!(answer.parts(), (503, r#"{"message":"the host is busy: try again in 1 s"}"#));
        assert_eq!(answer.headers["retry-after"], "1");
    }
    assert!(host.query("2").await["transaction"].is_null());
}

#[tokio::test]
async fn a_stopping_host_takes_nothing_on() {
    let host = Host::start();
    host.engine.stop(Duration::ZERO).await;
    let answer = host.submit(TUTORIAL).await;
    assert_eq!(answer.parts(), (503, r#"{"message":"the host is stopping: try again when it is back"}"#));
    assert_eq!(answer.headers["retry-after"], "1");
    assert_untouched(&host).await;
}

#[tokio::test]
async fn a_host_whose_disk_is_nearly_full_takes_no_new_saga_and_answers_reads() {
    let disk = TestDisk::default();
    let host = Host::start_on_disk(&disk);
    host.submit(saga("old", &["http://a/try"], ",\"wait_result\":true")).await;
    disk.leave(Some(5000));
    until(async || matches!(host.engine.store_condition(), Condition::Short(_)).then_some(())).await;
    for endpoint in ["submit", "prepare"] {
        let answer = host.post(endpoint, saga("new", &["http://a/try"], "")).await;
        let (status, body) = answer.parts();
        let begins = r#"{"message":"no new saga is taken on: 5000 bytes are left on the disk, and "#;
        assert!(status == 503 && body.starts_with(begins), "{status} {body}");
        assert_eq!(answer.headers["retry-after"], "30");
    }
    assert!(host.query("new").await["transaction"].is_null());
    assert_eq!(host.query("old").await["transaction"]["status"], "succeed");
}

#[tokio::test]
async fn a_host_whose_store_has_failed_takes_nothing_on() {
    let disk = TestDisk::default();
    let host = Host::start_on_disk(&disk);
    host.submit(saga("old", &["http://a/hang"], "")).await;
    disk.fail_handles();
    host.engine.store_failed().await;
    for fields in ["", ",\"wait_result\":true"] {
        let answer = host.submit(saga("new", &["http://a/try"], fields)).await;
        let expected = r#"{"message":"the host is stopping, as its store has failed: try again when it is back"}"#;
        assert_eq!(answer.parts(), (503, expected));
        assert_eq!(answer.headers["retry-after"], "1");
    }
}
