//! Answers over HTTP, those of JSON-RPC among them. Where the verdict is not DTM's, the row says why.

use std::io::Write;

use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use wasaga::branch::{
    answer::{self, Answer, Rules, TEXT_BYTES_MAX},
    http::{Client, Settings},
};

use crate::{
    Is::{self, Ongoing as O, Rejected as R, Succeeded as S, Unknown as U},
    model, parts, service, verdict_of,
};

const YES: &str = r#"{"dtm_result":"SUCCESS"}"#;
// Long enough to be compressed: of shorter ones a coding holds the text as it is.
const NO: &str = r#"{"dtm_result":"FAILURE","message":"no stock, no stock, no stock, no stock, no stock, no stock"}"#;
const LATER: &str = r#"{"dtm_result":"ONGOING","message":"later, later, later, later, later, later, later, later"}"#;

/// What is set, and how the branch is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Under {
    Dtm,
    Any2xx,
    Rejects5xx,
    JsonRpc,
    JsonRpcAny2xx,
}
use Under::{Any2xx, Dtm, JsonRpc, JsonRpcAny2xx, Rejects5xx};

/// The reasons of deviations.
const ALL_CODINGS: &str = "DTM decodes gzip alone, under this name alone, and looks for its words in coded bytes";
const UNREADABLE: &str = "what cannot be read has said nothing; DTM looks for its words in the bytes as they are";
const STATUS_DECIDES: &str = "the status decides alone; DTM tries an answer again whose gzip is broken";
const CHARSET: &str = "DTM looks for its words in bytes, whatever their charset";
const LIMIT: &str = "the limit is DTM's memory there";
const SETTING: &str = "DTM has no such setting";
const RPC_CODES: &str = "DTM compares the code with a number of another type, so that only words in the body count";
const RPC_FORM: &str = "an answer of JSON-RPC is an object with a result or an error";
const RPC_MARK: &str = "a reader may skip the mark (RFC 8259, section 8.1); Go's does not";
const NONE: &str = "";

struct Row {
    under: Under,
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    dtm: Is,
    ours: Is,
    why: &'static str,
}

pub fn gzip(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_ref()).unwrap();
    encoder.finish().unwrap()
}

fn zlib(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_ref()).unwrap();
    encoder.finish().unwrap()
}

fn raw_deflate(text: &str) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// Of a text that is long enough to be compressed.
fn zstd(text: &str) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 19).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(long(text).as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// `{"dtm_result":"FAILURE","message":"no stock in the north, no stock in the south"}`, by Google's `brotli` of quality 11.
const NO_IN_BROTLI: &str = "1b5000609c0976ec041c656221a7b5c857dbde6421732b9dbe7aa3738c0387c1ae71a07590871db033e3788ea7ae4b302e8b2b2cc15ad0ac502f47120a";

fn brotli(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// One block of brotli that is not compressed (RFC 7932, section 9.2), and the empty last one.
fn brotli_stored(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    let head = u32::try_from(text.len() - 1).unwrap() << 4 | 1 << 20;
    [&head.to_le_bytes()[..3], text, &[3]].concat()
}

/// The object with a member of many different words.
fn long(text: &str) -> String {
    let words = (0..400).map(|number| (number * 7919 % 1000).to_string()).collect::<Vec<_>>().join(" ");
    text.replacen('{', &format!("{{\"words\":\"{words}\","), 1)
}

fn utf_16(text: &str, to_bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(to_bytes).collect()
}

fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() - 5);
    bytes
}

fn damaged(mut bytes: Vec<u8>) -> Vec<u8> {
    let at = bytes.len() - 6;
    bytes[at] ^= 0x55;
    bytes
}

fn row(
    under: Under,
    status: u16,
    header: &'static str,
    body: impl AsRef<[u8]>,
    dtm: Is,
    ours: Is,
    why: &'static str,
) -> Row {
    let headers = header.lines().map(|line| line.split_once(": ").unwrap()).collect();
    Row { under, status, headers, body: body.as_ref().to_vec(), dtm, ours, why }
}

const GZIP: &str = "content-encoding: gzip";
const DEFLATE: &str = "content-encoding: deflate";
const BR: &str = "content-encoding: br";
const ZSTD: &str = "content-encoding: zstd";

