//! Operations on the key-value store, as a script: `{"kv": [["set", "k", "v"], ["get", "k"]]}` gives `[null, "v"]`.
//!
//! The result of a failed operation is `{"error": text}`. Values are texts; a number means that many letters. Operations
//! use the bucket with the empty name until another one is opened.

use serde_json::{Value, json};

use crate::{
    exports::wasaga::saga::branch::Failure,
    misbehave,
    wasi::keyvalue::{
        atomics::{self, Cas, CasError},
        batch,
        store::{self, Bucket, Error},
    },
};

/// Runs the script, and then the action `then`.
pub fn run(wish: &Value) -> Result<Value, Failure> {
    let mut bucket = store::open("").map_err(|error| Failure::Unavailable(error.to_string()))?;
    let mut results = Vec::new();
    for step in wish["kv"].as_array().into_iter().flatten() {
        let step = Step(step);
        results.push(match step.text(0).as_str() {
            "bucket" => give(store::open(&step.text(1)).map(|opened| {
                bucket = opened;
                Value::Null
            })),
            "must be" => {
                let found = step.get(&bucket, &step.text(1));
                if found != step.0[2] {
                    return Err(Failure::Rejected(format!("{} is {found}", step.text(1))));
                }
                Value::Null
            }
            _ => step.run(&bucket),
        });
    }
    misbehave(wish["then"].as_str().unwrap_or_default(), wish)?;
    Ok(Value::Array(results))
}

struct Step<'a>(&'a Value);

impl Step<'_> {
    fn run(&self, bucket: &Bucket) -> Value {
        let key = self.text(1);
        match self.text(0).as_str() {
            "get" => self.get(bucket, &key),
            "set" => give(bucket.set(&key, self.text(2).as_bytes()).map(|()| Value::Null)),
            "delete" => give(bucket.delete(&key).map(|()| Value::Null)),
            "exists" => give(bucket.exists(&key).map(Value::Bool)),
            "increment" => give(atomics::increment(bucket, &key, self.0[2].as_i64().unwrap_or(1)).map(Value::from)),
            "list" => give(list(bucket)),
            "page" => give(page(bucket, self.0[1].as_str())),
            "cas" => give(cas(bucket, &key, &self.text(2))),
            "late cas" => give(late_cas(bucket, &key, &self.text(2), &self.text(3))),
            "get many" => give(batch::get_many(bucket, &self.keys()).map(|found| {
                found.into_iter().map(|found| found.map(|(key, value)| json!([key, show(&value)]))).collect()
            })),
            "set many" => {
                let value = self.text(2).into_bytes();
                let pairs: Vec<_> = self.keys().into_iter().map(|key| (key, value.clone())).collect();
                give(batch::set_many(bucket, &pairs).map(|()| Value::Null))
            }
            "delete many" => give(batch::delete_many(bucket, &self.keys()).map(|()| Value::Null)),
            // The following repeat until the first error, and return the number of successes.
            "fill" => repeat(|at| bucket.set(&format!("{key}{at}"), self.text(2).as_bytes())),
            "read on" => repeat(|_| bucket.get(&key).map(drop)),
            "open on" => {
                let mut hoard = Vec::new();
                repeat(|at| store::open(&format!("{key}{at}")).map(|bucket| hoard.push(bucket)))
            }
            unknown => json!({ "error": format!("chaos does not know how to {unknown}") }),
        }
    }

    fn get(&self, bucket: &Bucket, key: &str) -> Value {
        give(bucket.get(key).map(|value| value.as_deref().map_or(Value::Null, show)))
    }

    fn text(&self, at: usize) -> String {
        match &self.0[at] {
            Value::String(text) => text.clone(),
            length => "x".repeat(length.as_u64().unwrap_or_default() as usize),
        }
    }

    fn keys(&self) -> Vec<String> {
        self.0[1].as_array().into_iter().flatten().filter_map(|key| key.as_str().map(str::to_owned)).collect()
    }
}

fn list(bucket: &Bucket) -> Result<Value, Error> {
    let mut keys = Vec::new();
    let mut cursor = None;
    loop {
        let page = bucket.list_keys(cursor.as_deref())?;
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(json!(keys));
        }
    }
}

fn page(bucket: &Bucket, cursor: Option<&str>) -> Result<Value, Error> {
    let page = bucket.list_keys(cursor)?;
    Ok(json!({ "keys": page.keys, "cursor": page.cursor }))
}

/// Swaps a value; the result is the old one.
fn cas(bucket: &Bucket, key: &str, value: &str) -> Result<Value, Error> {
    let cas = Cas::new(bucket, key)?;
    let before = cas.current()?;
    match atomics::swap(cas, value.as_bytes()) {
        Ok(()) => Ok(before.as_deref().map_or(Value::Null, show)),
        Err(CasError::StoreError(error)) => Err(error),
        Err(CasError::CasFailed(_)) => Ok(json!("failed")),
    }
}

/// As [`cas`], but another value is written before the swap, which must fail. The result is the current value of the new
/// handle, with which the second swap succeeds.
fn late_cas(bucket: &Bucket, key: &str, between: &str, value: &str) -> Result<Value, Error> {
    let cas = Cas::new(bucket, key)?;
    bucket.set(key, between.as_bytes())?;
    let Err(CasError::CasFailed(fresh)) = atomics::swap(cas, value.as_bytes()) else { return Ok(json!("not failed")) };
    let shown = fresh.current()?;
    match atomics::swap(fresh, value.as_bytes()) {
        Ok(()) => Ok(shown.as_deref().map_or(Value::Null, show)),
        Err(_) => Ok(json!("failed again")),
    }
}

fn repeat(mut operation: impl FnMut(u64) -> Result<(), Error>) -> Value {
    let mut done = 0;
    loop {
        if let Err(error) = operation(done) {
            return json!({ "done": done, "error": error.to_string() });
        }
        done += 1;
    }
}

fn give(result: Result<Value, Error>) -> Value {
    result.unwrap_or_else(|error| json!({ "error": error.to_string() }))
}

fn show(value: &[u8]) -> Value {
    String::from_utf8_lossy(value).into()
}
