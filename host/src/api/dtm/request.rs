//! Decodes the body of `submit` and `prepare` (DTM's `TransGlobal`) into a [`Definition`].
//!
//! Lenient where DTM's clients need it ([`lenient`](super::lenient)); in addition, a payload may be a JSON object or array
//! instead of a string that holds one. A saga that could never work is refused, where DTM fails by accident, or keeps the
//! saga and never finishes it. Fields that only the server sets (`id`, `status`, `owner`, `retry_count`, ...) are ignored.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Unexpected},
};
use serde_json::value::RawValue;

use super::{
    lenient::{Entries, Fields, Items, Object, Text, Unreadable, Whole, deserialize_entries, set, within, words},
    order,
};
use crate::{
    hidden::Placeholder,
    saga::{Definition, Gid, Invalid, Options, Step, Timestamp},
};

/// Largest payload of one step, in bytes. It is in memory while its saga runs, and copied into every call.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Most bytes of all branch headers of one saga, names and values. Common servers refuse 8 KiB and more.
pub const HEADERS_BYTES_MAX: usize = 8 << 10;

/// Longest `custom_data`, in bytes. DTM's column ends at 1024; a thousand steps with orders need more.
pub const CUSTOM_DATA_BYTES_MAX: usize = 64 << 10;

/// DTM's other transaction modes, which Wasaga refuses.
const OTHER_MODES: [&str; 4] = ["msg", "tcc", "xa", "workflow"];

/// Longest quote of a request in an error, in characters.
pub(super) const EXCERPT_CHARS_MAX: usize = 40;

/// Why a body is refused. Nothing has been stored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// JSON is UTF-8. Guessing another encoding could damage payloads.
    #[error("the body is not UTF-8 from byte {at} on: send JSON in UTF-8")]
    Encoding {
        /// Offset of the first byte that is not UTF-8.
        at: usize,
    },
    /// Not JSON, or a field has the wrong type.
    #[error("the body cannot be read")]
    Json(#[source] Unreadable),
    #[error("trans_type is {mode:?}, but Wasaga runs sagas only: send that to DTM, or write it as a \"saga\"")]
    OtherMode { mode: &'static str },
    #[error("trans_type is {given:?}: it must be \"saga\"")]
    UnknownMode { given: String },
    #[error("step {step} (counted from 0) has no payload: send one payload a step, \"\" for none")]
    PayloadMissing { step: usize },
    #[error("the payload of step {step} (counted from 0) has {bytes} bytes, the limit is {PAYLOAD_BYTES_MAX}")]
    PayloadTooLarge { step: usize, bytes: usize },
    #[error("branch_headers have {bytes} bytes, the limit is {HEADERS_BYTES_MAX}")]
    HeadersTooLarge { bytes: usize },
    #[error("custom_data has {bytes} bytes, the limit is {CUSTOM_DATA_BYTES_MAX}")]
    CustomDataTooLarge { bytes: usize },
    #[error(
        "custom_data cannot be read: write it like \"{{\\\"concurrent\\\":true,\\\"orders\\\":{{\\\"1\\\":[0]}}}}\""
    )]
    CustomData(#[source] Unreadable),
    /// The saga was copied from an answer that hides its secrets.
    #[error(transparent)]
    Placeholder(#[from] Placeholder),
    /// The fields are well-formed, but the saga is not valid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// Decodes the body of `submit` or `prepare`. `now` becomes the saga's time of creation.
pub fn decode(body: &[u8], now: Timestamp) -> Result<Definition, Error> {
    decode_or_name(body, now, String::new)
}

/// As [`decode`], for a saga that will not be stored: a missing gid is replaced by that of `name`.
pub fn decode_or_name(body: &[u8], now: Timestamp, name: impl FnOnce() -> String) -> Result<Definition, Error> {
    let Submission { gid, trans_type, steps, payloads, options } = read(body)?;
    let gid = if gid.is_empty() { name().into() } else { gid };
    define(&gid, &trans_type, steps, payloads.kept, options, now)
}

/// Decodes the steps of a gRPC request, which are a JSON array in a string.
pub fn decode_steps(text: &str) -> Result<Steps, Error> {
    let steps: Option<Steps> = serde_json::from_str(text).map_err(unreadable)?;
    Ok(steps.unwrap_or_default())
}

/// Checks the parts of a decoded request and makes them a definition.
pub fn define(
    gid: &str,
    trans_type: &str,
    steps: Steps,
    payloads: Vec<Payload>,
    mut options: Options,
    now: Timestamp,
) -> Result<Definition, Error> {
    check_mode(trans_type)?;
    let gid = Gid::new(gid)?;
    if steps.count > Definition::STEPS_MAX {
        return Err(Invalid::TooManySteps { steps: steps.count }.into());
    }
    let mut steps: Vec<Step> = steps.kept.into_iter().map(|StepText(step)| step).collect();
    assign_payloads(&mut steps, payloads)?;
    check_headers(&options.branch_headers)?;
    if options.custom_data.len() > CUSTOM_DATA_BYTES_MAX {
        return Err(Error::CustomDataTooLarge { bytes: options.custom_data.len() });
    }
    let (order, results) = order::decode(&options.custom_data).map_err(|error| Error::CustomData(error.into()))?;
    options.results = results;
    Ok(Definition::new(gid, steps, order, options, now)?)
}

/// Decodes only the gid of a request about an existing saga; empty if there is none.
pub fn decode_gid(body: &[u8]) -> Result<Cow<'_, str>, Error> {
    #[derive(Default)]
    struct GidField<'a>(Cow<'a, str>);

    impl<'de> Fields<'de> for GidField<'de> {
        const NAMES: &'static [&'static str] = &["gid"];

        fn read<A: MapAccess<'de>>(&mut self, _: &'static str, map: &mut A) -> Result<(), A::Error> {
            set::<Text<'_>, _>(&mut self.0, map)
        }
    }

    let GidField(gid) = read(body)?;
    Ok(gid)
}

