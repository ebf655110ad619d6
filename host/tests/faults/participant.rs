//! An HTTP service that can be dead: it accepts calls and never answers, until it comes back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A service and its ledger.
pub struct Participant {
    /// What its sagas call.
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    is_dead: watch::Sender<bool>,
    ledger: Mutex<BTreeMap<String, Calls>>,
}

/// The calls for one saga.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    pub begun: u32,
    pub answered: u32,
}

impl Participant {
    /// Starts one that answers nothing.
    pub async fn dead() -> Self {
        // On all addresses of the loopback network, each of which is a destination of its own.
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let url = format!("http://127.0.0.1:{}/act", listener.local_addr().unwrap().port());
        let shared = Arc::new(Shared { is_dead: watch::Sender::new(true), ledger: Mutex::default() });
        let ours = shared.clone();
        tokio::spawn(async move {
            loop {
                // Out of descriptors: those that wait are accepted when others have gone.
                if let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, ours.clone()));
                } else {
                    tokio::task::yield_now().await;
                }
            }
        });
        Self { url, shared }
    }

    /// It answers from now on. As a service that was restarted, it has lost the connections of before.
    pub fn come_back(&self) {
        self.shared.is_dead.send_replace(false);
    }

    /// The calls for each saga.
    pub fn ledger(&self) -> BTreeMap<String, Calls> {
        self.shared.ledger.lock().unwrap().clone()
    }
}

/// Answers what comes over one connection; `None` when that has ended.
async fn serve(stream: TcpStream, shared: Arc<Shared>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let gid = read_call(&mut stream).await?;
        shared.ledger.lock().unwrap().entry(gid.clone()).or_default().begun += 1;
        let mut is_dead = shared.is_dead.subscribe();
        if *is_dead.borrow_and_update() {
            let mut byte = [0];
            // Until it comes back, or the caller has given up.
            tokio::select! {
                _ = is_dead.changed() => {}
                _ = stream.read(&mut byte) => {}
            }
            return None;
        }
        shared.ledger.lock().unwrap().entry(gid).or_default().answered += 1;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.ok()?;
    }
}

/// Reads a request and gives the gid that its query names.
async fn read_call(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut request = String::new();
    stream.read_line(&mut request).await.ok()?;
    let query = request.split(' ').nth(1)?.split_once('?')?.1;
    let gid = query.split('&').find_map(|pair| pair.strip_prefix("gid="))?.to_owned();
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    tokio::io::copy(&mut stream.take(length), &mut tokio::io::sink()).await.ok()?;
    Some(gid)
}
