//! One guest for each limit that breaks it. The error names the limit, and the next attempt is undisturbed.

use wasaga::{
    memory::Budget,
    plugin::{ComponentError, Limits, PublishError},
};

use super::*;

async fn fails_with(payload: Value, words: &[&str]) {
    let error = unknown(try_(&CHAOS, "chaos", &payload).await);
    for word in words {
        assert!(error.contains(word), "{payload}: no {word:?} in {error:?}");
    }
    assert_eq!(output(try_(&CHAOS, "chaos", &json!({"try": "count"})).await), json!(1));
}

#[tokio::test]
async fn memory() {
    fails_with(json!({"try": "allocate"}), &["memory_bytes", "67108864", "memory allocation of"]).await;
}

#[tokio::test]
async fn memory_of_the_host() {
    let memory = Budget::of(64 << 20);
    let share = memory.guests();
    let registry = chaos(&Settings { memory: memory.clone(), ..Settings::default() });
    assert_eq!(share.used(), 0, "the start check is not counted");
    // A guest that is alone could have more than the share.
    let other = share.holder().try_reserve(share.limit() / 2).unwrap();
    let error = unknown(try_(&registry, "chaos", &json!({"try": "allocate"})).await);
    assert!(error.contains("budget_bytes") && error.contains("called again"), "{error}");
    drop(other);

    // It waits until as much is free as it needed, before its time limit starts.
    let held = share.holder().try_reserve(share.limit() / 2).unwrap();
    let payload = json!({"try": "count"});
    let mut waiting = Box::pin(try_(&registry, "chaos", &payload));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    assert_eq!(share.used(), held.bytes());
    drop(held);
    assert_eq!(output(waiting.await), json!(1));

    // It has needed little now, and gets that where there is little.
    let mut held = share.holder().nothing();
    held.grow_over(share.limit() / 8 * 7);
    assert_eq!(output(try_(&registry, "chaos", &payload).await), json!(1));
    let end = std::time::Instant::now() + PATIENCE;
    while share.used() != held.bytes() {
        assert!(std::time::Instant::now() < end, "{share:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_whose_guests_are_stuck_leaves_memory_for_those_of_others() {
    let dir = tempfile::tempdir().unwrap();
    for plugin in ["stuck", "other"] {
        std::fs::copy(component_dir("fixtures").join("chaos.wasm"), dir.path().join(format!("{plugin}.wasm"))).unwrap();
    }
    let memory = Budget::of(64 << 20);
    let (share, stuck) = (memory.guests(), memory.guests_of("stuck"));
    let registry = Arc::new(load(&Settings { memory: memory.clone(), ..Settings::default() }, dir.path()));
    let hour = json!({"try": "sleep", "ms": 3_600_000});
    // The first says how much memory the others wait for.
    output(try_(&registry, "stuck", &json!({"try": "count"})).await);
    let guests: Vec<_> = (0..50)
        .map(|_| {
            let (registry, hour) = (registry.clone(), hour.clone());
            tokio::spawn(async move { try_(&registry, "stuck", &hour).await })
        })
        .collect();
    let end = std::time::Instant::now() + PATIENCE;
    while stuck.used() < share.limit() / 2 {
        assert!(std::time::Instant::now() < end, "{share:?}");
        tokio::task::yield_now().await;
    }
    for _ in 0..200 {
        assert_eq!(output(try_(&registry, "other", &json!({"try": "count"})).await), json!(1));
    }
    assert!(stuck.used() <= share.limit() / 8 * 7 && guests.iter().all(|guest| !guest.is_finished()));
    guests.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn memory_without_a_pool() {
    let registry = chaos(&unpoolable());
    let error = unknown(try_(&registry, "chaos", &json!({"try": "allocate"})).await);
    assert!(error.contains("memory_bytes"), "{error}");
}

/// More address space than there is.
fn unpoolable() -> Settings {
    Settings { slots: 4_000_000, ..Settings::default() }
}

#[tokio::test]
async fn a_pool_that_cannot_be_reserved_is_done_without() {
    let runtime = Runtime::new(&unpoolable()).unwrap();
    assert!(!runtime.is_pooled());
    assert!(Runtime::new(&Settings::default()).unwrap().is_pooled());
    let registry = Registry::load(&runtime, &component_dir("fixtures"), Vec::new());
    assert_eq!(output(try_(&registry, "chaos", &json!({"try": "count"})).await), json!(1));
}

#[tokio::test]
async fn stack() {
    fails_with(json!({"try": "recurse"}), &["stack_bytes", "524288"]).await;
}

#[tokio::test]
async fn time_of_a_guest_that_computes() {
    let call = Call { timeout: Duration::from_millis(200), ..call(Op::Action, r#"{"try":"spin"}"#) };
    let error = unknown(branch(&CHAOS, "chaos", Op::Action).call(&call, &host()).await);
    assert!(error.contains("200ms") && error.contains("request_timeout"), "{error}");
}

#[tokio::test]
async fn time_of_a_guest_that_waits() {
    let call = Call { timeout: Duration::from_millis(200), ..call(Op::Compensate, r#"{"cancel":"sleep","ms":60000}"#) };
    let error = unknown(branch(&CHAOS, "chaos", Op::Compensate).call(&call, &host()).await);
    assert!(error.contains("200ms") && error.contains("request_timeout"), "{error}");
}

#[tokio::test]
async fn output_size() {
    let exact = Limits::default().output_bytes;
    let digits = |bytes| json!({"try": "output", "text": "1".repeat(bytes)});
    assert!(try_(&CHAOS, "chaos", &digits(exact)).await.has_succeeded());
    fails_with(digits(exact + 1), &["output_bytes", "65536"]).await;
}

#[tokio::test]
async fn bytes_handed_over_in_one_call() {
    fails_with(json!({"try": "output", "text": 9 << 20}), &["hostcall_bytes", "8388608"]).await;
}

#[tokio::test]
async fn handles() {
    fails_with(json!({"try": "hoard handles"}), &["(handles)", "1024"]).await;
}

/// The host holds them for the guest, which needs no grant for that.
#[tokio::test]
async fn headers_are_memory_of_the_guest() {
    let imports = r#"
        (import "wasi:http/types@0.2.12" "[constructor]fields" (func $new (result i32)))
        (import "wasi:http/types@0.2.12" "[method]fields.append" (func $append (param i32 i32 i32 i32 i32 i32)))
        (import "wasi:http/types@0.2.12" "[method]fields.clone" (func $clone (param i32) (result i32)))"#;
    let text = r#"(data (i32.const 64) "a")"#;
    // Each set has a header of 16 KiB; its value is the memory from 1,024 on.
    let fill = "(memory.fill (i32.const 1024) (i32.const 97) (i32.const 16384))";
    let one = "(local.set $h (call $new))
        (call $append (local.get $h) (i32.const 64) (i32.const 1) (i32.const 1024) (i32.const 16384) (i32.const 32))";
    let again = |times: u32, body: &str| {
        format!(
            "(local.set $i (i32.const {times})) (loop $l {body}
                (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))"
        )
    };
    let dir = tempfile::tempdir().unwrap();
    let host_held = |try_: &str| {
        let bytes = super::made::plugin(imports, text, &format!("{fill} {try_}"));
        std::fs::write(dir.path().join("p.wasm"), bytes).unwrap();
        let limits = Limits { memory_bytes: 4 << 20, ..Limits::default() };
        load(&Settings { limits, ..Settings::default() }, dir.path())
    };
    let registry = host_held(&again(200, one));
    assert!(try_(&registry, "p", &json!({})).await.has_succeeded(), "3.2 MB");
    for many in [again(300, one), format!("{one} {}", again(300, "(drop (call $clone (local.get $h)))"))] {
        let error = unknown(try_(&host_held(&many), "p", &json!({})).await);
        assert!(error.contains("4194304") && error.contains("memory_bytes"), "{error}");
    }
}

#[tokio::test]
async fn random_bytes() {
    assert_eq!(output(try_(&CHAOS, "chaos", &json!({"try": "random", "bytes": 65536})).await), json!(65536));
    fails_with(json!({"try": "random", "bytes": 65537}), &["65537", "limit"]).await;
}

#[tokio::test]
async fn texts_are_cut_between_characters() {
    let limit = Limits::default().text_bytes;
    let reason = rejected(try_(&CHAOS, "chaos", &json!({"try": "reject", "text": "é".repeat(limit)})).await);
    assert_eq!(reason, "é".repeat(limit / 2) + "…");
    let odd = format!("a{}", "é".repeat(limit));
    let error = unknown(try_(&CHAOS, "chaos", &json!({"try": "be unavailable", "text": odd})).await);
    assert_eq!(error, format!("a{}…", "é".repeat(limit / 2 - 1)));
}

#[tokio::test]
async fn components_that_need_more_than_the_limits_are_refused_when_loaded() {
    let settings = |limits| Settings { limits, ..Settings::default() };
    for limits in [
        Limits { memory_bytes: 1 << 16, ..Limits::default() },
        Limits { table_elements: 1, ..Limits::default() },
        Limits { instances: 1, ..Limits::default() },
    ] {
        let registry = load(&settings(limits.clone()), &component_dir("fixtures"));
        let refused = &registry.refused()[0];
        assert!(
            matches!(refused.error, PublishError::Component(ComponentError::OverLimits { .. })),
            "{limits:?}: {refused:?}"
        );
    }
}
