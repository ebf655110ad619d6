//! The same branch in several languages: what each must do, and that they do the same.
//!
//! Which ones, `WASAGA_TEST_LANGUAGES` says (Rust, if it says nothing), and `WASAGA_TEST_LANGUAGES_DIR` where their
//! components are, one `LANGUAGE.wasm` each; `make test-languages` builds all of them.

use std::env;

use tracing::Level;
use wasaga::{
    plugin::{CompileLimits, Compiler, Limits, Plugin, keyvalue_keys},
    store::Store,
};

use super::{
    logging::{Line, lines_of},
    *,
};

fn languages() -> Vec<String> {
    let named = env::var("WASAGA_TEST_LANGUAGES").unwrap_or_else(|_| "rust".into());
    named.split_whitespace().map(ToOwned::to_owned).collect()
}

/// The folder of their components.
fn dir() -> PathBuf {
    env::var_os("WASAGA_TEST_LANGUAGES_DIR").map_or_else(|| component_dir("plugins"), PathBuf::from)
}

/// The components of all languages, with these limits. Compiled once, for all tests.
fn branches(limits: Limits) -> Registry {
    let dir = dir();
    let cache_dir = Some(component_dir("").join("test-languages-code"));
    let registry = load(&Settings { limits, cache_dir, ..Settings::default() }, &dir);
    for language in languages() {
        let file = dir.join(&language);
        assert!(
            registry.plugin(&language).is_some(),
            "no {}.wasm, or a bad one: {:?}",
            file.display(),
            registry.refused()
        );
    }
    registry
}

static BRANCHES: LazyLock<Registry> = LazyLock::new(|| branches(Limits::default()));

const GOOD: &str = r#"{"amount": 100, "customer": "Zoë 😀", "note": [1, {"deep": null}]}"#;

fn record() -> Value {
    json!({ "amount": 100, "customer": "Zoë 😀" })
}

/// A place of its own for each test: the shared store keeps what others wrote.
fn of(test: &str, op: Op, payload: &str) -> Call {
    let call = call(op, payload);
    let gid = Gid::new(&format!("{test} é")).unwrap();
    let options = call.saga.options().clone();
    let saga = Definition::new(gid, call.saga.steps().to_vec(), Order::default(), options, Timestamp(0)).unwrap();
    Call { saga: Arc::new(saga), ..call }
}

async fn run(branches: &Registry, language: &str, call: &Call) -> Outcome {
    branch(branches, language, call.branch_op.op).call(call, &host()).await
}

/// The changes of a bucket that an attempt asks for, as bucket, key and JSON (null: deleted).
fn changes(outcome: &Outcome) -> Vec<(String, String, Value)> {
    let Outcome::Ended { verdict: Verdict::Succeeded { .. }, effects } = outcome else { panic!("{outcome:?}") };
    let change = |(key, value): (&[u8], Option<&[u8]>)| {
        let keyvalue_keys::Place { bucket, key, .. } = keyvalue_keys::place(key).unwrap();
        let value = value.map_or(Value::Null, |value| serde_json::from_slice(value).unwrap());
        (bucket.to_owned(), key.to_owned(), value)
    };
    effects.writes().map(change).collect()
}

fn commit(outcome: Outcome) {
    let Outcome::Ended { verdict: Verdict::Succeeded { .. }, effects } = outcome else { panic!("{outcome:?}") };
    store().commit(effects).unwrap();
}

/// The limits leave room for components twice as large. Prints what each language takes.
#[test]
fn compiling_takes_at_most_half_of_its_limits() {
    let compiler = Compiler::Child { program: env!("CARGO_BIN_EXE_wasaga").into() };
    let runtime = Runtime::new(&Settings { compiler, ..Settings::default() }).unwrap();
    let limits = CompileLimits::default();
    for language in languages() {
        let bytes = std::fs::read(dir().join(&language).with_extension("wasm")).unwrap();
        let started = std::time::Instant::now();
        let plugin = Plugin::load(&runtime, &language, &bytes).unwrap_or_else(|error| panic!("{language}: {error}"));
        let (time, cost) = (started.elapsed(), plugin.compile_cost().unwrap());
        println!(
            "compiling {language}: {} MiB of {} MiB, {:.1} s of {} s of processor time, {:.1} s of {} s",
            cost.memory_bytes >> 20,
            limits.memory_bytes >> 20,
            cost.cpu.as_secs_f64(),
            limits.cpu.as_secs(),
            time.as_secs_f64(),
            limits.time.as_secs(),
        );
        assert!(cost.memory_bytes * 2 <= limits.memory_bytes, "{language}: {cost:?}");
        assert!(cost.cpu * 2 <= limits.cpu && time * 2 <= limits.time, "{language}: {cost:?} {time:?}");
    }
}

