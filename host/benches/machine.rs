//! What the saga machine costs: a whole two-step saga, decided, folded and replayed, without store and branches.

#![allow(missing_docs)]

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use wasaga::saga::{
    BranchOp, Definition, Event, Gid, InFlight, Next, Options, Order, Policy, Saga, Step, Timestamp, Verdict,
};

fn definition(steps: usize) -> Arc<Definition> {
    let step = Step {
        action: "wasm://service-a/try".into(),
        compensation: "wasm://service-a/cancel".into(),
        payload: r#"{"amount":100}"#.into(),
    };
    let gid = Gid::new("a-gid-of-usual-length").unwrap();
    Arc::new(Definition::new(gid, vec![step; steps], Order::default(), Options::default(), Timestamp(0)).unwrap())
}

/// Runs a saga to its end; the action of `rejected` is refused.
fn run(definition: &Arc<Definition>, rejected: Option<usize>) -> Vec<Event> {
    let mut saga = Saga::new(definition.clone());
    let mut log = Vec::new();
    let mut in_flight = InFlight::default();
    let policy = Policy::default();
    let submitted = Event::Submitted { at: Timestamp(0) };
    saga.apply(&submitted).unwrap();
    log.push(submitted);
    loop {
        let event = match saga.next(&in_flight, Timestamp(1)) {
            Next::Decide(event) => event,
            Next::Call(branch_op @ BranchOp { step, .. }) => {
                in_flight.begin(branch_op, ());
                let verdict = if rejected == Some(step) {
                    Verdict::Rejected { reason: "no".into() }
                } else {
                    Verdict::Succeeded { output: None }
                };
                let event = saga.conclude(branch_op, verdict, Timestamp(1), &policy, 0.5);
                in_flight.end(branch_op);
                event
            }
            Next::Drop(_) | Next::Wait(_) | Next::Finished => return log,
        };
        saga.apply(&event).unwrap();
        log.push(event);
    }
}

fn benches(criterion: &mut Criterion) {
    for steps in [2, 20] {
        let definition = definition(steps);
        criterion.bench_function(&format!("{steps} steps, succeed"), |bencher| {
            bencher.iter(|| run(black_box(&definition), None));
        });
        criterion.bench_function(&format!("{steps} steps, the last rejected"), |bencher| {
            bencher.iter(|| run(black_box(&definition), Some(steps - 1)));
        });
        let log = run(&definition, Some(steps - 1));
        criterion.bench_function(&format!("{steps} steps, replay of a roll-back"), |bencher| {
            bencher.iter(|| Saga::replay(black_box(definition.clone()), &log).unwrap());
        });
    }
}

criterion_group!(machine, benches);
criterion_main!(machine);
