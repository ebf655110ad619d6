//! Any history of concurrent local transactions is serialisable in commit order.
//!
//! Many attempts of random scripts run at once, of two plugins that share a bucket. What succeeded is committed, or made
//! again when that conflicts. The order of all commits, and of all rejections at the time at which they were found to
//! rest on what is so, is kept; then a model runs the same scripts in that order, one after the other, and must come to
//! the same outputs and reasons.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use fastrand::Rng;
use tokio::task::{JoinSet, yield_now};
use wasaga::store::{Batch, CommitError, Error, Range, Read, Store};

use super::{
    keyvalue::{World, kv},
    *,
};

const CLIENTS: usize = 16;
const SCRIPTS_PER_CLIENT: usize = 40;

/// One attempt that counts: whose, of what, and what came of it.
#[derive(Debug)]
struct Entry {
    plugin: &'static str,
    script: Value,
    result: Result<Value, String>,
}

/// The order. Locked while something takes its place in it.
#[derive(Default)]
struct History {
    entries: Mutex<Vec<Option<Entry>>>,
    conflicts: AtomicUsize,
}

/// The state of one attempt. When its reads are found to be current, a place is kept for its rejection.
struct Watched {
    store: Arc<LocalStore>,
    history: Arc<History>,
    place: Mutex<Option<usize>>,
}

impl History {
    fn entries(&self) -> MutexGuard<'_, Vec<Option<Entry>>> {
        self.entries.lock().unwrap()
    }
}

impl Read for Watched {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let value = self.store.get(key);
        // Lets others commit between the reads of one attempt.
        std::thread::yield_now();
        value
    }

    fn scan(&self, range: &Range, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.store.scan(range, limit)
    }

    fn is_current(&self, batch: &Batch) -> Result<bool, Error> {
        let mut entries = self.history.entries();
        let is_current = self.store.is_current(batch)?;
        if is_current {
            *self.place.lock().unwrap() = Some(entries.len());
            entries.push(None);
        }
        Ok(is_current)
    }
}

/// Runs a script until it counts.
async fn settle(world: &World, history: &Arc<History>, plugin: &'static str, script: Value) {
    loop {
        let (store, place) = (world.store.clone(), Mutex::default());
        let state = Arc::new(Watched { store, history: history.clone(), place });
        let outcome = world.attempt(plugin, &kv(&script), state.clone()).await;
        // Now all others have their turn, which may change what was read.
        yield_now().await;
        match outcome {
            Outcome::Ended { verdict: Verdict::Succeeded { output }, effects } => {
                let result = Ok(serde_json::from_str(&output.unwrap()).unwrap());
                let mut entries = history.entries();
                match world.store.commit(effects) {
                    Ok(_) => return entries.push(Some(Entry { plugin, script, result })),
                    Err(CommitError::Conflict { .. }) => _ = history.conflicts.fetch_add(1, Relaxed),
                    Err(other) => panic!("{other}"),
                }
            }
            Outcome::Ended { verdict: Verdict::Rejected { reason }, .. } => {
                let entry = Some(Entry { plugin, script, result: Err(reason) });
                let (mut entries, place) = (history.entries(), *state.place.lock().unwrap());
                match place {
                    Some(place) => entries[place] = entry,
                    // What has read nothing was right at any time.
                    None => entries.push(entry),
                }
                return;
            }
            Outcome::Stale => {}
            other @ Outcome::Ended { .. } => panic!("{other:?}"),
        }
    }
}

fn script(random: &mut Rng) -> Value {
    let mut steps = Vec::new();
    for _ in 0..random.usize(1..7) {
        let (key, value) = (format!("k{}", random.u8(..4)), random.u8(..3).to_string());
        steps.push(match random.u8(..12) {
            0..3 => json!(["get", key]),
            3..5 => json!(["set", key, value]),
            5 => json!(["delete", key]),
            6 => json!(["exists", key]),
            7 => json!(["increment", key, random.i8(-3..4)]),
            8 => json!(["cas", key, value]),
            9 => json!(["list"]),
            10 => json!(["must be", key, value]),
            _ => json!(["bucket", if random.bool() { "shared" } else { "default" }]),
        });
    }
    json!(steps)
}