/// Decodes a JSON object. Skips a byte order mark, as RFC 8259 (8.1) allows: editors and clients of Windows write it.
pub(super) fn read<'a, T: Fields<'a>>(body: &'a [u8]) -> Result<T, Error> {
    let text = str::from_utf8(body).map_err(|error| Error::Encoding { at: error.valid_up_to() })?;
    let Object(fields) = serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(text)).map_err(unreadable)?;
    Ok(fields)
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::Json(error.into())
}

fn check_mode(trans_type: &str) -> Result<(), Error> {
    if trans_type == "saga" {
        return Ok(());
    }
    Err(match OTHER_MODES.into_iter().find(|mode| *mode == trans_type) {
        Some(mode) => Error::OtherMode { mode },
        None => Error::UnknownMode { given: trans_type.chars().take(EXCERPT_CHARS_MAX).collect() },
    })
}

/// Gives step i payload i. `payloads` is continued by the `data` of the steps that have any, which is DTM's older form of
/// a payload.
fn assign_payloads(steps: &mut [Step], mut payloads: Vec<Payload>) -> Result<(), Error> {
    let data = steps.iter_mut().map(|step| std::mem::take(&mut step.payload));
    payloads.extend(data.filter(|data| !data.is_empty()).map(Payload));
    if payloads.len() < steps.len() {
        return Err(Error::PayloadMissing { step: payloads.len() });
    }
    for (index, (step, Payload(payload))) in steps.iter_mut().zip(payloads).enumerate() {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Error::PayloadTooLarge { step: index, bytes: payload.len() });
        }
        step.payload = payload;
    }
    Ok(())
}

fn check_headers(headers: &[(String, String)]) -> Result<(), Error> {
    match headers.iter().map(|(name, value)| name.len() + value.len()).sum() {
        bytes if bytes > HEADERS_BYTES_MAX => Err(Error::HeadersTooLarge { bytes }),
        _ => Ok(()),
    }
}

#[derive(Default)]
struct Submission<'a> {
    gid: Cow<'a, str>,
    trans_type: Cow<'a, str>,
    /// A step's payload is its `data`, the older form.
    steps: Steps,
    /// More payloads than steps are ignored.
    payloads: Items<Payload, { Definition::STEPS_MAX }>,
    options: Options,
}

