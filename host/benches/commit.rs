//! What a commit costs, and what waiting for the disk adds.
//!
//! Run with: `cargo bench --bench commit`. It writes to a temporary directory, so `TMPDIR` chooses the disk.
#![allow(clippy::cast_precision_loss, missing_docs)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wasaga::store::{Batch, LocalStore, Read, Settings, Store};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations<T>(of: impl FnOnce() -> T) -> (T, u64) {
    let before = ALLOCATIONS.get();
    let result = of();
    (result, ALLOCATIONS.get() - before)
}

/// What a contained saga writes: its row and a list entry.
fn batch(n: u64) -> Batch {
    let mut batch = Batch::new();
    batch.put(n.to_be_bytes(), [7; 250]);
    batch.put([&[1][..], &n.to_be_bytes()].concat(), []);
    batch
}

fn open() -> (Arc<LocalStore>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = LocalStore::open(Settings::new(dir.path())).unwrap();
    (Arc::new(store), dir)
}

fn accept(criterion: &mut Criterion) {
    let (store, _dir) = open();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut n = 10_000;
    let (batches, building) = allocations(|| (0..n).map(batch).collect::<Vec<_>>());
    let ((), accepting) = allocations(|| batches.into_iter().for_each(|batch| drop(store.commit(batch).unwrap())));
    println!("allocations: {:.2} a batch, {:.2} a commit", building as f64 / n as f64, accepting as f64 / n as f64);
    let mut group = criterion.benchmark_group("commit");
    group.bench_function("batch", |bencher| bencher.iter(|| batch(black_box(7))));
    // Accepting alone: what the threads behind it then do is awaited, and not counted.
    let mut accept = |name: &str, make: &dyn Fn(u64) -> Batch| {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut took = Duration::ZERO;
                let mut left = iterations;
                while left > 0 {
                    let batches: Vec<Batch> = (0..left.min(1000))
                        .map(|_| {
                            make({
                                n += 1;
                                n
                            })
                        })
                        .collect();
                    left -= batches.len() as u64;
                    let began = Instant::now();
                    for batch in batches {
                        black_box(store.commit(batch).unwrap());
                    }
                    took += began.elapsed();
                    runtime.block_on(store.barrier().durable()).unwrap();
                }
                took
            });
        });
    };
    accept("accept", &batch);
    accept("accept, one key expected", &|n| {
        let mut batch = batch(n);
        batch.expect(n.to_be_bytes(), None);
        batch
    });
    group.finish();
    let key = n.to_be_bytes();
    criterion
        .bench_function("get", |bencher| bencher.iter(|| store.get(black_box(&key)).unwrap().map(|v: Bytes| v.len())));
}

fn durable(criterion: &mut Criterion) {
    let (store, _dir) = open();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let mut group = criterion.benchmark_group("commit and wait");
    let mut next = 0;
    for writers in [1_u64, 16, 64, 256] {
        group.throughput(Throughput::Elements(writers));
        group.bench_function(format!("{writers} writers"), |bencher| {
            bencher.iter_custom(|iterations| {
                let first = next;
                next += iterations * writers;
                let began = Instant::now();
                runtime.block_on(async {
                    let tasks: Vec<_> = (0..writers)
                        .map(|writer| {
                            let (store, first) = (Arc::clone(&store), first + writer * iterations);
                            tokio::spawn(async move {
                                for n in first..first + iterations {
                                    store.commit(batch(n)).unwrap().durable().await.unwrap();
                                }
                            })
                        })
                        .collect();
                    for task in tasks {
                        task.await.unwrap();
                    }
                });
                began.elapsed()
            });
        });
    }
    group.finish();
    let stats = store.stats();
    println!(
        "{:.1} commits a sync, {} rows in {} rounds",
        stats.commits as f64 / stats.syncs as f64,
        stats.rows,
        stats.rounds
    );
}

criterion_group!(benches, accept, durable);
criterion_main!(benches);
