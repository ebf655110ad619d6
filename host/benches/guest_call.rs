//! What a guest costs: one call, each in a fresh instance, and loading a component whose code is cached.
//!
//! Run with: `make plugins fixtures && cargo bench --bench guest_call`

#![allow(missing_docs)]

use std::{path::Path, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime;
use wasaga::{
    branch::Host,
    plugin::{Code, Registry, Runtime, Settings},
    saga::{Op, Options},
    store::{self, LocalStore, Read},
};
use wasaga_testkit::{branch_call, branch_host};

fn load(runtime: &Runtime, folder: &str) -> Registry {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").join(folder);
    let registry = Registry::load(runtime, &dir, Vec::new());
    assert!(!registry.plugins().is_empty(), "run `make plugins fixtures`");
    registry
}

fn calls(criterion: &mut Criterion) {
    let wasm = Runtime::new(&Settings::default()).unwrap();
    let tokio = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let state: Arc<dyn Read> = Arc::new(LocalStore::open(store::Settings::new(dir.path())).unwrap().0);
    for (name, folder, target, payload) in [
        ("chaos/nothing", "fixtures", "wasm://chaos/try", "{}"),
        ("chaos/echo", "fixtures", "wasm://chaos/try", r#"{"try":"echo"}"#),
        ("service-a/try", "plugins", "wasm://service-a/try", r#"{"amount":100}"#),
        ("service-b/try", "plugins", "wasm://service-b/try", r#"{"amount":100}"#),
    ] {
        let branch = load(&wasm, folder).resolve(target, Op::Action).unwrap().unwrap();
        let call = branch_call("bench", &[payload], Options::default());
        let host = Host { state: state.clone(), ..branch_host() };
        criterion.bench_function(name, |bencher| {
            bencher.to_async(&tokio).iter(async || {
                let outcome = branch.call(&call, &host).await;
                assert!(outcome.has_succeeded(), "{outcome:?}");
            });
        });
    }
}

fn loading(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { cache_dir: Some(dir.path().to_owned()), ..Settings::default() };
    let wasm = Runtime::new(&settings).unwrap();
    load(&wasm, "fixtures");
    criterion.bench_function("load/cached", |bencher| {
        bencher.iter(|| {
            let registry = load(&wasm, "fixtures");
            assert!(registry.plugins().iter().all(|plugin| plugin.code() == Code::Cached));
        });
    });
}

criterion_group!(benches, calls, loading);
criterion_main!(benches);
