//! A host process with a port that the test chooses, and without waiting until it is ready.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Instant,
};

use wasaga_testkit::process::{PATIENCE, plugins, poll, program};

/// A host process. It is killed when this is dropped.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    http: reqwest::Client,
}

/// A free port of which the next one is free too, for gRPC.
pub fn free_address() -> SocketAddr {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let next = address.port().checked_add(1).map(|port| TcpListener::bind(("127.0.0.1", port)));
        if matches!(next, Some(Ok(_))) {
            return address;
        }
    }
}

/// Writes settings beside the data folder, and returns the flag that names them.
pub fn settings(dir: &Path, text: &str) -> String {
    let file = dir.join("wasaga.toml");
    std::fs::write(&file, text).unwrap();
    format!("--config={}", file.display())
}

impl Process {
    /// Starts the program with these words before it, which may change its limits, and these flags.
    pub fn spawn(before: &[&str], data: &Path, address: SocketAddr, flags: &[&str], stderr: impl Into<Stdio>) -> Self {
        let words = before.iter().map(|word| (*word).to_owned()).chain([program().display().to_string()]);
        let words: Vec<String> = words.collect();
        let child = Command::new(&words[0])
            .args(&words[1..])
            .args(["--listen", &address.to_string(), "--data"])
            .arg(data)
            .arg("--plugins")
            .arg(plugins())
            .args(flags)
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let http = {
            let _ = rustls::crypto::ring::default_provider().install_default();
            reqwest::Client::builder().no_proxy().build().unwrap()
        };
        Self { child, address, http }
    }

    /// Status, `Retry-After` and body of an answer; `None` if there is none.
    pub async fn get(&self, path: &str) -> Option<(u16, Option<String>, String)> {
        parts(self.http.get(format!("http://{}{path}", self.address)).send().await).await
    }

    pub async fn post(&self, path: &str, body: String) -> Option<(u16, Option<String>, String)> {
        parts(self.http.post(format!("http://{}{path}", self.address)).body(body).send().await).await
    }

    /// Waits until this path is answered with this status, and returns the body.
    pub async fn answers(&self, path: &str, status: u16) -> String {
        let ask = || async { self.get(path).await.filter(|(found, ..)| *found == status).map(|(_, _, body)| body) };
        poll(ask, || format!("{path} is not answered with {status}")).await
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ends.
    pub async fn ended(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the host does not end");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

async fn parts(answer: reqwest::Result<reqwest::Response>) -> Option<(u16, Option<String>, String)> {
    let answer = answer.ok()?;
    let wait = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    Some((answer.status().as_u16(), wait, answer.text().await.ok()?))
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
