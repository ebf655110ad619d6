//! A service that answers every request with the same bytes, and calls of it.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use wasaga::{
    branch::{Branch, Call, Outcome, http::Client},
    saga::Options,
};
use wasaga_testkit::{branch_call, branch_host};

/// Starts it, and returns its address.
pub async fn start(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !is_whole(&request) {
                assert!(connection.read_buf(&mut request).await.unwrap() > 0, "{request:?}");
            }
            connection.write_all(&answer).await.unwrap();
            connection.shutdown().await.unwrap();
        }
    });
    address
}

/// Whether all that `content-length` announces has come.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

/// The action of a saga of one step.
pub fn call(protocol: &str) -> Call {
    branch_call("g1", &["{}"], Options { protocol: protocol.into(), ..Options::default() })
}

/// Calls a service that answers so.
pub async fn answered(client: &Client, answer: Vec<u8>, protocol: &str) -> Outcome {
    let url = format!("http://{}/pay?method=try", start(answer).await);
    client.branch(&url).unwrap().call(&call(protocol), &branch_host()).await
}