/// Statuses and words, in plain text.
fn plain() -> Vec<Row> {
    vec![
        row(Dtm, 200, "", YES, S, S, NONE),
        row(Dtm, 200, "", "", S, S, NONE),
        row(Dtm, 200, "", NO, R, R, NONE),
        row(Dtm, 200, "", LATER, O, O, NONE),
        row(Dtm, 200, "", "a FAILURE, no, ONGOING", O, O, NONE),
        row(Dtm, 200, "", "failure, ongoing", S, S, NONE),
        row(Dtm, 201, "", YES, U, U, NONE),
        row(Dtm, 204, "", "", U, U, NONE),
        row(Dtm, 302, "", "", U, U, NONE),
        row(Dtm, 404, "", NO, R, R, NONE),
        row(Dtm, 409, "", "", R, R, NONE),
        row(Dtm, 409, "", LATER, O, O, NONE),
        row(Dtm, 425, "", NO, O, O, NONE),
        row(Dtm, 500, "", "oops", U, U, NONE),
        row(Dtm, 500, "", NO, R, R, NONE),
        row(Dtm, 500, "", LATER, O, O, NONE),
        row(Dtm, 200, "", b"\xff\xc3FAILURE\xf0\x9f", R, R, NONE),
        row(Dtm, 200, "", b"caf\xe9", S, S, NONE),
        row(Rejects5xx, 500, "", "oops", U, R, SETTING),
    ]
}

