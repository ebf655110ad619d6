//! A real host process, for tests that need one: started on a free port, watched, killed, started again.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::component_dir;

/// How long anything may take that should happen at once.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The folder of the components that `make plugins` builds, or of those that the variable names.
pub fn plugins() -> PathBuf {
    let dir = std::env::var_os("WASAGA_TEST_PLUGINS").map_or_else(|| component_dir("plugins"), PathBuf::from);
    assert!(dir.join("service-a.wasm").exists(), "{} has no plugins: run `make plugins`", dir.display());
    dir
}

/// The program, which cargo builds before it runs an integration test: `target/release/wasaga` beside `deps`, in which
/// the test is.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("wasaga");
    assert!(program.is_file(), "{} is missing: run `cargo test -p wasaga`, which builds it", program.display());
    program
}

/// A running host.
pub struct Host {
    child: Mutex<Child>,
    pub address: String,
    log: Arc<Mutex<Vec<String>>>,
    http: reqwest::Client,
}

impl Host {
    /// Starts a host on this data folder and waits until it is ready.
    pub fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    /// As [`Host::start`], with more flags.
    pub fn start_with(data: &Path, flags: &[&str]) -> Self {
        Self::start_on(data, &plugins(), flags)
    }

    /// As [`Host::start_with`], with a plugin folder of its own.
    pub fn start_on(data: &Path, plugins: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(program());
        command.args(["--listen", "127.0.0.1:0", "--data"]).arg(data).arg("--plugins").arg(plugins).args(flags);
        Self::run(command)
    }

    /// Runs a command that ends up as a host, and waits until the host is ready.
    pub fn run(mut command: Command) -> Self {
        // The host answers over plain HTTP, but the client wants to know how it would do TLS.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (ready, address) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = log.clone();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("ready on http://") {
                    let _ = ready.send(address.trim().to_owned());
                }
                lines.lock().unwrap().push(line);
            }
        });
        let Ok(address) = address.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            panic!("the host did not become ready:\n{}", log.lock().unwrap().join("\n"));
        };
        Self { child: Mutex::new(child), address, log, http }
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits until a line of the log holds all these words.
    pub async fn wait_for_log(&self, words: &[&str]) -> String {
        let found = || self.log().into_iter().find(|line| words.iter().all(|word| line.contains(word)));
        poll(|| async { found() }, || format!("no line with {words:?} in:\n{}", self.log().join("\n"))).await
    }

    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::Result<(u16, String)> {
        let answer = self.http.post(format!("http://{}{path}", self.address)).body(body).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    pub async fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::Result<(u16, String)> {
        let answer = self.http.put(format!("http://{}{path}", self.address)).body(body).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    pub async fn get(&self, path: &str) -> reqwest::Result<(u16, String)> {
        let answer = self.http.get(format!("http://{}{path}", self.address)).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    pub async fn submit(&self, body: impl Into<reqwest::Body>) -> reqwest::Result<(u16, String)> {
        self.post("/api/dtmsvr/submit", body).await
    }

    /// DTM's view of a saga.
    pub async fn query(&self, gid: &str) -> Value {
        let (status, body) = self.get(&format!("/api/dtmsvr/query?gid={gid}")).await.unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// DTM's view of a saga, once it has ended.
    pub async fn wait_for_end(&self, gid: &str) -> Value {
        let ended = || async {
            let view = self.query(gid).await;
            matches!(view["transaction"]["status"].as_str(), Some("succeed" | "failed")).then_some(view)
        };
        poll(ended, || format!("{gid} does not end:\n{}", self.log().join("\n"))).await
    }

    /// SIGKILL: no destructor runs, nothing is flushed.
    pub fn signal_kill(&self) {
        let mut child = self.child.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// How it has ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap().try_wait().unwrap()
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// SIGTERM.
    pub fn signal_terminate(&self) {
        assert!(Command::new("kill").args(["-TERM", &self.id().to_string()]).status().unwrap().success());
    }

    /// SIGTERM, and how it ends.
    pub fn terminate(self) -> ExitStatus {
        self.signal_terminate();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "the host does not stop:\n{}", self.log().join("\n"));
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Asks again and again until there is an answer.
pub async fn poll<T, F: Future<Output = Option<T>>>(ask: impl Fn() -> F, complaint: impl Fn() -> String) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{}", complaint());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// `[01.compensate, 01.action, 02.compensate, ...]` as DTM's statuses, by their first letters.
pub fn branch_statuses(view: &Value) -> String {
    view["branches"].as_array().unwrap().iter().map(|branch| &branch["status"].as_str().unwrap()[..1]).collect()
}

/// A saga of the tutorial's two services with these amounts.
pub fn transfer(gid: &str, amounts: [i64; 2], wait_result: bool) -> String {
    let step = |service: &str| json!({ "action": format!("wasm://{service}/try"), "compensate": format!("wasm://{service}/cancel") });
    json!({
        "gid": gid,
        "trans_type": "saga",
        "steps": [step("service-a"), step("service-b")],
        "payloads": amounts.map(|amount| json!({ "amount": amount }).to_string()),
        "wait_result": wait_result,
    })
    .to_string()
}
