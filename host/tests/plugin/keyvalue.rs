//! The key-value import, as guests use it: what they did is one batch, and what they were wrong about does not count.

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use tempfile::TempDir;
use wasaga::{
    plugin::{Grants, Limits, grants},
    store::{Batch, CommitError, Error, Range, Read, Store},
};

use super::*;

/// A store of its own, where chaos runs under two names, `one` and `other`; both are granted the bucket `shared`.
pub struct World {
    pub store: Arc<LocalStore>,
    plugins: Registry,
    _dir: TempDir,
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plugins = dir.path().join("plugins");
        fs::create_dir(&plugins).unwrap();
        let shared = grants::Settings { shared: ["shared".to_owned()].into(), ..grants::Settings::default() };
        let grants =
            ["one", "other"].map(|name| (name.to_owned(), Arc::new(Grants::new(name, &shared).unwrap()))).into();
        for name in ["one", "other", "stranger"] {
            fs::write(plugins.join(name).with_extension("wasm"), component("fixtures", "chaos")).unwrap();
        }
        let plugins = load(&Settings { grants, ..Settings::default() }, &plugins);
        let store = Arc::new(LocalStore::open(store::Settings::new(dir.path().join("store"))).unwrap().0);
        Self { store, plugins, _dir: dir }
    }

    /// One attempt of a script, on `state`.
    pub async fn attempt(&self, plugin: &str, wish: &Value, state: Arc<dyn Read>) -> Outcome {
        let (call, host) = (call(Op::Action, &wish.to_string()), Host { state, ..host() });
        branch(&self.plugins, plugin, Op::Action).call(&call, &host).await
    }

    /// Runs a script, commits what it did and returns its results.
    async fn run(&self, plugin: &str, script: Value) -> Value {
        let (output, effects) = succeeded(self.attempt(plugin, &kv(&script), self.store.clone()).await);
        self.store.commit(effects).unwrap();
        output
    }
}

/// The payload for a script.
pub fn kv(script: &Value) -> Value {
    json!({"try": "kv", "kv": script})
}

pub fn succeeded(outcome: Outcome) -> (Value, Batch) {
    match outcome {
        Outcome::Ended { verdict: Verdict::Succeeded { output: Some(output) }, effects } => {
            (serde_json::from_str(&output).unwrap(), effects)
        }
        other => panic!("not succeeded: {other:?}"),
    }
}

/// A state that changes under its readers: each `get` of a key is followed by a change of it, as often as `times` says.
pub struct Meddler {
    store: Arc<LocalStore>,
    gets: AtomicUsize,
    times: usize,
}

impl Meddler {
    pub fn new(store: &Arc<LocalStore>, times: usize) -> Arc<Self> {
        Arc::new(Self { store: store.clone(), gets: AtomicUsize::new(0), times })
    }

    pub fn gets(&self) -> usize {
        self.gets.load(Relaxed)
    }
}

impl Read for Meddler {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let value = self.store.get(key);
        let count = self.gets.fetch_add(1, Relaxed) + 1;
        if count <= self.times {
            let mut batch = Batch::new();
            batch.put(key, count.to_string());
            self.store.commit(batch).unwrap();
        }
        value
    }

    fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.store.scan(range, limit)
    }

    fn is_current(&self, batch: &Batch) -> Result<bool, Error> {
        self.store.is_current(batch)
    }
}