fn codings() -> Vec<Row> {
    let zeros = vec![b' '; 2 << 20];
    let behind = [&zeros[..], NO.as_bytes()].concat();
    let before = [NO.as_bytes(), &zeros].concat();
    let members = [gzip(YES), gzip(NO)].concat();
    let more = [gzip(NO), b"more".to_vec()].concat();
    vec![
        row(Dtm, 200, GZIP, gzip(YES), S, S, NONE),
        row(Dtm, 200, GZIP, gzip(NO), R, R, NONE),
        row(Dtm, 200, GZIP, gzip(LATER), O, O, NONE),
        row(Dtm, 500, GZIP, gzip(NO), R, R, NONE),
        row(Dtm, 409, GZIP, gzip("no stock"), R, R, NONE),
        row(Dtm, 409, GZIP, gzip(LATER), O, O, NONE),
        row(Dtm, 201, GZIP, gzip(YES), U, U, NONE),
        row(Dtm, 200, "Content-Encoding: GZIP", gzip(NO), R, R, NONE),
        row(Dtm, 200, "content-encoding: x-gzip", gzip(NO), S, R, ALL_CODINGS),
        row(Dtm, 200, GZIP, members, R, R, NONE),
        row(Dtm, 200, GZIP, "", S, S, NONE),
        row(Dtm, 200, GZIP, YES, U, U, NONE),
        row(Dtm, 200, GZIP, NO, U, U, NONE),
        row(Dtm, 200, GZIP, cut(gzip(YES)), U, U, NONE),
        row(Dtm, 200, GZIP, cut(gzip(NO)), U, U, NONE),
        row(Dtm, 200, GZIP, damaged(gzip(NO)), U, U, NONE),
        row(Dtm, 200, GZIP, more, U, U, NONE),
        row(Dtm, 500, GZIP, cut(gzip(NO)), U, U, NONE),
        row(Dtm, 409, GZIP, cut(gzip("no stock")), U, R, STATUS_DECIDES),
        row(Dtm, 425, GZIP, cut(gzip(LATER)), U, O, STATUS_DECIDES),
        row(Dtm, 200, GZIP, gzip(behind), R, U, LIMIT),
        row(Dtm, 200, GZIP, gzip(before), R, R, NONE),
        row(Dtm, 200, DEFLATE, zlib(YES), S, S, NONE),
        row(Dtm, 200, DEFLATE, zlib(NO), S, R, ALL_CODINGS),
        row(Dtm, 200, DEFLATE, raw_deflate(NO), S, R, ALL_CODINGS),
        row(Dtm, 200, DEFLATE, zlib(LATER), S, O, ALL_CODINGS),
        row(Dtm, 500, DEFLATE, zlib(NO), U, R, ALL_CODINGS),
        row(Dtm, 200, DEFLATE, cut(zlib(YES)), S, U, UNREADABLE),
        row(Dtm, 200, DEFLATE, damaged(zlib(YES)), S, U, UNREADABLE),
        row(Dtm, 200, DEFLATE, [zlib(YES), vec![0]].concat(), S, U, UNREADABLE),
        row(Dtm, 200, DEFLATE, YES, S, U, UNREADABLE),
        row(Dtm, 200, DEFLATE, zlib(vec![b' '; 2 << 20]), S, U, LIMIT),
        row(Dtm, 200, BR, brotli_stored(YES), S, S, NONE),
        row(Dtm, 200, BR, brotli(NO_IN_BROTLI), S, R, ALL_CODINGS),
        row(Dtm, 409, BR, brotli(NO_IN_BROTLI), R, R, NONE),
        row(Dtm, 200, BR, cut(brotli(NO_IN_BROTLI)), S, U, UNREADABLE),
        row(Dtm, 200, BR, [brotli_stored(YES), vec![0]].concat(), S, U, UNREADABLE),
        row(Dtm, 200, BR, NO, R, U, UNREADABLE),
        row(Dtm, 200, ZSTD, zstd(YES), S, S, NONE),
        row(Dtm, 200, ZSTD, zstd(NO), S, R, ALL_CODINGS),
        row(Dtm, 200, ZSTD, [zstd(YES), zstd(LATER)].concat(), S, O, ALL_CODINGS),
        row(Dtm, 200, ZSTD, cut(zstd(YES)), S, U, UNREADABLE),
        row(Dtm, 200, ZSTD, [zstd(YES), vec![0]].concat(), S, U, UNREADABLE),
        row(Dtm, 200, "content-encoding: br, gzip", gzip(brotli(NO_IN_BROTLI)), S, R, ALL_CODINGS),
        row(Dtm, 200, "content-encoding: gzip\ncontent-encoding: br", brotli_stored(gzip(NO)), U, R, ALL_CODINGS),
        row(Dtm, 200, "content-encoding: gzip, gzip", gzip(gzip(NO)), S, R, ALL_CODINGS),
        row(Dtm, 200, "content-encoding: identity, gzip", gzip(NO), S, R, ALL_CODINGS),
        row(Dtm, 200, "content-encoding: gzip, gzip, gzip, gzip, gzip, gzip", YES, S, U, UNREADABLE),
        row(Dtm, 200, "content-encoding: identity", YES, S, S, NONE),
        row(Dtm, 200, "content-encoding: identity", NO, R, R, NONE),
        row(Dtm, 200, "content-encoding: compress", YES, S, U, UNREADABLE),
        row(Dtm, 200, "content-encoding: utf-8", NO, R, U, UNREADABLE),
        row(Dtm, 409, "content-encoding: compress", "?", R, R, NONE),
        row(Dtm, 425, "content-encoding: compress", "?", O, O, NONE),
        row(Dtm, 500, "content-encoding: compress", "?", U, U, NONE),
        row(Rejects5xx, 500, "content-encoding: compress", "?", U, R, SETTING),
        row(Dtm, 200, "content-encoding: compress", "", S, S, NONE),
        row(Any2xx, 201, GZIP, gzip(NO), R, R, NONE),
        row(Any2xx, 201, BR, brotli(NO_IN_BROTLI), U, R, SETTING),
        row(Any2xx, 202, ZSTD, zstd(YES), U, S, SETTING),
        row(Any2xx, 201, GZIP, cut(gzip(YES)), U, U, NONE),
    ]
}

