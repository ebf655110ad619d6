//! Pages in a real Chromium. `make test-web` installs it and runs these.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, OnceLock},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::Value;
use tokio::{net::TcpListener, process::Command};
use wasaga_testkit::process::{Host, poll};

use crate::child::settings;

const PAGE: &str = include_str!("page.html");

/// Gids that the page submits, by the way in which it does, for which a browser sends no preflight request.
const SIMPLE: [&str; 3] = ["fetch", "form", "beacon"];

/// A server of pages. What it has no page for, it passes on to a host, with the name by which it was called: as a proxy
/// does, or a name that has come to mean the host's address.
#[derive(Clone)]
struct Pages {
    address: SocketAddr,
    host: Arc<OnceLock<String>>,
    client: reqwest::Client,
    /// What the page that is open has found.
    found: Arc<Mutex<Option<Value>>>,
}

impl Pages {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let pages = Self {
            address: listener.local_addr().unwrap(),
            host: Arc::default(),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            found: Arc::default(),
        };
        let page = async || ([(CONTENT_TYPE, "text/html")], PAGE);
        let sandboxed = async move || {
            let mut page = page().await.into_response();
            let sandbox = HeaderValue::from_static("sandbox allow-scripts allow-forms");
            page.headers_mut().insert(CONTENT_SECURITY_POLICY, sandbox);
            page
        };
        let router = Router::new()
            .route("/page", get(page))
            .route("/sandboxed", get(sandboxed))
            .route("/result", post(async |State(pages): State<Self>, found: String| pages.take_result(&found)))
            .fallback(Self::pass_on)
            .with_state(pages.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        pages
    }

    fn take_result(&self, found: &str) {
        *self.found.lock().unwrap() = Some(serde_json::from_str(found).unwrap());
    }

    async fn pass_on(State(pages): State<Self>, request: Request) -> Response {
        let Some(host) = pages.host.get() else { return StatusCode::NOT_FOUND.into_response() };
        let (head, body) = request.into_parts();
        let address = format!("http://{host}{}", head.uri);
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let answer = pages.client.request(head.method, address).headers(head.headers).body(body).send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut response = (status, Body::from(answer.bytes().await.unwrap())).into_response();
        *response.headers_mut() = headers;
        response
    }
}

/// Opens the page of this server at this address, and returns what it has found, by the way in which it sent something.
/// Every name means this machine.
async fn open(dir: &Path, pages: &Pages, address: &str) -> Value {
    let log = dir.join("chromium.log");
    let mut chromium = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--no-proxy-server"])
        .arg(format!("--user-data-dir={}", dir.join("chromium").display()))
        .args(["--host-resolver-rules=MAP * 127.0.0.1", address])
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .kill_on_drop(true)
        .spawn()
        .expect("chromium is missing: `make test-web` installs it");
    let found = async || pages.found.lock().unwrap().take();
    let found = poll(found, || format!("no result of {address}: {}", fs::read_to_string(&log).unwrap())).await;
    chromium.kill().await.unwrap();
    found
}

/// Whether the host has a saga of this gid.
async fn has(host: &Host, gid: &str) -> bool {
    !host.query(gid).await["transaction"].is_null()
}

#[tokio::test]
#[ignore = "needs Chromium: make test-web"]
async fn in_a_browser_pages_of_others_do_nothing_and_allowed_ones_work() {
    let dir = tempfile::tempdir().unwrap();
    let (evil, console) = (Pages::start().await, Pages::start().await);
    let origins = format!("[api]\nhost_names = [\"console.test\"]\norigins = [\"http://{}\"]\n", console.address);
    let host = Host::start_with(&dir.path().join("data"), &[&settings(dir.path(), &origins)]);
    for pages in [&evil, &console] {
        pages.host.set(host.address.clone()).unwrap();
    }
    let port = |pages: &Pages| pages.address.port();
    let target = format!("http://{}", host.address);

    // Another origin of this machine, a name that is another site, and a page without an origin.
    for (name, page) in [
        ("other-port", format!("http://{}/page", evil.address)),
        ("other-site", format!("http://evil.test:{}/page", port(&evil))),
        ("no-origin", format!("http://{}/sandboxed", evil.address)),
    ] {
        let result = open(dir.path(), &evil, &format!("{page}?name={name}&host={target}")).await;
        for way in SIMPLE {
            assert!(result[way].as_str().unwrap().starts_with("sent"), "{name} {way}: {result}");
        }
        for way in ["read", "put", "json"] {
            assert_eq!(result[way], "refused: TypeError", "{name} {way}: {result}");
        }
    }
    // A name that means the host's address: to the browser, the page and the host are one origin.
    let rebound = format!("http://rebound.test:{}", port(&evil));
    let result = open(dir.path(), &evil, &format!("{rebound}/page?name=rebound&host={rebound}")).await;
    for way in ["read", "put"] {
        let answer = result[way].as_str().unwrap();
        assert!(answer.starts_with("403 ") && answer.contains("host_names = [\\\"rebound.test\\\"]"), "{result}");
    }
    assert_eq!(result["json"], "403", "{result}");
    assert_eq!(host.get("/api/dtmsvr/all").await.unwrap().1, r#"{"next_position":"","transactions":[]}"#);
    assert_eq!(host.get("/api/v1/plugins/page").await.unwrap().0, 404);

    // The same page, of an origin that is configured: it may send, and its browser keeps the answers from it.
    let result =
        open(dir.path(), &console, &format!("http://{}/page?name=listed&host={target}", console.address)).await;
    assert_eq!(result["read"], "refused: TypeError", "{result}");
    for way in SIMPLE {
        let gid = format!("listed-{way}");
        poll(async || has(&host, &gid).await.then_some(()), || format!("{gid} is not submitted: {result}")).await;
    }
    // And behind a proxy, under a name that is configured: the page is one of the host's.
    let own = format!("http://console.test:{}", port(&console));
    let result = open(dir.path(), &console, &format!("{own}/page?name=own&host={own}")).await;
    let read = result["read"].as_str().unwrap();
    assert!(read.starts_with("200 ") && read.contains("listed-fetch"), "{result}");
    assert_eq!(result["json"], "200", "{result}");
    for way in SIMPLE.into_iter().chain(["json"]) {
        let gid = format!("own-{way}");
        poll(async || has(&host, &gid).await.then_some(()), || format!("{gid} is not submitted: {result}")).await;
    }
}
