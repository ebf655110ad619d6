//! Fuzz targets: the stored forms of sagas.

use std::collections::BTreeMap;

use wasaga_fuzz::Target;

use super::*;
use crate::saga::{BranchOp, Digest, Failure, InFlight, Next, Op, Options, Order, Pins, Step};

fn definition(steps: usize) -> Definition {
    let step = |n: usize| Step {
        action: format!("wasm://a{n}/try"),
        compensation: format!("http://c{n}"),
        payload: "{}".into(),
    };
    let order = Order { concurrent: true, after: BTreeMap::from([(1, vec![0])]) };
    let options = Options { retry_limit: 3, branch_headers: vec![("k".into(), "v".into())], ..Options::default() };
    Definition::new(Gid::new("g").unwrap(), (0..steps).map(step).collect(), order, options, Timestamp(7)).unwrap()
}

/// The log of a saga that is rolled back, and some of what can stand in between.
fn events() -> Vec<Event> {
    let (at, op) = (Timestamp(8), Op::Action);
    let mut pins = Pins::default();
    pins.set(BranchOp { step: 0, op }, Pin { plugin: "a0".into(), digest: Digest([7; 32]) });
    vec![
        Event::Pinned { pins, at },
        Event::Submitted { at },
        Event::Started { step: 0, op, at },
        Event::Succeeded { step: 0, op, output: Some("{}".into()), at },
        Event::Started { step: 1, op, at },
        Event::Failed { step: 1, op, failure: Failure::Unknown { error: "lost".into() }, retry_at: at, at },
        Event::RetryRequested { at },
        Event::Started { step: 1, op, at },
        Event::Rejected { step: 1, reason: "no".into(), at },
        Event::Started { step: 0, op: Op::Compensate, at },
        Event::Succeeded { step: 0, op: Op::Compensate, output: None, at },
    ]
}

fn log(definition: &Definition, events: &[Event]) -> Vec<u8> {
    let mut chunk = new_chunk();
    write_definition(&mut chunk, definition).unwrap();
    for event in events {
        write_event(&mut chunk, event).unwrap();
    }
    chunk
}

/// A log that can be read is that of a saga which goes on without a panic, and is written again as it was read.
#[test]
fn fuzz_logs() {
    let definition = definition(2);
    let events = events();
    let mut target = Target::new("logs").tokens([&b"\x01\x00"[..], b"\x01\x01", b"\x01\x04", b"wasm://a/try"]);
    for end in 0..=events.len() {
        target = target.seed(log(&definition, &events[..end]));
    }
    target.run(|chunk| {
        let Ok(record) = read_log(SagaId(1), [chunk]) else { return };
        let again = log(record.saga.definition(), &record.log);
        assert_eq!(read_log(SagaId(1), [&*again]).unwrap(), record);
        for now in [0, 8, u64::MAX] {
            let next = record.saga.next(&InFlight::<()>::default(), Timestamp(now));
            if let Next::Decide(event) = next {
                record.saga.clone().apply(&event).unwrap();
            }
        }
    });
}

#[test]
fn fuzz_rows() {
    let pins = vec![Pin { plugin: "a".into(), digest: Digest([7; 32]) }];
    let gid = Gid::new("g").unwrap();
    let open = |due, pins| write_open(&Open { due, status: OpenStatus::Aborting, gid: gid.clone(), pins }).unwrap();
    Target::new("rows")
        .seed(open(None, None))
        .seed(open(Some(Timestamp(u64::MAX)), Some(pins)))
        .seed(write_id(SagaId(7)))
        .run(|value| {
            if let Ok(open) = read_open(value) {
                assert_eq!(read_open(&write_open(&open).unwrap()).unwrap(), open);
            }
            if let Ok(id) = read_id(value) {
                assert!(value.starts_with(&write_id(id)));
            }
        });
}
