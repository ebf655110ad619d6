//! Fuzz target: what the answer of a service means.

use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_ENCODING, header::CONTENT_TYPE};
use wasaga_fuzz::Target;

use super::{Answer, Rules, TEXT_BYTES_MAX, coding, verdict};
use crate::saga::Verdict;

const BYTES_MAX: usize = 1000;

const CODINGS: [&str; 8] = ["", "gzip", "deflate", "br", "zstd", "gzip, zstd", "br, deflate", "snappy"];

const CHARSETS: [&str; 5] =
    ["", "text/plain; charset=utf-8", "text/plain; charset=utf-16", "a/b; charset=shift_jis", "x"];

/// The first two bytes choose status, rules, coding and charset of the body behind them.
#[test]
fn fuzz_answers() {
    Target::new("answers")
        .seed(b"\x00\x00{\"dtm_result\":\"SUCCESS\"}")
        .seed(b"\x08\x00{\"jsonrpc\":\"2.0\",\"result\":1,\"id\":1}")
        .seed(b"\x00\x01\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff\x73\x73\xf4\x74\xf1\x71\x0d\x02\x00\x9e\x0e\xf8\x36\x07\x00\x00\x00")
        .seed(b"\x00\x10\xef\xbb\xbfFAILURE")
        .tokens([
            &b"FAILURE"[..],
            b"ONGOING",
            b"\"dtm_result\":",
            b"\"error\":null",
            b"\"result\":",
            b"{",
            b"}",
            b"\xff\xfe",
            b"\xef\xbb\xbf",
            b"\x1f\x8b\x08",
            b"\x28\xb5\x2f\xfd",
            b"\x78\x9c",
        ])
        .bytes_max(4096)
        .run(|input| {
            let [choice, form, body @ ..] = input else { return };
            let status = [200, 201, 409, 425, 500, 404, 204, 599][usize::from(choice & 7)];
            let mut headers = HeaderMap::new();
            let coding = CODINGS[usize::from(form & 7)];
            if !coding.is_empty() {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
            }
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(CHARSETS[usize::from(form >> 3) % CHARSETS.len()]));
            let rules = Rules {
                any_2xx_succeeds: choice & 16 > 0,
                rejects_5xx: choice & 32 > 0,
                is_json_rpc: choice & 8 > 0,
                bytes_max: BYTES_MAX,
            };
            if let Ok(codings) = coding::codings(&headers)
                && let Ok(decoded) = coding::decode(body, &codings, BYTES_MAX)
            {
                assert!(codings.is_empty() || decoded.bytes.len() <= BYTES_MAX);
            }
            let status = StatusCode::from_u16(status).unwrap();
            let mut answer = Answer { status, headers, body: body.to_vec(), is_cut: choice & 64 > 0 };
            let found = verdict(&answer, rules);
            match &found {
                Verdict::Succeeded { .. } => {
                    let is_success = if rules.any_2xx_succeeds { status.is_success() } else { status == StatusCode::OK };
                    assert!(is_success && !answer.is_cut, "{answer:?}");
                    // As the bytes are, if they are text in UTF-8 whatever the headers say.
                    let is_plain = coding.is_empty() && !body.contains(&0) && form >> 3 < 2;
                    let says_no = str::from_utf8(body).is_ok_and(|text| text.contains("FAILURE"));
                    assert!(rules.any_2xx_succeeds || !is_plain || !says_no, "{answer:?}");
                }
                Verdict::Rejected { reason: text } | Verdict::Unknown { error: text } => {
                    assert!(text.len() <= TEXT_BYTES_MAX + '…'.len_utf8(), "{} bytes", text.len());
                }
                Verdict::Ongoing { .. } => {}
            }
            // What is not there cannot be known.
            answer.is_cut = true;
            assert!(!matches!(verdict(&answer, rules), Verdict::Succeeded { .. }), "{answer:?}");
        });
}
