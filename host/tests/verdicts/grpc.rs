//! Answers over gRPC, against what DTM makes of them (`GrpcError2DtmError` in `client/dtmgrpc/type.go`, behind `grpc-go`).

use std::{convert::Infallible, future::pending};

use axum::{Router, body::Body, response::Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::net::TcpListener;
use wasaga::{
    api::{self, Connections, serve},
    branch::{Branch, answer::TEXT_BYTES_MAX, grpc::Client, http::Settings},
};
use wasaga_testkit::branch_host;

use crate::{
    Is::{self, Ongoing, Rejected, Succeeded, Unknown},
    http::gzip,
    service::call,
    verdict_of,
};

type Headers = Vec<(&'static str, &'static str)>;

struct Row {
    headers: Headers,
    body: Vec<u8>,
    trailers: Headers,
    dtm: Is,
    ours: Is,
    /// What the text of the verdict holds.
    says: &'static str,
}

/// A message with its prefix.
fn message(is_compressed: u8, message: &[u8]) -> Vec<u8> {
    let mut framed = vec![is_compressed];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    framed
}

fn rows() -> Vec<Row> {
    let row = |headers: &[(&'static str, &'static str)], body: Vec<u8>, trailers: &[(&'static str, &'static str)]| {
        let (headers, trailers) = (headers.to_vec(), trailers.to_vec());
        move |dtm, ours, says| Row { headers, body, trailers, dtm, ours, says }
    };
    let plain = || message(0, b"\x08\x01");
    let ok = [("grpc-status", "0")];
    let aborted = [("grpc-status", "10"), ("grpc-message", "no stock FAILURE")];
    let coded = [("grpc-encoding", "gzip")];
    let bomb = message(1, &gzip(vec![0; 2 << 20]));
    vec![
        row(&[], plain(), &ok)(Succeeded, Succeeded, ""),
        row(&[], plain(), &aborted)(Rejected, Rejected, "no stock"),
        row(&[], vec![], &aborted)(Rejected, Rejected, "no stock"),
        row(&aborted, vec![], &[])(Rejected, Rejected, "no stock"),
        row(&[("grpc-status", "0")], plain(), &aborted)(Rejected, Rejected, "no stock"),
        row(&[], plain(), &[("grpc-status", "10"), ("grpc-message", "ONGOING")])(Ongoing, Ongoing, ""),
        row(&[], plain(), &[("grpc-status", "9")])(Ongoing, Ongoing, ""),
        row(&[], plain(), &[("grpc-status", "13")])(Unknown, Unknown, "Internal"),
        row(&[], plain(), &[("grpc-status", "yes")])(Unknown, Unknown, "gRPC Unknown"),
        row(&[], plain(), &[])(Unknown, Unknown, "grpc-status"),
        row(&[], vec![], &ok)(Unknown, Unknown, "Missing response message"),
        row(&[], plain()[..6].to_vec(), &ok)(Unknown, Unknown, ""),
        row(&[], b"<html>FAILURE</html>".to_vec(), &ok)(Unknown, Unknown, "compression flag"),
        // `grpc-go` decodes gzip where its package is imported, which DTM does not do, and asks for none.
        row(&coded, message(1, &gzip(b"\x08\x01")), &ok)(Unknown, Succeeded, ""),
        row(&coded, message(1, &gzip(b"\x08\x01")), &aborted)(Unknown, Rejected, "no stock"),
        row(&coded, message(1, b"no gzip"), &ok)(Unknown, Unknown, "decompressing"),
        row(&coded, bomb, &ok)(Unknown, Unknown, "size limit, of 1048576 bytes"),
        row(&[("grpc-encoding", "snappy")], message(1, b"x"), &ok)(Unknown, Unknown, "snappy"),
        row(&[], message(1, b"x"), &ok)(Unknown, Unknown, "compressed-flag"),
        row(&[], message(0, &vec![0; 2 << 20]), &ok)(Unknown, Unknown, "too large"),
    ]
}

fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
    headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

async fn outcome_of(headers: HeaderMap, body: Vec<u8>, trailers: HeaderMap) -> (Is, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("{}/busi.Busi/TransOut", listener.local_addr().unwrap());
    let router = Router::new().fallback(async move || {
        let mut frames = vec![];
        frames.extend((!body.is_empty()).then(|| Ok::<_, Infallible>(Frame::data(Bytes::from(body)))));
        frames.extend((!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers))));
        let mut response = Response::new(Body::new(StreamBody::new(stream::iter(frames))));
        *response.headers_mut() = headers;
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        response
    });
    let connections = Connections::new(serve::Settings::default());
    tokio::spawn(api::serve_http2(listener, router.into(), connections, pending()));
    let branch = Client::new(&Settings::default()).branch(&address).unwrap();
    verdict_of(branch.call(&call("grpc"), &branch_host()).await)
}

#[tokio::test]
async fn grpc_answers_mean_what_they_mean_to_dtm() {
    let mut wrong = Vec::new();
    for (number, Row { headers, body, trailers, dtm, ours, says }) in rows().into_iter().enumerate() {
        let (is, text) = outcome_of(map(&headers), body, map(&trailers)).await;
        let may_deviate = headers.iter().any(|(_, value)| *value == "gzip");
        if is != ours || !text.contains(says) || (ours != dtm && !may_deviate) {
            wrong.push(format!("row {number} {headers:?} {trailers:?}: {is:?} {text}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_long_grpc_message_is_cut_and_a_thousand_headers_are_taken() {
    let mut trailers = map(&[("grpc-status", "10")]);
    trailers.insert("grpc-message", HeaderValue::from_str(&"E".repeat(10_000)).unwrap());
    let (is, text) = outcome_of(HeaderMap::new(), message(0, b""), trailers).await;
    assert_eq!((is, text), (Rejected, format!("{}…", "E".repeat(TEXT_BYTES_MAX))));

    let headers = (0..1000).map(|number| {
        let name = HeaderName::try_from(format!("x-header-{number}")).unwrap();
        (name, HeaderValue::from_static("value of a header"))
    });
    let ok = map(&[("grpc-status", "0")]);
    assert_eq!(outcome_of(headers.collect(), message(0, b""), ok).await, (Succeeded, String::new()));
}