fn charsets() -> Vec<Row> {
    let marked = |mark: &[u8], text: Vec<u8>| [mark, &text].concat();
    let utf_32: Vec<u8> = NO.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
    vec![
        row(Dtm, 200, "content-type: application/json; charset=utf-8", YES, S, S, NONE),
        row(Dtm, 200, "content-type: application/json; Charset=\"UTF-8\"", NO, R, R, NONE),
        row(Dtm, 200, "content-type: text/plain; charset=iso-8859-1", b"caf\xe9: FAILURE", R, R, NONE),
        row(Dtm, 200, "content-type: text/plain; charset=us-ascii", YES, S, S, NONE),
        row(Dtm, 200, "content-type: text/plain; charset=gbk", b"\xce\xde\xbb\xf5: FAILURE", R, R, NONE),
        row(Dtm, 200, "content-type: text/plain; charset=utf-16le", utf_16(NO, u16::to_le_bytes), S, R, CHARSET),
        row(Dtm, 200, "content-type: text/plain; charset=utf-16", utf_16(NO, u16::to_be_bytes), S, R, CHARSET),
        row(Dtm, 200, "content-type: text/plain; charset=utf-16", utf_16("无货", u16::to_be_bytes), S, U, CHARSET),
        row(Dtm, 200, "", marked(b"\xff\xfe", utf_16(NO, u16::to_le_bytes)), S, R, CHARSET),
        row(Dtm, 200, "", marked(b"\xfe\xff", utf_16(LATER, u16::to_be_bytes)), S, O, CHARSET),
        row(Dtm, 200, "", utf_16(NO, u16::to_le_bytes), S, R, CHARSET),
        row(Dtm, 500, "", utf_16(NO, u16::to_be_bytes), U, R, CHARSET),
        row(Dtm, 200, "", marked(b"\xff\xfe", b"\x00\xd8".to_vec()), S, U, CHARSET),
        row(Dtm, 200, "", utf_32.clone(), S, U, CHARSET),
        row(Dtm, 200, "", marked(b"\xff\xfe\0\0", utf_32), S, U, CHARSET),
        row(Dtm, 200, "content-type: text/plain; charset=utf-8", b"caf\xe9", S, U, CHARSET),
        row(Dtm, 200, "content-type: text/plain; charset=utf-7", YES, S, U, CHARSET),
        row(Dtm, 200, "content-type: text/plain; charset=ebcdic-cp-us", NO, R, U, CHARSET),
        row(Dtm, 409, "content-type: text/plain; charset=ebcdic-cp-us", NO, R, R, NONE),
        row(Dtm, 425, "content-type: text/plain; charset=ebcdic-cp-us", NO, O, O, NONE),
        row(Dtm, 200, "content-type: a/b; charset=utf-8\ncontent-type: a/b; charset=gbk", YES, S, U, CHARSET),
        row(Dtm, 200, "content-type: nonsense;charset", NO, R, R, NONE),
        row(
            Dtm,
            200,
            "content-encoding: gzip\ncontent-type: a/b;charset=utf-16le",
            gzip(utf_16(NO, u16::to_le_bytes)),
            S,
            R,
            CHARSET,
        ),
    ]
}

