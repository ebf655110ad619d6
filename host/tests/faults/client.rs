//! A client with one connection, which it keeps as long as the host does.

use std::{net::IpAddr, time::Duration};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use wasaga_testkit::process::PATIENCE;

/// A client's own connection; another one is made when the host has closed it.
pub struct Client {
    address: String,
    /// The client's own address, if it has one of its own.
    from: Option<IpAddr>,
    connection: Option<BufReader<TcpStream>>,
}

/// The address of clients that others than them must not suffer from.
pub const FLOODING: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

/// What the host has answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Seconds of `Retry-After`, if the answer has it.
    pub retry_after: Option<u64>,
    pub body: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Gone {
    /// No connection was made, so nothing was sent.
    NotConnected,
    /// The request, or a part of it, was sent over a connection that ended without a whole answer.
    Unanswered,
}

impl Client {
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), from: None, connection: None }
    }

    /// A client with an address of its own.
    pub fn from(from: IpAddr, address: &str) -> Self {
        Self { from: Some(from), ..Self::new(address) }
    }

    /// Sends a request and waits for the answer.
    ///
    /// # Panics
    /// If the host keeps the connection open and does not answer.
    pub async fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Answer, Gone> {
        let answer = timeout(PATIENCE, self.ask_and_wait(method, path, body)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{method} {path} is not answered"));
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }

    /// The next request goes over a connection of its own.
    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    pub async fn submit(&mut self, saga: &Value) -> Result<Answer, Gone> {
        self.ask("POST", "/api/dtmsvr/submit", &saga.to_string()).await
    }

    /// The status of a saga, if the host knows it.
    pub async fn status(&mut self, gid: &str) -> Option<String> {
        let answer = self.ask("GET", &format!("/api/dtmsvr/query?gid={gid}"), "").await.unwrap();
        assert_eq!(answer.status, 200, "{gid}: {answer:?}");
        let view: Value = serde_json::from_str(&answer.body).unwrap();
        view["transaction"]["status"].as_str().map(str::to_owned)
    }

    async fn ask_and_wait(&mut self, method: &str, path: &str, body: &str) -> Result<Answer, Gone> {
        if self.connection.is_none() {
            let stream = connect(self.from, &self.address).await.map_err(|_| Gone::NotConnected)?;
            stream.set_nodelay(true).unwrap();
            self.connection = Some(BufReader::new(stream));
        }
        let connection = self.connection.as_mut().unwrap();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", self.address, body.len());
        // A host that refuses a body may answer before it has read all of it.
        let sent = connection.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).await;
        let answer = read(connection).await.ok_or(Gone::Unanswered)?;
        if sent.is_err() || answer.1 {
            self.connection = None;
        }
        Ok(answer.0)
    }
}

/// A connection to the host, from this address.
pub async fn connect(from: Option<IpAddr>, address: &str) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(from) = from {
        socket.bind((from, 0).into())?;
    }
    socket.connect(address.parse().unwrap()).await
}

/// One answer, and whether the connection ends with it.
async fn read(connection: &mut BufReader<TcpStream>) -> Option<(Answer, bool)> {
    let status = line(connection).await?.split(' ').nth(1)?.parse().ok()?;
    let (mut length, mut closes, mut retry_after) = (0, false, None);
    loop {
        let line = line(connection).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        match (name.to_ascii_lowercase().as_str(), value.trim()) {
            ("content-length", value) => length = value.parse().ok()?,
            ("connection", value) => closes = value.eq_ignore_ascii_case("close"),
            ("retry-after", value) => retry_after = value.parse().ok(),
            ("transfer-encoding", value) => panic!("an answer in chunks ({value}), which this client does not read"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await.ok()?;
    let body = String::from_utf8(body).unwrap();
    Some((Answer { status, retry_after, body }, closes))
}

/// A line without its end; `None` if the connection ends before that.
async fn line(connection: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    connection.read_line(&mut line).await.ok()?;
    line.strip_suffix("\r\n").map(str::to_owned)
}

/// Submits until the host takes the saga. Any other answer than "accepted" and "come back later" is a failure.
///
/// # Panics
/// If the host has not taken it after all patience.
pub async fn submit_until_accepted(client: &mut Client, saga: &Value) {
    timeout(PATIENCE, async {
        loop {
            match client.submit(saga).await {
                // 409: a submission that was not answered has been accepted.
                Ok(Answer { status: 200 | 409, .. }) => return,
                Ok(Answer { status: 503, retry_after: Some(_), .. }) | Err(_) => {}
                Ok(answer) => panic!("{}: {answer:?}", saga["gid"]),
            }
            // A client would wait for as long as it was told, which is a second or more.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{} is not accepted", saga["gid"]));
}

/// As [`submit_until_accepted`], for many sagas, by 32 clients.
pub async fn submit_all(address: &str, sagas: &[Value]) {
    stream::iter(sagas.chunks(sagas.len().div_ceil(32)))
        .for_each_concurrent(None, async |sagas| {
            let mut client = Client::new(address);
            for saga in sagas {
                submit_until_accepted(&mut client, saga).await;
            }
        })
        .await;
}

/// A saga of one step, whose client does not wait for its end.
pub fn saga(gid: &str, url: &str, payload: &Value) -> Value {
    json!({
        "gid": gid,
        "trans_type": "saga",
        "steps": [{ "action": url, "compensate": "" }],
        "payloads": [payload.to_string()],
    })
}

/// As [`saga`], with more members.
pub fn saga_with(gid: &str, url: &str, payload: &Value, more: &Value) -> Value {
    let mut saga = saga(gid, url, payload);
    saga.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    saga
}