#[tokio::test]
async fn a_valid_request_is_recorded() {
    for language in languages() {
        let call = of("recorded", Op::Action, GOOD);
        let outcome = run(&BRANCHES, &language, &call).await;
        let key = format!("{}/02", call.saga.gid());
        assert_eq!(changes(&outcome), [("default".into(), key, record())], "{language}");
        assert_eq!(output(outcome), record(), "{language}");
        let nameless = run(&BRANCHES, &language, &of("recorded", Op::Action, r#"{"amount":0}"#)).await;
        assert_eq!(output(nameless), json!({ "amount": 0, "customer": "" }), "{language}");
    }
}

#[tokio::test]
async fn only_amounts_up_to_500_go_through() {
    for language in languages() {
        let at_most = run(&BRANCHES, &language, &of("limit", Op::Action, r#"{"amount":500}"#)).await;
        assert_eq!(output(at_most)["amount"], 500, "{language}");
        let beyond = run(&BRANCHES, &language, &of("limit", Op::Action, r#"{"amount":501}"#)).await;
        assert_eq!(rejected(beyond), "simulated failure", "{language}");
    }
}

#[tokio::test]
async fn anything_else_is_invalid() {
    let unclosed = [200, 5000, 100_000].map(|depth| "[".repeat(depth));
    for payload in [
        "",
        "nonsense",
        &unclosed[0],
        &unclosed[1],
        &unclosed[2],
        "3",
        "null",
        "[]",
        r#"[100, "Zoë"]"#,
        "{}",
        r#"{"amount": null}"#,
        r#"{"amount": true}"#,
        r#"{"amount": "1"}"#,
        r#"{"amount": -1}"#,
        r#"{"amount": 1.5}"#,
        r#"{"amount": 9223372036854775808}"#,
        r#"{"amount": 1, "customer": null}"#,
        r#"{"amount": 1, "customer": 7}"#,
        r#"{"amount": 1, "customer": "\ud800"}"#,
        r#"{"amount": 1, "customer": "\udc00\ufffd"}"#,
        r#"{"amount": 1, "note": NaN}"#,
        r#"{"amount": 1, "note": -Infinity}"#,
        r#"{"amount": 1} {"#,
    ] {
        for language in languages() {
            let outcome = run(&BRANCHES, &language, &of("invalid", Op::Action, payload)).await;
            assert_eq!(rejected(outcome), "invalid request", "{language}: {payload:.60}");
        }
    }
}

#[tokio::test]
async fn a_customer_has_up_to_1000_bytes() {
    for (length, is_valid) in [(500, true), (501, false), (200_000, false)] {
        let payload = json!({ "amount": 1, "customer": "é".repeat(length) }).to_string();
        for language in languages() {
            let outcome = run(&BRANCHES, &language, &of("customer", Op::Action, &payload)).await;
            assert_eq!(outcome.has_succeeded(), is_valid, "{language}: {length}");
            assert_eq!(
                matches!(outcome, Outcome::Ended { verdict: Verdict::Rejected { .. }, .. }),
                !is_valid,
                "{language}: {length}"
            );
        }
    }
}

#[tokio::test]
async fn deep_nesting_is_answered() {
    // Some languages read it and some refuse it, but none may break on it: it would break again and again.
    let note = "[".repeat(5000) + &"]".repeat(5000);
    let payload = format!(r#"{{"amount": 1, "note": {note}}}"#);
    for language in languages() {
        match run(&BRANCHES, &language, &of("deep", Op::Action, &payload)).await {
            Outcome::Ended { verdict: Verdict::Rejected { reason }, .. } => {
                assert_eq!(reason, "invalid request", "{language}");
            }
            other => assert_eq!(output(other), json!({ "amount": 1, "customer": "" }), "{language}"),
        }
    }
}

#[tokio::test]
async fn the_output_is_the_same_text_in_every_language() {
    let payload = r#"{"amount": 1, "customer": "A & B <Zoë> \"\\/ \ufffd"}"#;
    let text = r#"{"amount":1,"customer":"A & B <Zoë> \"\\/ \ufffd"}"#.replace(r"\ufffd", "\u{fffd}");
    for language in languages() {
        let outcome = run(&BRANCHES, &language, &of("text", Op::Action, payload)).await;
        let Outcome::Ended { verdict: Verdict::Succeeded { output: Some(output) }, .. } = outcome else {
            panic!("{language}: {outcome:?}")
        };
        assert_eq!(output, text, "{language}");
    }
}

#[tokio::test]
async fn cancel_takes_back_what_is_there_whether_it_is_told_or_not() {
    for language in languages() {
        for (test, tried) in [("told", Some(record().to_string().into())), ("not told", None)] {
            let test = format!("{test} {language}");
            commit(run(&BRANCHES, &language, &of(&test, Op::Action, GOOD)).await);
            let cancel = Call { tried, ..of(&test, Op::Compensate, GOOD) };
            let outcome = run(&BRANCHES, &language, &cancel).await;
            let key = format!("{}/02", cancel.saga.gid());
            assert_eq!(changes(&outcome), [("default".into(), key, Value::Null)], "{language}");
            commit(outcome);
            // There is nothing to take back any more, and that is no failure.
            assert_eq!(changes(&run(&BRANCHES, &language, &cancel).await), [], "{language}");
        }
    }
}

#[tokio::test]
async fn a_large_payload_goes_through() {
    let note = "x".repeat((1 << 20) - 100);
    let payload = json!({ "amount": 1, "note": note }).to_string();
    for language in languages() {
        let outcome = run(&BRANCHES, &language, &of("large", Op::Action, &payload)).await;
        assert_eq!(output(outcome), json!({ "amount": 1, "customer": "" }), "{language}");
    }
}

#[tokio::test]
async fn what_is_printed_and_logged_becomes_lines() {
    let has = |lines: &[Line], level: Level, text: &str| {
        lines.iter().any(|line| line.level == level && line.message() == text)
    };
    for language in languages() {
        let test = format!("lines {language}");
        let (try_, cancel) = (of(&test, Op::Action, GOOD), of(&test, Op::Compensate, GOOD));
        let lines = lines_of(Level::DEBUG, run(&BRANCHES, &language, &try_)).await;
        assert!(has(&lines, Level::INFO, "try amount=100 customer=Zoë 😀"), "{language}: {lines:?}");
        assert!(has(&lines, Level::DEBUG, &format!("wrote {test} é/02")), "{language}: {lines:?}");
        commit(run(&BRANCHES, &language, &try_).await);
        let lines = lines_of(Level::INFO, run(&BRANCHES, &language, &cancel)).await;
        assert!(has(&lines, Level::INFO, "cancel: released"), "{language}: {lines:?}");
        commit(run(&BRANCHES, &language, &cancel).await);
        let lines = lines_of(Level::INFO, run(&BRANCHES, &language, &cancel)).await;
        assert!(has(&lines, Level::INFO, "cancel: nothing to release"), "{language}: {lines:?}");
    }
}

#[tokio::test]
async fn an_error_that_nobody_handles_is_unknown_and_says_what_it_was() {
    // No language has the memory to read this, and no branch here expects that.
    let payload = json!({ "amount": 1, "customer": "x".repeat(40 << 20) }).to_string();
    for language in languages() {
        let error = unknown(run(&BRANCHES, &language, &of("uncaught", Op::Action, &payload)).await);
        assert!(error.contains("memory_bytes"), "{language}: {error}");
        // The next call starts afresh.
        assert_eq!(output(run(&BRANCHES, &language, &of("uncaught", Op::Action, GOOD)).await), record(), "{language}");
    }
}

#[tokio::test]
async fn limits_hold_and_the_branch_copes() {
    let no_store = branches(Limits { kv_operations: 0, ..Limits::default() });
    let short = branches(Limits { output_bytes: 8, ..Limits::default() });
    let quiet = branches(Limits { log_bytes: 0, ..Limits::default() });
    for language in languages() {
        for op in [Op::Action, Op::Compensate] {
            let error = unknown(run(&no_store, &language, &of("limits", op, GOOD)).await);
            assert!(error.contains("kv_operations") && !error.contains("trap"), "{language}: {error}");
        }
        let error = unknown(run(&short, &language, &of("limits", Op::Action, GOOD)).await);
        assert!(error.contains("output_bytes"), "{language}: {error}");
        assert_eq!(output(run(&quiet, &language, &of("limits", Op::Action, GOOD)).await), record(), "{language}");
    }
}