impl<'de> Fields<'de> for Submission<'de> {
    const NAMES: &'static [&'static str] = &[
        "gid",
        "trans_type",
        "steps",
        "payloads",
        "custom_data",
        "wait_result",
        "timeout_to_fail",
        "request_timeout",
        "retry_interval",
        "retry_limit",
        "branch_headers",
        "concurrent",
        "protocol",
        "query_prepared",
    ];

    fn read<A: MapAccess<'de>>(&mut self, name: &'static str, map: &mut A) -> Result<(), A::Error> {
        let options = &mut self.options;
        match name {
            "gid" => set::<Text<'_>, _>(&mut self.gid, map),
            "trans_type" => set::<Text<'_>, _>(&mut self.trans_type, map),
            "steps" => set::<Items<_, _>, _>(&mut self.steps, map),
            "payloads" => set::<Items<_, _>, _>(&mut self.payloads, map),
            "custom_data" => set::<Text<'_>, _>(&mut options.custom_data, map),
            "wait_result" => set::<bool, _>(&mut options.wait_result, map),
            "timeout_to_fail" => set::<Whole, _>(&mut options.timeout_to_fail_s, map),
            "request_timeout" => set::<Whole, _>(&mut options.request_timeout_s, map),
            "retry_interval" => set::<Whole, _>(&mut options.retry_interval_s, map),
            "retry_limit" => set::<Whole, _>(&mut options.retry_limit, map),
            "branch_headers" => set::<Headers, _>(&mut options.branch_headers, map),
            "concurrent" => set::<bool, _>(&mut options.concurrent, map),
            "protocol" => set::<Text<'_>, _>(&mut options.protocol, map),
            _ => set::<Text<'_>, _>(&mut options.query_prepared, map),
        }
    }
}

/// The steps of a request, up to the limit.
pub type Steps = Items<StepText, { Definition::STEPS_MAX }>;

/// A step. In DTM it is a map of strings, so the case of keys counts, and the values of unknown keys must be strings too.
pub struct StepText(Step);

impl Default for StepText {
    fn default() -> Self {
        Self(Step { action: String::new(), compensation: String::new(), payload: Bytes::new() })
    }
}

impl<'de> Entries<'de> for StepText {
    const EXPECTED: &'static str = "an object with \"action\" and \"compensate\"";

    fn read<A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut step = Self::default();
        while let Some((key, value)) = next_text(&mut map)? {
            match &*key {
                "action" => step.0.action = value.into_owned(),
                "compensate" => step.0.compensation = value.into_owned(),
                "data" => step.0.payload = value.into_owned().into(),
                _ => {}
            }
        }
        Ok(step)
    }
}

impl<'de> Deserialize<'de> for StepText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_entries(deserializer)
    }
}

/// `branch_headers`, by name.
struct Headers(BTreeMap<String, String>);

impl From<Headers> for Vec<(String, String)> {
    fn from(headers: Headers) -> Self {
        headers.0.into_iter().collect()
    }
}

impl<'de> Entries<'de> for Headers {
    const EXPECTED: &'static str = "an object of strings";
    const EMPTY: Option<fn() -> Self> = Some(|| Self(BTreeMap::new()));

    fn read<A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut headers = BTreeMap::new();
        while let Some((name, value)) = next_text(&mut map)? {
            headers.insert(name.into_owned(), value.into_owned());
            let limit = Definition::BRANCH_HEADERS_MAX;
            if headers.len() > limit {
                return Err(de::Error::custom(format_args!("the limit is {limit} headers")));
            }
        }
        Ok(Self(headers))
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_entries(deserializer)
    }
}

type Entry<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The next entry of a map of strings. `null` means the empty string.
fn next_text<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<Entry<'de>>, A::Error> {
    let Some(Text(key)) = map.next_key()? else { return Ok(None) };
    let value = map.next_value::<Option<Text<'de>>>().map_err(within(&key))?;
    Ok(Some((key, value.unwrap_or_default().0)))
}

