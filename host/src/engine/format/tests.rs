//! The bytes that the store holds. Stores on disks out there hold them too: when one of these fails, the type needs a
//! new version and a reader for the old one, not a new snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::*;
use crate::saga::{AbortReason, BranchOp, Digest, Failure, Op, Options, Order, Pins, Results, Step};

fn definition() -> Definition {
    let step = |n: u8| Step {
        action: format!("wasm://a{n}/try"),
        compensation: format!("http://c{n}"),
        payload: format!("{{\"n\":{n}}}").into(),
    };
    let options = Options {
        wait_result: true,
        timeout_to_fail_s: 1,
        request_timeout_s: 2,
        retry_interval_s: 3,
        retry_limit: 400,
        branch_headers: vec![("k".into(), "v".into())],
        concurrent: true,
        protocol: "http".into(),
        custom_data: "{}".into(),
        query_prepared: "q".into(),
        results: Results { any_2xx_succeeds: Some(true), rejects_5xx_after: Some(3) },
    };
    let order = Order { concurrent: true, after: BTreeMap::from([(1, vec![0])]) };
    let gid = Gid::new("g").unwrap();
    Definition::new(gid, vec![step(0), step(1)], order, options, Timestamp(1_700_000_000_000)).unwrap()
}

fn pin(plugin: &str) -> Pin {
    Pin { plugin: plugin.into(), digest: Digest(*b"the SHA-256 of a component: 32 B") }
}

/// One of each kind, and of each kind within. Not the log of a saga.
fn events() -> Vec<Event> {
    let at = Timestamp(1_700_000_000_001);
    let (action, back) = (Op::Action, Op::Compensate);
    let unknown = Failure::Unknown { error: "lost".into() };
    let mut pins = Pins::default();
    pins.set(BranchOp { step: 0, op: action }, pin("a"));
    pins.set(BranchOp { step: 1, op: back }, pin("b"));
    vec![
        Event::Submitted { at },
        Event::Started { step: 1, op: action, at },
        Event::Succeeded { step: 1, op: action, output: Some("out".into()), at },
        Event::Succeeded { step: 1, op: back, output: None, at },
        Event::Rejected { step: 1, reason: "no".into(), at },
        Event::Failed { step: 1, op: action, failure: Failure::Ongoing, retry_at: Timestamp(300), at },
        Event::Failed { step: 1, op: back, failure: unknown, retry_at: Timestamp(300), at },
        Event::Skipped { step: 300, at },
        Event::Aborted { reason: AbortReason::Timeout, at },
        Event::Aborted { reason: AbortReason::RetryLimit, at },
        Event::ForceStopped { at },
        Event::RetryRequested { at },
        Event::Retried {
            step: 1,
            op: action,
            attempts: 300,
            failures: 2,
            retries: 299,
            reached: true,
            retry_at: Some(Timestamp(300)),
            last_error: Some("lost".into()),
            at,
        },
        Event::Retried {
            step: 1,
            op: back,
            attempts: 2,
            failures: 2,
            retries: 0,
            reached: false,
            retry_at: None,
            last_error: None,
            at,
        },
        Event::Pinned { pins, at },
    ]
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        match byte {
            b'!'..=b'~' => text.push(char::from(*byte)),
            _ => write!(text, "<{byte:02x}>").unwrap(),
        }
        text
    })
}