#[tokio::test]
async fn every_operation() {
    let world = World::new();
    let script = json!([
        ["get", "k"],
        ["exists", "k"],
        ["set", "k", "v"],
        ["get", "k"],
        ["exists", "k"],
        ["increment", "n", 3],
        ["increment", "n", -5],
        ["get", "n"],
        ["increment", "n", i64::MIN],
        ["cas", "k", "w"],
        ["late cas", "k", "x", "y"],
        ["get", "k"],
        ["list"],
        ["set many", ["a", "b"], "c"],
        ["get many", ["a", "z", "k"]],
        ["delete many", ["a", "k", "z"]],
        ["list"],
    ]);
    let overflow = json!({"error": r#"Error::Other("the sum does not fit into 64 bits")"#});
    let expected = json!([
        null,
        false,
        null,
        "v",
        true,
        3,
        -2,
        "-2",
        overflow,
        "v",
        "x",
        "y",
        ["k", "n"],
        null,
        [["a", "c"], null, ["k", "y"]],
        null,
        ["b", "n"],
    ]);
    assert_eq!(world.run("one", script).await, expected);
    assert_eq!(world.run("one", json!([["get", "b"], ["delete", "b"], ["list"]])).await, json!(["c", null, ["n"]]));
}

#[tokio::test]
async fn nothing_is_there_before_it_is_committed() {
    let world = World::new();
    let script = json!([["set", "k", "v"], ["list"]]);
    let (output, effects) = succeeded(world.attempt("one", &kv(&script), world.store.clone()).await);
    assert_eq!(output, json!([null, ["k"]]));
    assert_eq!(world.run("one", json!([["list"], ["get", "k"]])).await, json!([[], null]));
    // That it was not there was seen only by an attempt that has ended since, and the writes were blind but for the list.
    world.store.commit(effects).unwrap();
    assert_eq!(world.run("one", json!([["list"], ["get", "k"]])).await, json!([["k"], "v"]));
}

#[tokio::test]
async fn an_idle_guest_has_no_effects() {
    let world = World::new();
    assert!(succeeded(world.attempt("one", &kv(&json!([])), world.store.clone()).await).1.is_empty());
}

#[tokio::test]
async fn a_success_on_stale_reads_is_refused_by_the_store_even_if_it_writes_nothing() {
    let world = World::new();
    for script in [json!([["get", "k"]]), json!([["list"]]), json!([["exists", "k"], ["set", "l", "1"]])] {
        let (_, effects) = succeeded(world.attempt("one", &kv(&script), world.store.clone()).await);
        assert!(!effects.is_empty());
        world.run("one", json!([["set", "k", "1"]])).await;
        let refused = world.store.commit(effects).unwrap_err();
        assert!(matches!(refused, CommitError::Conflict { .. }), "{refused:?}");
        world.run("one", json!([["delete", "k"]])).await;
    }
}

/// The first run sees no value, since it read before the change, and rejects. The second sees it.
#[tokio::test]
async fn a_rejection_on_stale_reads_never_gets_out() {
    let world = World::new();
    let state = Meddler::new(&world.store, 1);
    let (output, _) = succeeded(world.attempt("one", &kv(&json!([["must be", "k", "1"]])), state.clone()).await);
    assert_eq!((output, state.gets()), (json!([null]), 2));
    // Without a conflicting commit, it is final at once.
    let state = Meddler::new(&world.store, 0);
    let reason = rejected(world.attempt("one", &kv(&json!([["must be", "k", "2"]])), state.clone()).await);
    assert_eq!((reason.as_str(), state.gets()), (r#"k is "1""#, 1));
}

#[tokio::test]
async fn every_end_but_success_is_made_again_until_its_reads_are_current() {
    let world = World::new();
    for (then, words) in [
        ("reject", "Rejected"),
        ("go on", "Ongoing"),
        ("be unavailable", "Unknown"),
        ("trap", "unreachable"),
        ("exit", "exit code 1"),
        ("hoard handles", "(handles)"),
    ] {
        for times in [0, 3] {
            let state = Meddler::new(&world.store, times);
            let wish = json!({"try": "kv", "kv": [["get", "k"], ["set", "never", "1"]], "then": then});
            let outcome = world.attempt("one", &wish, state.clone()).await;
            assert!(format!("{outcome:?}").contains(words), "{then}: {outcome:?}");
            assert_eq!(state.gets(), times + 1, "{then}");
        }
    }
    assert_eq!(world.run("one", json!([["get", "never"]])).await, json!([null]));
}

#[tokio::test]
async fn an_attempt_that_never_sees_what_is_so_is_given_back_after_some_runs() {
    let world = World::new();
    let state = Meddler::new(&world.store, usize::MAX);
    let outcome = world.attempt("one", &kv(&json!([["must be", "k", "never"]])), state.clone()).await;
    assert!(matches!(outcome, Outcome::Stale), "{outcome:?}");
    assert_eq!(state.gets(), 8);
}

#[tokio::test]
async fn a_run_that_does_not_count_leaves_no_words_in_the_next_ones_error() {
    let world = World::new();
    let state = Meddler::new(&world.store, 2);
    let wish = json!({"try": "kv", "kv": [["get", "k"]], "then": "panic", "text": "seat map is gone"});
    let error = unknown(world.attempt("one", &wish, state).await);
    assert_eq!(error.matches("seat map is gone").count(), 1, "{error}");
}

#[tokio::test]
async fn buckets_belong_to_their_plugin_unless_they_are_shared() {
    let world = World::new();
    let write = |value| {
        json!(
            [["set", "k", value], ["bucket", "shared"], ["set", "k", value], ["bucket", "more"], ["set", "k", value],]
        )
    };
    for plugin in ["one", "other", "stranger"] {
        world.run(plugin, write(plugin)).await;
    }
    let read = json!([
        ["get", "k"],
        ["bucket", "default"],
        ["get", "k"],
        ["bucket", "shared"],
        ["get", "k"],
        ["bucket", "more"],
        ["get", "k"],
    ]);
    for (plugin, shared) in [("one", "other"), ("other", "other"), ("stranger", "stranger")] {
        let expected = json!([plugin, null, plugin, null, shared, null, plugin]);
        assert_eq!(world.run(plugin, read.clone()).await, expected, "{plugin}");
    }
}

#[tokio::test]
async fn odd_names_of_buckets_are_refused() {
    let world = World::new();
    let longest = "b".repeat(128);
    assert_eq!(world.run("one", json!([["bucket", longest], ["set", "k", "v"]])).await, json!([null, null]));
    for name in ["b".repeat(129), "a\nb".to_owned(), "\0".to_owned()] {
        let answer = world.run("one", json!([["bucket", name]])).await;
        assert!(answer[0]["error"].as_str().unwrap().contains("128 bytes and no control characters"), "{answer}");
    }
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let world = World::new();
    let keys: Vec<String> = (0..250).map(|at| format!("k{at:03}")).collect();
    let script = json!([["set many", keys, "v"], ["page"], ["page", "k099"], ["page", "k199"], ["list"]]);
    let answer = world.run("one", script.clone()).await;
    for (at, (from, to, cursor)) in
        [(0, 100, json!("k099")), (100, 200, json!("k199")), (200, 250, Value::Null)].into_iter().enumerate()
    {
        assert_eq!(answer[at + 1], json!({"keys": keys[from..to], "cursor": cursor}));
    }
    assert_eq!(answer[4], json!(keys));
    assert_eq!(world.run("one", script).await, answer, "from the store, as from its own writes");
}

/// The error of one operation that a script ends with, which the guest is told and may handle.
async fn refused(script: Value, words: &[&str]) {
    let world = World::new();
    let (output, _) = succeeded(world.attempt("one", &kv(&script), world.store.clone()).await);
    let last = output.as_array().unwrap().last().unwrap();
    let error = last["error"].as_str().unwrap_or_else(|| panic!("no error: {last}"));
    for word in words {
        assert!(error.contains(word), "no {word:?} in {error:?}");
    }
    assert_eq!(world.run("one", json!([["set", "k", "v"], ["get", "k"]])).await, json!([null, "v"]));
}

#[tokio::test]
async fn a_huge_key_or_value() {
    let Limits { kv_key_bytes, kv_value_bytes, .. } = Limits::default();
    refused(json!([["get", kv_key_bytes], ["get", kv_key_bytes + 1]]), &["kv_key_bytes", "512"]).await;
    let set = |bytes| json!(["set", "k", bytes]);
    refused(json!([set(kv_value_bytes), set(kv_value_bytes + 1)]), &["kv_value_bytes", "262144"]).await;
}

#[tokio::test]
async fn writing_on_and_on() {
    refused(json!([["fill", "k", 1000]]), &["kv_write_bytes", "1048576"]).await;
    refused(json!([["fill", "k", 0]]), &["kv_operations", "10000"]).await;
}

#[tokio::test]
async fn reading_on_and_on() {
    refused(json!([["set", "k", 100_000], ["read on", "k"]]), &["kv_read_bytes", "8388608"]).await;
    refused(json!([["read on", "k"]]), &["kv_operations", "10000"]).await;
    let keys = vec!["k"; 9000];
    refused(json!([["set", "k", 200_000], ["get many", keys]]), &["kv_read_bytes", "8388608"]).await;
}

#[tokio::test]
async fn opening_buckets_on_and_on() {
    let world = World::new();
    let error = unknown(world.attempt("one", &kv(&json!([["open on", "b"]])), world.store.clone()).await);
    assert!(error.contains("(handles)") && error.contains("1024"), "{error}");
    assert_eq!(world.run("one", json!([["get", "k"]])).await, json!([null]));
}

/// A state that cannot be read.
struct Failed;

impl Read for Failed {
    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, Error> {
        Err(Error::Closed)
    }

    fn scan(&self, _range: &Range, _limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        Err(Error::Closed)
    }

    fn is_current(&self, _batch: &Batch) -> Result<bool, Error> {
        Err(Error::Closed)
    }
}

#[tokio::test]
async fn a_failing_store_is_nobodys_decision() {
    let world = World::new();
    for read in [json!(["get", "k"]), json!(["list"])] {
        let error = unknown(world.attempt("one", &kv(&json!([read])), Arc::new(Failed)).await);
        assert!(error.contains("cannot be read") && error.contains("the store is closed"), "{error}");
    }
}

#[tokio::test]
async fn a_compensation_writes_too() {
    let world = World::new();
    let payload = json!({"cancel": "kv", "kv": [["increment", "n", 1]]}).to_string();
    let (call, host) = (call(Op::Compensate, &payload), Host { state: world.store.clone(), ..host() });
    let Outcome::Ended { verdict: Verdict::Succeeded { .. }, effects } =
        branch(&world.plugins, "one", Op::Compensate).call(&call, &host).await
    else {
        panic!("not succeeded")
    };
    world.store.commit(effects).unwrap();
    assert_eq!(world.run("one", json!([["get", "n"]])).await, json!(["1"]));
}
