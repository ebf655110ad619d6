//! Fuzz target: the messages of DTM's gRPC API.

use bytes::Bytes;
use prost::Message;
use wasaga_fuzz::Target;

use super::message::{DtmRequest, TransOptions};
use crate::{
    api::{
        dtm::fuzz::assert_is_for_people,
        error::{Error, Rendered},
    },
    saga::{Definition, Gid, Timestamp},
};

#[test]
fn fuzz_messages() {
    let options = TransOptions {
        wait_result: true,
        timeout_to_fail: 30,
        branch_headers: [("a".to_owned(), "b".to_owned())].into(),
        ..TransOptions::default()
    };
    let request = DtmRequest {
        gid: "g".to_owned(),
        trans_type: "saga".to_owned(),
        options: Some(options),
        custom_data: "{\"concurrent\":true}".to_owned(),
        payloads: vec![Bytes::from_static(b"\x00\xff"), Bytes::new()],
        query_prepared: "q".to_owned(),
        steps: r#"[{"action":"a:1/s.S/M","compensate":""},{"action":"","data":"x"}]"#.to_owned(),
    };
    let negative = TransOptions { retry_limit: -1, ..TransOptions::default() };
    Target::new("messages")
        .seed(request.encode_to_vec())
        .seed(DtmRequest { options: Some(negative), ..DtmRequest::default() }.encode_to_vec())
        .tokens([
            &b"\x0a\x01g"[..],
            b"\x12\x04saga",
            b"\x1a\x00",
            b"\x2a\x00",
            b"\x3a\x02[]",
            b"\x0b",
            b"\x0c",
            b"\xff\xff\xff\xff\x0f",
        ])
        .run(|bytes| {
            let decoded = match DtmRequest::decode(bytes) {
                Ok(decoded) => decoded,
                Err(error) => return assert_is_for_people(&Rendered::from(Error::Message(error)).message),
            };
            assert_eq!(DtmRequest::decode(&*decoded.encode_to_vec()).unwrap(), decoded);
            match decoded.into_definition(Timestamp(7)) {
                Ok(definition) => {
                    assert!(definition.steps().len() <= Definition::STEPS_MAX);
                    assert!(definition.bytes() <= 2 * bytes.len() + 100, "a saga is hardly larger than its request");
                    assert_eq!(Gid::new(definition.gid().as_str()).as_ref(), Ok(definition.gid()));
                }
                Err(error) => assert_is_for_people(&Rendered::from(error).message),
            }
        });
}