/// A payload: the content of a string, or the unchanged text of an object or array.
#[derive(Default)]
pub struct Payload(pub Bytes);

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use de::Error as _;
        let json = <&RawValue>::deserialize(deserializer)?.get();
        let other = match json.as_bytes().first() {
            Some(b'"') => {
                return serde_json::from_str(json)
                    .map(|text: String| Self(text.into()))
                    .map_err(|error| D::Error::custom(words(&error)));
            }
            Some(b'{' | b'[') => return Ok(Self(json.to_owned().into())),
            Some(b't' | b'f') => "bool",
            _ => "number",
        };
        Err(D::Error::invalid_type(Unexpected::Other(other), &"a string, or a JSON object or array"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::{BranchOp, Op, Order, Results};

    const NOW: Timestamp = Timestamp(7);

    fn step(action: &str, compensation: &str, payload: &str) -> Step {
        Step { action: action.into(), compensation: compensation.into(), payload: payload.to_owned().into() }
    }

    fn defined(gid: &str, steps: Vec<Step>, order: Order, options: Options) -> Definition {
        Definition::new(Gid::new(gid).unwrap(), steps, order, options, NOW).unwrap()
    }

    fn decoded(body: &str) -> Definition {
        decode(body.as_bytes(), NOW).unwrap_or_else(|error| panic!("{error:?}: {body}"))
    }

    /// The message of the error; for JSON errors that of the decoder, without line and column.
    fn refused(body: &str) -> String {
        match decode(body.as_bytes(), NOW).unwrap_err() {
            Error::Json(source) => format!("JSON: {}", source.to_string().split(" at line ").next().unwrap()),
            error => error.to_string(),
        }
    }

    /// A saga with these further fields.
    fn saga_with(fields: &str) -> String {
        format!(r#"{{"gid":"g","trans_type":"saga",{fields}}}"#)
    }

    #[test]
    fn the_tutorials_request() {
        let body = r#"{"gid":"saga-golang-demo-001","trans_type":"saga","steps":[{"action":"http://service-a:8081/try","compensate":"http://service-a:8081/cancel"},{"action":"http://service-b:8082/try","compensate":"http://service-b:8082/cancel"}],"payloads":[{"amount":100},{"amount":600}]}"#;
        let steps = vec![
            step("http://service-a:8081/try", "http://service-a:8081/cancel", r#"{"amount":100}"#),
            step("http://service-b:8082/try", "http://service-b:8082/cancel", r#"{"amount":600}"#),
        ];
        assert_eq!(decoded(body), defined("saga-golang-demo-001", steps, Order::default(), Options::default()));
    }

    #[test]
    fn what_the_go_client_sends() {
        let body = r#"{"gid":"g","trans_type":"saga","custom_data":"{\"concurrent\":true,\"orders\":{\"1\":[0]}}","wait_result":true,"timeout_to_fail":30,"request_timeout":5,"retry_interval":7,"branch_headers":{"test_header":"test","a":"b"},"concurrent":true,"retry_limit":3,"steps":[{"action":"A1","compensate":"C1"},{"action":"A2","compensate":"C2"}],"payloads":["{\"amount\":30}","{\"amount\":30}"],"protocol":""}"#;
        let steps = vec![step("A1", "C1", r#"{"amount":30}"#), step("A2", "C2", r#"{"amount":30}"#)];
        let order = Order { concurrent: true, after: [(1, vec![0])].into() };
        let options = Options {
            wait_result: true,
            timeout_to_fail_s: 30,
            request_timeout_s: 5,
            retry_interval_s: 7,
            retry_limit: 3,
            branch_headers: vec![("a".into(), "b".into()), ("test_header".into(), "test".into())],
            concurrent: true,
            protocol: String::new(),
            custom_data: r#"{"concurrent":true,"orders":{"1":[0]}}"#.into(),
            query_prepared: String::new(),
            results: Results::default(),
        };
        assert_eq!(decoded(body), defined("g", steps, order, options));
    }

    #[test]
    fn what_the_python_client_sends() {
        let body = r#"{"gid":"G1","trans_type":"saga","custom_data":null,"steps":[{"action":"A","compensate":"C"}],"payloads":["{\"amount\": 30}"],"query_prepared":null,"protocol":null,"wait_result":false,"timeout_to_fail":0,"request_timeout":8,"retry_interval":0,"passthrough_headers":[],"branch_headers":{},"concurrent":false}"#;
        let options = Options { request_timeout_s: 8, ..Options::default() };
        let steps = vec![step("A", "C", r#"{"amount": 30}"#)];
        assert_eq!(decoded(body), defined("G1", steps, Order::default(), options));
    }

    #[test]
    fn null_unknown_duplicate_and_oddly_cased_keys_do_no_harm() {
        let plain = decoded(&saga_with(r#""steps":[{"action":"A"}],"payloads":["p"],"retry_limit":2"#));
        let nulls = r#""wait_result":null,"timeout_to_fail":null,"branch_headers":null,"query_prepared":null"#;
        let others = r#""id":"x","owner":5,"status":[],"result":{},"retry_count":-1,"subType":"a","subType":"b""#;
        for fields in [
            format!(r#""steps":[{{"action":"A"}}],"payloads":["p"],"retry_limit":2,{nulls}"#),
            format!(r#"{others},"steps":[{{"action":"A"}}],"payloads":["p"],"retry_limit":2"#),
            r#""STEPS":[{"action":"A"}],"Payloads":["p"],"retry_LIMIT":2"#.to_owned(),
            r#""steps":[],"steps":[{"action":"B","action":"A"}],"payloads":["p"],"retry_limit":9,"retry_limit":2"#
                .to_owned(),
            r#""steps":[{"action":"A","compensate":null,"note":"x"}],"payloads":["p","extra"],"retry_limit":2"#
                .to_owned(),
            r#""steps":[{"action":"\u0041"}],"payloads":["\u0070"],"retry_limit":2,"retry_limit":null"#.to_owned(),
        ] {
            assert_eq!(decoded(&saga_with(&fields)), plain, "{fields}");
        }
    }

    #[test]
    fn payloads_are_kept_byte_for_byte() {
        let body =
            saga_with(r#""steps":[{},{},{},{}],"payloads":["a\"\u00e9\n", { "b" : [1.0, 1e2 ] },["\u0041"] ,null]"#);
        let payloads: Vec<_> = decoded(&body).steps().iter().map(|step| step.payload.clone()).collect();
        assert_eq!(payloads, ["a\"é\n", r#"{ "b" : [1.0, 1e2 ] }"#, r#"["\u0041"]"#, ""]);
    }

    #[test]
    fn data_in_steps_continues_the_payloads() {
        let old = saga_with(r#""steps":[{"action":"A","data":"1"},{"action":"B","data":"2"}]"#);
        let payloads: Vec<_> = decoded(&old).steps().iter().map(|step| step.payload.clone()).collect();
        assert_eq!(payloads, ["1", "2"]);
        let mixed = saga_with(r#""steps":[{"data":""},{"data":"2"}],"payloads":["1"]"#);
        let payloads: Vec<_> = decoded(&mixed).steps().iter().map(|step| step.payload.clone()).collect();
        assert_eq!(payloads, ["1", "2"]);
    }

    #[test]
    fn steps_may_be_absent() {
        for fields in [r#""steps":[]"#, r#""steps":null,"payloads":[]"#, r#""payloads":["unused"]"#] {
            assert_eq!(decoded(&saga_with(fields)).steps(), []);
        }
        let definition = decoded(&saga_with(r#""steps":[null],"payloads":[""]"#));
        assert_eq!(definition.target(BranchOp { step: 0, op: Op::Action }), "");
    }

    #[test]
    fn refusals_say_what_where_and_what_would_do() {
        for (fields, message) in [
            (r#""steps":[{}]"#, "step 0 (counted from 0) has no payload: send one payload a step, \"\" for none"),
            (
                r#""steps":[{}],"payloads":[7]"#,
                "JSON: payloads: element 0: invalid type: number, expected a string, or a JSON object or array",
            ),
            (
                r#""steps":[{},{"action":5}]"#,
                "JSON: steps: element 1: action: invalid type: integer `5`, expected a string",
            ),
            (
                r#""steps":["A"]"#,
                "JSON: steps: element 0: invalid type: string \"A\", expected an object with \"action\" and \
                 \"compensate\"",
            ),
            (
                r#""timeout_to_fail":-1"#,
                "JSON: timeout_to_fail: invalid value: integer `-1`, expected a whole number, 0 or more",
            ),
            (
                r#""retry_limit":1.5"#,
                "JSON: retry_limit: invalid type: floating point `1.5`, expected a whole number, 0 or more",
            ),
            (
                r#""custom_data":"{\"orders\":{\"1\":[0]}}""#,
                "custom_data.orders of step 1 names step 1, but the saga has 0 steps (counted from 0)",
            ),
            (
                r#""custom_data":"x""#,
                r#"custom_data cannot be read: write it like "{\"concurrent\":true,\"orders\":{\"1\":[0]}}""#,
            ),
        ] {
            assert_eq!(refused(&saga_with(fields)), message, "{fields}");
        }
        assert_eq!(
            refused(r#"{"gid":"g","trans_type":"tcc"}"#),
            "trans_type is \"tcc\", but Wasaga runs sagas only: send that to DTM, or write it as a \"saga\""
        );
        assert_eq!(refused(r#"{"gid":"g","trans_type":"Saga"}"#), "trans_type is \"Saga\": it must be \"saga\"");
        assert_eq!(refused(r#"{"gid":"g"}"#), "trans_type is \"\": it must be \"saga\"");
        assert_eq!(
            refused(r#"{"trans_type":"saga"}"#),
            "gid is empty: choose one, or ask GET /api/dtmsvr/newGid for one"
        );
        assert!(matches!(decode(b"{\"gid\":\"\xff\"}", NOW), Err(Error::Encoding { at: 8 })));
    }

    #[test]
    fn every_limit_is_a_limit() {
        let payload = |bytes| saga_with(&format!(r#""steps":[{{}}],"payloads":["{}"]"#, "x".repeat(bytes)));
        assert_eq!(decoded(&payload(PAYLOAD_BYTES_MAX)).steps()[0].payload.len(), PAYLOAD_BYTES_MAX);
        assert!(refused(&payload(PAYLOAD_BYTES_MAX + 1)).starts_with("the payload of step 0 (counted from 0) has"));

        let header = |bytes| saga_with(&format!(r#""branch_headers":{{"n":"{}"}}"#, "x".repeat(bytes - 1)));
        decoded(&header(HEADERS_BYTES_MAX));
        assert!(refused(&header(HEADERS_BYTES_MAX + 1)).starts_with("branch_headers have 8193 bytes"));

        let headers = |count| {
            let all: Vec<_> = (0..count).map(|i| format!(r#""n{i}":"""#)).collect();
            saga_with(&format!(r#""branch_headers":{{{}}}"#, all.join(",")))
        };
        decoded(&headers(Definition::BRANCH_HEADERS_MAX));
        assert!(
            refused(&headers(Definition::BRANCH_HEADERS_MAX + 1))
                .starts_with("JSON: branch_headers: the limit is 64 headers")
        );

        let custom_data = |bytes: usize| saga_with(&format!(r#""custom_data":"{{}}{}""#, " ".repeat(bytes - 2)));
        decoded(&custom_data(CUSTOM_DATA_BYTES_MAX));
        assert!(refused(&custom_data(CUSTOM_DATA_BYTES_MAX + 1)).starts_with("custom_data has 65537 bytes"));

        let steps = |count| {
            let list = |element: &str| vec![element; count].join(",");
            saga_with(&format!(r#""steps":[{}],"payloads":[{}]"#, list("{}"), list("\"\"")))
        };
        assert_eq!(decoded(&steps(Definition::STEPS_MAX)).steps().len(), Definition::STEPS_MAX);
        assert_eq!(refused(&steps(5000)), "the saga has 5000 steps, the limit is 1000");

        let whole = |number: &str| saga_with(&format!(r#""retry_limit":{number}"#));
        assert_eq!(decoded(&whole("9223372036854775807")).options().retry_limit, u64::MAX / 2);
        assert!(refused(&whole("9223372036854775808")).contains("expected a number below 2^63"));
        assert!(refused(&whole("18446744073709551616")).contains("expected a whole number"));
    }

    #[test]
    fn only_the_gid_matters_in_requests_about_a_saga() {
        assert_eq!(decode_gid(br#"{"trans_type":7,"GID":"g","steps":"?"}"#).unwrap(), "g");
        assert_eq!(decode_gid(br#"{"gid":null}"#).unwrap(), "");
        assert!(matches!(decode_gid(br#"{"gid":1}"#), Err(Error::Json(_))));
        assert!(matches!(decode_gid(b""), Err(Error::Json(_))));
    }

    /// Valid bodies with random damage (bytes changed, removed, repeated, cut): decoding never panics.
    #[test]
    fn damage_is_answered_never_a_panic() {
        let valid = saga_with(
            r#""custom_data":"{\"concurrent\":true,\"orders\":{\"1\":[0]}}","branch_headers":{"a":"b\u00e9"},"retry_limit":3,"steps":[{"action":"A","compensate":"C","data":"d"},{"action":"B"}],"payloads":["\ud83d\ude00",{"a":[1,{}]}]"#,
        );
        let mut random = wasaga_seed::rng(20);
        let mut accepted = 0;
        for _ in 0..100_000 {
            let mut body = valid.clone().into_bytes();
            for _ in 0..random.usize(1..4) {
                if body.is_empty() {
                    break;
                }
                let at = random.usize(..body.len());
                match random.u8(..5) {
                    0 => body[at] = random.u8(..),
                    1 => body[at] = *random.choice(b"{}[]\",:\\0n").unwrap(),
                    2 => drop(body.remove(at)),
                    3 => body.truncate(at),
                    _ => {
                        let piece = body[at..(at + random.usize(..20)).min(body.len())].to_vec();
                        let to = random.usize(..body.len());
                        body.splice(to..to, piece);
                    }
                }
            }
            accepted += u32::from(decode(&body, NOW).is_ok());
            let _ = decode_gid(&body);
        }
        assert!((1000..99_000).contains(&accepted), "{accepted} of 100000: the damage should often matter, not always");
    }
}
