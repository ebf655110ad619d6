//! The folder and the command of a host, and the limits that it is started with.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use wasaga_testkit::{
    component_file,
    process::{Host, PATIENCE, plugins, poll, program},
};

use crate::client::Client;

/// What a host is started on: settings, plugins and data.
pub struct World {
    dir: TempDir,
    /// Where its data is.
    pub data: PathBuf,
}

impl World {
    /// A world with the plugin `account`, and these settings.
    pub fn new(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("plugins")).unwrap();
        fs::copy(plugins().join("account.wasm"), dir.path().join("plugins/account.wasm")).unwrap();
        let data = dir.path().join("data");
        let world = Self { dir, data };
        world.set(settings);
        world
    }

    /// As [`World::new`], with copies of the fixture `chaos` under these names.
    pub fn with_chaos(settings: &str, names: &[&str]) -> Self {
        let world = Self::new(settings);
        for name in names {
            fs::copy(component_file("fixtures", "chaos"), world.plugins().join(format!("{name}.wasm"))).unwrap();
        }
        world
    }

    /// The settings of the next start.
    pub fn set(&self, settings: &str) {
        fs::write(self.settings(), settings).unwrap();
    }

    /// A path for a file of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn settings(&self) -> PathBuf {
        self.path("wasaga.toml")
    }

    fn plugins(&self) -> PathBuf {
        self.path("plugins")
    }

    /// What starts the program.
    pub fn command(&self) -> Command {
        self.command_on("127.0.0.1:0")
    }

    /// As [`World::command`], on this address.
    pub fn command_on(&self, address: &str) -> Command {
        let mut command = Command::new(program());
        command.args(["--listen", address, "--config"]).arg(self.settings()).arg("--data").arg(&self.data);
        command.arg("--plugins").arg(self.plugins());
        command
    }

    pub fn start(&self) -> Host {
        Host::run(self.command())
    }
}

/// The same command with limits of open files: the soft and the hard one.
pub fn with_files(command: &Command, soft: u32, hard: u32) -> Command {
    let mut limited = Command::new("sh");
    // First the soft one, which the hard one must not be below.
    limited.args(["-c", &format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$@\""), "sh"]);
    limited.arg(command.get_program()).args(command.get_args());
    limited
}

/// Raises this process's own limit of open files, of which a test needs so many. A host that is started after it starts
/// with the limit that its test sets.
pub fn need_files(wanted: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < wanted) {
        assert!(maximum.is_none_or(|most| most >= wanted), "the test needs {wanted} open files: raise `ulimit -Hn`");
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).unwrap();
    }
}

/// Runs a command that must not become a host, and gives what it has logged. It must end with a failure, and not by a
/// signal.
pub fn refused(command: Command) -> String {
    refused_unless_ready(command).expect("the host has become ready")
}

/// As [`refused`]; but if the command becomes a host, `None`, and the host is killed.
pub fn refused_unless_ready(mut command: Command) -> Option<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut child = command.stdout(Stdio::null()).stderr(file.reopen().unwrap()).spawn().unwrap();
    let log = || fs::read_to_string(file.path()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let ended = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if log().contains("ready on http://") || Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (log, Some(status)) = (log(), ended) else {
        assert!(log().contains("ready on http://"), "the host neither refuses to start nor becomes ready:\n{}", log());
        return None;
    };
    assert!(status.code().is_some_and(|code| code != 0), "{status}:\n{log}");
    Some(log)
}

/// The host must still run.
pub fn assert_alive(host: &Host) {
    assert!(host.ended().is_none(), "the host has ended by itself:\n{}", last_lines(&host.log()));
}

/// The last lines of a log, without those of single sagas.
pub fn last_lines(log: &[String]) -> String {
    let lines: Vec<&str> = log.iter().map(String::as_str).filter(|line| !line.contains("saga finished")).collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// Waits until all these sagas have succeeded.
pub async fn all_succeed(host: &Host, gids: impl IntoIterator<Item = String>) {
    let mut client = Client::new(&host.address);
    let mut left: Vec<String> = gids.into_iter().collect();
    let wanted = left.len();
    let deadline = Instant::now() + 2 * PATIENCE;
    while let Some(gid) = left.last() {
        match client.status(gid).await.as_deref() {
            Some("succeed") => _ = left.pop(),
            Some("submitted") => tokio::time::sleep(Duration::from_millis(20)).await,
            other => panic!("{gid} was accepted and is {other:?}"),
        }
        assert!(Instant::now() < deadline, "{} of {wanted} sagas do not end:\n{}", left.len(), last_lines(&host.log()));
    }
}

/// Does this, unless the host ends meanwhile.
///
/// # Panics
/// If it does.
pub async fn unless_it_ends<T>(host: &Host, what: impl Future<Output = T>) -> T {
    let ended = async {
        while host.ended().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        done = what => done,
        () = ended => panic!("the host has ended by itself:\n{}", last_lines(&host.log())),
    }
}

/// Waits until the host has ended by itself.
pub async fn ends(host: &Host) -> std::process::ExitStatus {
    poll(|| async { host.ended() }, || format!("the host does not end:\n{}", last_lines(&host.log()))).await
}

/// Every file of a folder with its length and content, and every folder.
pub fn files(folder: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
            found.push((path, None));
        } else {
            let content = fs::read(&path).unwrap();
            found.push((path, Some(content)));
        }
    }
    found.sort();
    found
}
