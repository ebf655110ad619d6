//! How many headers an answer may have.

use std::fmt::Write;

use wasaga::branch::http::{ANSWER_HEADERS_MAX, Client, Settings};

use crate::{Is, service, verdict_of};

fn answer(headers: usize) -> Vec<u8> {
    let mut answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n".to_owned();
    for number in 1..headers {
        write!(answer, "x-header-{number}: value of a header\r\n").unwrap();
    }
    (answer + "\r\n").into()
}

#[tokio::test]
async fn a_thousand_headers_are_taken_and_more_are_named() {
    let client = Client::new(&Settings::default()).unwrap();
    for headers in [1, 100, 101, 1000, ANSWER_HEADERS_MAX] {
        let outcome = service::answered(&client, answer(headers), "http").await;
        assert_eq!(verdict_of(outcome), (Is::Succeeded, String::new()), "{headers}");
    }
    let outcome = service::answered(&client, answer(ANSWER_HEADERS_MAX + 1), "http").await;
    let error = "the answer has more than 1024 headers, or more than 400 KiB of them";
    assert_eq!(verdict_of(outcome), (Is::Unknown, error.to_owned()));
}