fn bytes_of(write: impl FnOnce(&mut Vec<u8>) -> Result<(), Unreadable>) -> Vec<u8> {
    let mut bytes = new_chunk();
    write(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_bytes_of_a_definition() {
    let bytes = bytes_of(|log| write_definition(log, &definition()));
    let wanted = concat!(
        "<01><00><01>g",
        r#"<02><0d>wasm://a0/try<09>http://c0<07>{"n":0}<0d>wasm://a1/try<09>http://c1<07>{"n":1}"#,
        "<01><01><01><01><00>",
        "<01><01><02><03><90><03><01><01>k<01>v<01><04>http<02>{}<01>q<01><01><01><03>",
        "<80><d0><95><ff><bc>1",
    );
    assert_eq!(text(&bytes), wanted);
    let record = read_log(SagaId(7), [&*bytes]).unwrap();
    assert_eq!((record.id, &**record.saga.definition(), record.log.len()), (SagaId(7), &definition(), 0));
}

#[test]
fn the_bytes_of_every_event() {
    let wanted = [
        "<00>",
        "<01><01><00>",
        "<02><01><00><01><03>out",
        "<02><01><01><00>",
        "<03><01><02>no",
        "<04><01><00><00><ac><02>",
        "<04><01><01><01><04>lost<ac><02>",
        "<05><ac><02>",
        "<06><00>",
        "<06><01>",
        "<07>",
        "<08>",
        "<09><01><00><ac><02><02><ab><02><01><01><ac><02><01><04>lost",
        "<09><01><01><02><02><00><00><00><00>",
        concat!(
            "<0a><02><01>athe<20>SHA-256<20>of<20>a<20>component:<20>32<20>B",
            "<01>bthe<20>SHA-256<20>of<20>a<20>component:<20>32<20>B<04><01><00><00><02>"
        ),
    ];
    let wanted = wanted.map(|event| format!("<01><01>{event}<81><d0><95><ff><bc>1"));
    let bytes: Vec<String> = events().iter().map(|event| text(&bytes_of(|log| write_event(log, event)))).collect();
    assert_eq!(bytes, wanted);
    for event in events() {
        let bytes = bytes_of(|log| write_event(log, &event));
        let (read, rest): (v1::Entry, _) = take(LOG, &bytes[1..]).unwrap();
        let v1::Entry::Event(read) = read else { panic!("{read:?}") };
        assert_eq!((Event::from(read), rest), (event, &[][..]));
    }
    let kinds: BTreeSet<u8> = events().iter().map(|event| bytes_of(|log| write_event(log, event))[2]).collect();
    assert!(kinds.into_iter().eq(0..v1::EVENTS), "a new kind of event needs a new version, not a longer version 1");
    assert!(v1::RESERVED_EVENTS.iter().map(|(number, _)| *number).eq(v1::EVENTS..16), "each number is reserved once");
}

#[test]
fn an_event_of_a_later_version_is_refused_by_its_name() {
    let first = bytes_of(|log| write_definition(log, &definition()));
    for (number, named) in [(11, "paused"), (14, "repinned"), (99, "unknown")] {
        let log = [&*first, &[EVENT_ENTRY, number, 0]].concat();
        let refused = read_log(SagaId(1), [&*log]).unwrap_err();
        assert!(
            matches!(refused, Unreadable::UnknownEvent { number: found, name } if found == number && name == named)
        );
        assert!(refused.is_newer());
    }
}

#[test]
fn a_chunk_of_another_version_takes_no_more_entries() {
    assert!(takes_more(&new_chunk()));
    assert!(!takes_more(&[LOG_VERSION + 1]));
    assert!(!takes_more(&[LOG_VERSION - 1]));
    assert!(!takes_more(&[]));
    assert!(!takes_more(&[LOG_VERSION; CHUNK_BYTES]), "it is full");
}

#[test]
fn rows_of_a_newer_version_are_refused_by_name() {
    let row = [OPEN_VERSION + 1, 0, 0, 1, b'g'];
    let refused = read_open(&row).unwrap_err();
    assert!(matches!(refused, Unreadable::Newer { found: 3, supported: 2, .. }) && refused.is_newer());
    let words = "the row of the unfinished saga was written by a newer Wasaga, version 3; this one reads up to 2: start \
                 that one";
    assert_eq!(refused.to_string(), words);
    assert!(read_id(&[GID_VERSION + 1, 0, 0, 0, 0, 0, 0, 0, 1]).unwrap_err().is_newer());
    assert!(!read_open(&[0]).unwrap_err().is_newer(), "version 0 was never written");
    assert!(!read_open(&[]).unwrap_err().is_newer());
}

#[test]
fn the_bytes_of_the_other_rows() {
    let open = |due, status, pins| Open { due, status, gid: Gid::new("g").unwrap(), pins };
    let rows = [
        // Version 1, of sagas from before components were pinned.
        open(None, OpenStatus::Prepared, None),
        open(Some(Timestamp(300)), OpenStatus::Submitted, None),
        open(Some(Timestamp(0)), OpenStatus::Aborting, None),
        open(None, OpenStatus::Prepared, Some(Vec::new())),
        open(Some(Timestamp(300)), OpenStatus::Submitted, Some(vec![pin("a"), pin("b")])),
    ];
    let bytes: Vec<String> = rows.iter().map(|row| text(&write_open(row).unwrap())).collect();
    let wanted = [
        "<01><00><00><01>g",
        "<01><01><ac><02><01><01>g",
        "<01><01><00><02><01>g",
        "<02><00><00><01>g<00>",
        concat!(
            "<02><01><ac><02><01><01>g<02><01>athe<20>SHA-256<20>of<20>a<20>component:<20>32<20>B",
            "<01>bthe<20>SHA-256<20>of<20>a<20>component:<20>32<20>B"
        ),
    ];
    assert_eq!(bytes, wanted);
    for row in rows {
        assert_eq!(read_open(&write_open(&row).unwrap()).unwrap(), row);
    }
    let id = SagaId(0x0102_0304_0506_0708);
    assert_eq!(text(&write_id(id)), "<01><01><02><03><04><05><06><07><08>");
    assert_eq!(read_id(&write_id(id)).unwrap(), id);
}

#[test]
fn the_keys() {
    let id = SagaId(0x0102_0304_0506_0708);
    let keys: [(&[u8], &str); 4] = [
        (&gid_key(&Gid::new("a/b").unwrap()), "ga/b"),
        (&chunk_key(id, 258), "s<01><02><03><04><05><06><07><08><00><00><01><02>"),
        (&open_key(id), "o<01><02><03><04><05><06><07><08>"),
        (&failed_key(id), "f<01><02><03><04><05><06><07><08>"),
    ];
    for (key, wanted) in keys {
        assert_eq!(text(key), wanted);
        assert_eq!(id_in(key), (key[0] != b'g').then_some(id));
    }
    assert_eq!(SagaId::first_at(Timestamp(1)).0, 1 << 20);
    assert!(SagaId::first_at(Timestamp(u64::MAX)) > SagaId::first_at(Timestamp(1_700_000_000_000)));
}

/// A whole log in two chunks; cut anywhere, or with any byte changed, it is read or refused, and never a panic.
#[test]
fn a_damaged_log_is_refused_or_read() {
    let at = Timestamp(1_700_000_000_001);
    let log = [
        Event::Submitted { at },
        Event::Started { step: 0, op: Op::Action, at },
        Event::Succeeded { step: 0, op: Op::Action, output: Some("out".into()), at },
        Event::Rejected { step: 1, reason: "no".into(), at },
    ];
    let mut first = bytes_of(|first| write_definition(first, &definition()));
    log[..2].iter().for_each(|event| write_event(&mut first, event).unwrap());
    let second = bytes_of(|second| log[2..].iter().try_for_each(|event| write_event(second, event)));
    assert_eq!(read_log(SagaId(1), [&*first, &*second]).unwrap().log, log);

    assert!(matches!(read_log(SagaId(1), []), Err(Unreadable::NoDefinition)));
    assert!(matches!(read_log(SagaId(1), [&*second]), Err(Unreadable::NoDefinition)));
    assert!(matches!(read_log(SagaId(1), [&*first, &*first]), Err(Unreadable::NoDefinition)));
    assert!(matches!(read_log(SagaId(1), [&*first, &*second, &*second]), Err(Unreadable::Illegal(_))));
    for version in [2, 255] {
        let newer = [&[version], &first[1..]].concat();
        let refused = read_log(SagaId(1), [&*newer]).unwrap_err();
        assert!(matches!(refused, Unreadable::Newer { found, supported: 1, .. } if found == version));
    }
    let never_written = [&[0], &first[1..]].concat();
    assert!(matches!(read_log(SagaId(1), [&*never_written]), Err(Unreadable::Decode { .. })));
    let mut refused = 0;
    for index in 0..first.len() {
        refused += u32::from(read_log(SagaId(1), [&first[..index], &second]).is_err());
        for flip in 0..8 {
            let mut damaged = first.clone();
            damaged[index] ^= 1 << flip;
            refused += u32::from(read_log(SagaId(1), [&*damaged, &*second]).is_err());
        }
    }
    assert!(refused > 100, "{refused}");
}