/// Lists of several pages, and keys that come and go in all of them.
fn listing_script(random: &mut Rng) -> Value {
    let mut steps = Vec::new();
    for _ in 0..random.usize(1..4) {
        let key = format!("k{:03}", random.u16(..LISTED));
        steps.push(match random.u8(..8) {
            0..3 => json!(["list"]),
            3..5 => json!(["set", key, "1"]),
            5..7 => json!(["delete", key]),
            _ => json!(["must be", key, "1"]),
        });
    }
    steps.push(json!(["bucket", "shared"]));
    steps.rotate_right(1);
    json!(steps)
}

/// Keys that there may be in a list: two full pages and a part of a third, about half of the time.
const LISTED: u16 = 450;

/// The same scripts, in one map, one after the other.
#[derive(Default)]
struct Model(BTreeMap<(&'static str, String), String>);

impl Model {
    /// A script that is rejected changes nothing.
    fn run(&mut self, plugin: &'static str, script: &Value) -> Result<Value, String> {
        let before = self.0.clone();
        let mut bucket = plugin;
        let mut results = Vec::new();
        for step in script.as_array().unwrap() {
            let text = |at: usize| step[at].as_str().unwrap_or_default().to_owned();
            let place = (bucket, text(1));
            let found = json!(self.0.get(&place));
            results.push(match step[0].as_str().unwrap() {
                "get" => found,
                "exists" => json!(!found.is_null()),
                "list" => self.0.keys().filter(|(of, _)| *of == bucket).map(|(_, key)| json!(key)).collect(),
                "must be" if found == step[2] => Value::Null,
                "must be" => {
                    self.0 = before;
                    return Err(format!("{} is {found}", text(1)));
                }
                "increment" => {
                    let sum = found.as_str().map_or(0, |text| text.parse().unwrap()) + step[2].as_i64().unwrap();
                    self.0.insert(place, sum.to_string());
                    json!(sum)
                }
                "set" => {
                    self.0.insert(place, text(2));
                    Value::Null
                }
                "cas" => {
                    self.0.insert(place, text(2));
                    found
                }
                "delete" => {
                    self.0.remove(&place);
                    Value::Null
                }
                "bucket" => {
                    bucket = if step[1] == "shared" { "shared" } else { plugin };
                    Value::Null
                }
                other => panic!("{other}"),
            });
        }
        Ok(Value::Array(results))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_history_is_serialisable_in_commit_order() {
    let history = Arc::new(History::default());
    let rejections = run(&history, None, script).await;
    let conflicts = history.conflicts.load(Relaxed);
    assert!(conflicts > 50 && rejections > 50, "{conflicts} conflicts, {rejections} rejections");
}

/// No key appears between the pages of a list, nor between the list and the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn histories_with_long_lists_are_serialisable_too() {
    let history = Arc::new(History::default());
    let mut filling: Vec<_> = (0..LISTED).step_by(2).map(|at| json!(["set", format!("k{at:03}"), "1"])).collect();
    filling.insert(0, json!(["bucket", "shared"]));
    run(&history, Some(json!(filling)), listing_script).await;
    let conflicts = history.conflicts.load(Relaxed);
    assert!(conflicts > 50, "{conflicts} conflicts");
}

/// Lets all clients run their scripts after a first one, and compares the history with the model. Returns how many were
/// rejected.
async fn run(history: &Arc<History>, first: Option<Value>, script: fn(&mut Rng) -> Value) -> usize {
    let seed = wasaga_testkit::seed(fastrand::u64(..));
    let world = Arc::new(World::new());
    let firsts = first.iter().count();
    if let Some(first) = first {
        settle(&world, history, "one", first).await;
    }
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (world, history) = (world.clone(), history.clone());
        clients.spawn(async move {
            let mut random = Rng::with_seed(seed.wrapping_add(client as u64));
            for _ in 0..SCRIPTS_PER_CLIENT {
                let plugin = if random.bool() { "one" } else { "other" };
                settle(&world, &history, plugin, script(&mut random)).await;
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }

    let mut model = Model::default();
    let entries = history.entries();
    assert_eq!(entries.len(), firsts + CLIENTS * SCRIPTS_PER_CLIENT, "seed {seed}");
    let mut rejections = 0;
    for entry in entries.iter() {
        let Entry { plugin, script, result } = entry.as_ref().expect("every kept place is filled");
        rejections += usize::from(result.is_err());
        assert_eq!(model.run(plugin, script), *result, "seed {seed}: {script} of {plugin}");
    }
    rejections
}