fn any_2xx() -> Vec<Row> {
    let deep = format!(r#"{{"a":{}{},"dtm_result":"FAILURE"}}"#, "[".repeat(200), "]".repeat(200));
    let mark = "\u{feff}";
    vec![
        row(Any2xx, 201, "", YES, U, S, SETTING),
        row(Any2xx, 204, "", "", U, S, SETTING),
        row(Any2xx, 200, "", r#"{"message":"FAILURE"}"#, R, S, SETTING),
        row(Any2xx, 200, "", "<p>FAILURE</p>", R, S, SETTING),
        row(Any2xx, 500, "", "FAILURE", R, U, SETTING),
        row(Any2xx, 500, "", NO, R, R, NONE),
        row(Any2xx, 200, "", format!("{mark}{NO}"), R, R, NONE),
        row(Any2xx, 200, "", format!("{mark}{LATER}"), O, O, NONE),
        row(Any2xx, 200, "", format!("{mark}{mark}{NO}"), R, U, SETTING),
        row(Any2xx, 200, "", "{\"dtm_result\":\"FAILURE\",\"message\":\"line 1\nline 2\"}", R, U, SETTING),
        row(Any2xx, 200, "", "{\"dtm_result\":\"FAILURE\",\"message\":\"\t\"}", R, U, SETTING),
        row(Any2xx, 200, "", r#"{"dtm_result":"SUCCESS","dtm_result":"FAILURE"}"#, R, R, NONE),
        row(Any2xx, 200, "", r#"{"dtm_result":"FAILURE","dtm_result":"SUCCESS"}"#, R, S, SETTING),
        row(Any2xx, 200, "", format!("{NO}\n</html>"), R, U, SETTING),
        row(Any2xx, 200, "", format!("{YES} {NO}"), R, U, SETTING),
        row(Any2xx, 200, "", &NO[..NO.len() - 1], R, U, SETTING),
        row(Any2xx, 200, "", &NO[..18], S, U, SETTING),
        row(Any2xx, 200, "", r#"{"dtm_result":"FAILURE",}"#, R, U, SETTING),
        row(Any2xx, 200, "", r#"{"a":NaN,"dtm_result":"FAILURE"}"#, R, U, SETTING),
        row(Any2xx, 200, "", r#"{"a":"\ud800","b":1e999,"dtm_result":"FAILURE"}"#, R, R, NONE),
        row(Any2xx, 200, "", b"{\"a\":\"\xce\xde\",\"dtm_result\":\"FAILURE\"}", R, R, NONE),
        row(Any2xx, 200, "", deep, R, R, NONE),
        row(Any2xx, 409, "", "{", R, R, NONE),
        row(Any2xx, 425, "", "{", O, O, NONE),
        row(Any2xx, 500, "", "{", U, U, NONE),
        row(Any2xx, 200, "", format!("{{{}", " ".repeat(2 << 20)), S, U, LIMIT),
        row(Any2xx, 200, "", " ".repeat(2 << 20), S, U, LIMIT),
    ]
}

fn json_rpc() -> Vec<Row> {
    const RESULT: &str = r#"{"jsonrpc":"2.0","id":"1","result":{"a":1}}"#;
    const REJECTED: &str = r#"{"jsonrpc":"2.0","id":"1","error":{"code":-32901,"message":"no stock"}}"#;
    vec![
        row(JsonRpc, 200, "", RESULT, S, S, NONE),
        row(JsonRpc, 200, "", r#"{"jsonrpc":"2.0","id":"1","error":null,"result":null}"#, S, S, NONE),
        row(JsonRpc, 200, "", r#"{"error":null}"#, S, S, NONE),
        row(JsonRpc, 200, GZIP, gzip(RESULT), S, S, NONE),
        row(JsonRpc, 200, "", REJECTED, U, R, RPC_CODES),
        row(JsonRpc, 200, BR, brotli_stored(REJECTED), U, R, RPC_CODES),
        row(JsonRpc, 200, "", r#"{"error":{"code":-32902}}"#, U, O, RPC_CODES),
        row(JsonRpc, 200, "", r#"{"error":{"code":-32603,"message":"trouble"}}"#, U, U, NONE),
        row(JsonRpc, 200, "", r#"{"error":{"code":"-32901"}}"#, U, U, NONE),
        row(JsonRpc, 200, "", r#"{"error":"text"}"#, U, U, NONE),
        row(JsonRpc, 200, "", r#"{"error":false,"result":1}"#, U, U, NONE),
        row(JsonRpc, 200, "", r#"{"error":{},"result":1}"#, U, U, NONE),
        row(JsonRpc, 200, "", r#"{"error":null,"error":{"code":-32901}}"#, U, R, RPC_CODES),
        row(JsonRpc, 200, "", r#"{"error":{"code":1},"error":null,"result":1}"#, S, S, NONE),
        row(JsonRpc, 200, "", r#"{"error":{"code":-32901,"message":"FAILURE"}}"#, R, R, NONE),
        row(JsonRpc, 200, "", "null", S, U, RPC_FORM),
        row(JsonRpc, 200, "", "{}", S, U, RPC_FORM),
        row(JsonRpc, 200, "", YES, S, U, RPC_FORM),
        row(JsonRpc, 200, "", "1", U, U, NONE),
        row(JsonRpc, 200, "", "\"text\"", U, U, NONE),
        row(JsonRpc, 200, "", "true", U, U, NONE),
        row(JsonRpc, 200, "", "[]", U, U, NONE),
        row(JsonRpc, 200, "", format!("[{REJECTED}]"), U, U, NONE),
        row(JsonRpc, 200, "", "", U, U, NONE),
        row(JsonRpc, 200, "", "no JSON", U, U, NONE),
        row(JsonRpc, 200, "", format!("{RESULT}x"), U, U, NONE),
        row(JsonRpc, 200, "", format!("\u{feff}{RESULT}"), U, S, RPC_MARK),
        row(JsonRpc, 200, "content-encoding: compress", RESULT, S, U, UNREADABLE),
        row(JsonRpc, 409, "", RESULT, R, R, NONE),
        row(JsonRpc, 500, "", REJECTED, U, U, NONE),
        row(JsonRpcAny2xx, 201, "", RESULT, U, S, SETTING),
        row(JsonRpcAny2xx, 201, "", "null", U, U, NONE),
        row(JsonRpcAny2xx, 200, "", REJECTED, U, R, RPC_CODES),
    ]
}

fn all() -> Vec<Row> {
    [plain(), codings(), charsets(), any_2xx(), json_rpc()].into_iter().flatten().collect()
}

impl Row {
    fn name(&self) -> String {
        let Self { under, status, headers, body, .. } = self;
        format!("{under:?} {status} {headers:?} {:?}", String::from_utf8_lossy(&body[..body.len().min(100)]))
    }

    fn map(&self) -> HeaderMap {
        let header =
            |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap());
        let mut map = HeaderMap::new();
        self.headers.iter().map(header).for_each(|(name, value)| _ = map.append(name, value));
        map
    }

    fn is_json_rpc(&self) -> bool {
        matches!(self.under, JsonRpc | JsonRpcAny2xx)
    }

    fn settings(&self) -> Settings {
        Settings {
            any_2xx_succeeds: matches!(self.under, Any2xx | JsonRpcAny2xx),
            rejects_5xx_after: u64::from(self.under == Rejects5xx),
            ..Settings::default()
        }
    }

    /// The answer as it is sent.
    fn sent(&self) -> Vec<u8> {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let headers = headers.concat();
        let length = self.body.len();
        let mut sent = format!("HTTP/1.1 {} X\r\n{headers}content-length: {length}\r\n\r\n", self.status).into_bytes();
        sent.extend(&self.body);
        sent
    }
}

#[tokio::test]
async fn answers_mean_what_they_mean_to_dtm_or_the_row_says_why_not() {
    let rows = all();
    assert!(rows.len() > 150, "{}", rows.len());
    let mut wrong = Vec::new();
    for row in rows {
        let name = row.name();
        let dtm = model::verdict(row.status, &row.map(), &row.body, row.is_json_rpc());
        let protocol = if row.is_json_rpc() { "json-rpc" } else { "http" };
        let outcome = service::answered(&Client::new(&row.settings()).unwrap(), row.sent(), protocol).await;
        let (is, text) = verdict_of(outcome);
        if (dtm, is, row.ours == row.dtm) != (row.dtm, row.ours, row.why.is_empty()) {
            wrong.push(format!("DTM {dtm:?}, here {is:?}: {name}: {text}"));
        }
        assert!(text.len() <= TEXT_BYTES_MAX + "…".len(), "{name}: {text}");
    }
    assert!(wrong.is_empty(), "verdicts differ from the table, or a deviation has no reason: {wrong:#?}");
}

/// The same answers without a connection, as the fuzzer has them, and cut and damaged everywhere.
#[test]
fn no_answer_that_is_cut_or_damaged_becomes_a_success() {
    for row in all() {
        let settings = row.settings();
        let rules = Rules {
            any_2xx_succeeds: settings.any_2xx_succeeds,
            rejects_5xx: settings.rejects_5xx_after > 0,
            is_json_rpc: row.is_json_rpc(),
            bytes_max: settings.response_bytes_max,
        };
        let answer = |body: &[u8], is_cut| {
            let status = StatusCode::from_u16(row.status).unwrap();
            parts(answer::verdict(&Answer { status, headers: row.map(), body: body.to_vec(), is_cut }, rules))
        };
        let (is, text) = answer(&row.body, false);
        assert_eq!(is, row.ours, "{}: {text}", row.name());
        for end in 0..row.body.len().min(2000) {
            let (is, text) = answer(&row.body[..end], true);
            assert_ne!(is, S, "{} cut at {end}: {text}", row.name());
            let is_coded = row.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-encoding"));
            let is_compressed = is_coded && end > 0 && !row.headers.iter().any(|(_, value)| *value == "identity");
            if is_compressed && row.ours == S {
                let (is, text) = answer(&row.body[..end], false);
                assert_eq!(is, U, "{} that ends at {end}: {text}", row.name());
            }
        }
    }
}

#[tokio::test]
async fn a_transfer_coding_is_decoded_too() {
    let chunked = |coding: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\n\r\n{:x}\r\n", body.len());
        [head.as_bytes(), body, b"\r\n0\r\n\r\n"].concat()
    };
    let client = Client::new(&Settings::default()).unwrap();
    for (coding, body, expected) in [
        ("chunked", NO.into(), R),
        ("gzip, chunked", gzip(NO), R),
        ("gzip, chunked", gzip(YES), S),
        ("gzip, chunked", cut(gzip(YES)), U),
        ("x-unheard-of, chunked", YES.into(), U),
    ] {
        let outcome = service::answered(&client, chunked(coding, &body), "http").await;
        let (is, text) = verdict_of(outcome);
        assert_eq!(is, expected, "{coding}: {text}");
    }
}

#[tokio::test]
async fn the_reason_names_what_cannot_be_read() {
    let client = Client::new(&Settings { response_bytes_max: 100, ..Settings::default() }).unwrap();
    let large = gzip(" ".repeat(101));
    for (header, body, text) in [
        (
            "content-encoding: snappy",
            b"x".to_vec(),
            "its content-encoding \"snappy\" is not known; let the service answer without one, or with gzip, deflate, br or zstd",
        ),
        (GZIP, b"x".to_vec(), "its body is not whole and valid gzip: "),
        (DEFLATE, cut(zlib(YES)), "its body is not whole and valid deflate: it ends too early"),
        (BR, [brotli_stored(YES), vec![0]].concat(), "not whole and valid br: there are bytes behind its end"),
        (ZSTD, b"x".to_vec(), "its body is not whole and valid zstd: "),
        (GZIP, large.clone(), "the answer is longer than the limit of 100 bytes (response_bytes_max)"),
        ("content-encoding: br, gzip", large, "its br is longer than the limit of 100 bytes (response_bytes_max)"),
        (
            "content-type: text/html; charset=klingon",
            b"x".to_vec(),
            "its charset \"klingon\" is not known; let the service answer in UTF-8",
        ),
        ("content-type: text/html; charset=utf-8", b"\xff".to_vec(), "its body is not valid UTF-8; let the service"),
    ] {
        for status in [200, 409] {
            let row = row(Dtm, status, header, &body, S, S, NONE);
            let (is, said) = verdict_of(service::answered(&client, row.sent(), "http").await);
            let (expected, start) = if status == 200 { (U, "the answer ") } else { (R, "HTTP 409, and the answer ") };
            // What of a long body was read is a better reason than its length.
            if text.starts_with("the answer is longer") && status == 409 {
                assert_eq!(is, R);
                continue;
            }
            assert!(is == expected && said.starts_with(start) && said.contains(text), "{header}: {said}");
        }
    }
}

#[tokio::test]
async fn every_text_of_an_answer_is_cut() {
    let client = Client::new(&Settings::default()).unwrap();
    let long = "E".repeat(1_000_000);
    for (body, protocol, expected) in [
        (format!(r#"{{"error":{{"code":-32901,"message":"{long}"}}}}"#), "json-rpc", R),
        (format!(r#"{{"error":{{"code":-1,"message":"{long}"}}}}"#), "json-rpc", U),
        (format!(r#"{{"error":"{long}"}}"#), "json-rpc", U),
        (format!("\"{long}\""), "json-rpc", U),
        (format!("FAILURE {long}"), "http", R),
    ] {
        let row = row(Dtm, 200, "", body, S, S, NONE);
        let (is, text) = verdict_of(service::answered(&client, row.sent(), protocol).await);
        assert_eq!(is, expected);
        assert!(text.len() <= TEXT_BYTES_MAX + "…".len() && !text.is_empty(), "{} bytes", text.len());
    }
}
