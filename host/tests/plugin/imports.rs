//! Settings and log lines, by the standard interfaces.

use std::collections::BTreeSet;

use tracing::Level;
use wasaga::plugin::{Grants, grants};

use super::{
    logging::{Line, lines, lines_of},
    *,
};

#[tokio::test]
async fn a_plugin_reads_its_own_settings() {
    let config = [("currency", "EUR"), ("empty", "")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let granted = grants::Settings { config: config.into(), ..grants::Settings::default() };
    let granted = Arc::new(Grants::new("chaos", &granted).unwrap());
    let registry = chaos(&Settings { grants: [("chaos".to_owned(), granted)].into(), ..Settings::default() });
    for (key, value) in [("currency", json!("EUR")), ("empty", json!("")), ("unknown", Value::Null)] {
        let answer = output(try_(&registry, "chaos", &json!({"try": "config", "key": key})).await);
        assert_eq!(answer["one"], value);
        let all: BTreeSet<String> = answer["all"].as_array().unwrap().iter().map(Value::to_string).collect();
        assert_eq!(all, [r#"["currency","EUR"]"#, r#"["empty",""]"#].map(str::to_owned).into());
    }
    let nothing = output(try_(&CHAOS, "chaos", &json!({"try": "config", "key": "currency"})).await);
    assert_eq!(nothing, json!({"one": null, "all": []}));
}

fn log(lines: &Value) -> Value {
    json!({"try": "log", "lines": lines})
}

fn shown(lines: &[Line]) -> Vec<(Level, &str)> {
    lines.iter().map(|line| (line.level, line.message())).collect()
}

#[tokio::test]
async fn log_lines_keep_their_level_and_context() {
    let written = log(&json!([
        ["trace", "", "1"],
        ["debug", "", "2"],
        ["info", "seats", "3"],
        ["warn", "", "4"],
        ["error", "", "5"],
        ["critical", "", "6"],
    ]));
    let lines = lines(written).await;
    let expected = [(Level::INFO, "3"), (Level::WARN, "4"), (Level::ERROR, "5"), (Level::ERROR, "6")];
    assert_eq!(shown(&lines), expected, "of those that the test looks at");
    let fields = [
        ("branch", "02"),
        ("context", "seats"),
        ("gid", "gid-1"),
        ("message", "3"),
        ("op", "try"),
        ("plugin", "chaos"),
    ];
    assert_eq!(lines[0].fields, fields.map(|(name, value)| (name, value.to_owned())).into());
    assert!(!lines[1].fields.contains_key("context"));
}

#[tokio::test]
async fn log_lines_are_escaped_and_cut() {
    let long = "é".repeat(5000);
    let lines = lines(log(&json!([["info", "a\nb", "two\nlines \u{1b}[31m"], ["info", long, long]]))).await;
    assert_eq!((lines[0].fields["context"].as_str(), lines[0].message()), ("a\\nb", "two\\nlines \\u{1b}[31m"));
    assert_eq!(lines[1].fields["context"], "é".repeat(64) + "…");
    assert_eq!(lines[1].message(), "é".repeat(2048) + "…");
}

#[tokio::test]
async fn all_that_a_guest_writes_shares_one_budget() {
    let text = "z".repeat(1024 - 64);
    let flood = json!({"try": "log", "lines": [["info", "", text]], "times": 100});
    let lines = lines(flood.clone()).await;
    assert_eq!(lines.len(), 64 + 1);
    assert_eq!(lines[64].message(), "34560 more bytes of output were dropped (limit log_bytes)");
    assert_eq!(output(try_(&CHAOS, "chaos", &flood).await), Value::Null);
}

#[tokio::test]
async fn lines_that_nobody_reads_use_no_budget() {
    let text = "z".repeat(1000);
    let mut wished = vec![json!(["trace", "", text]); 100];
    wished.push(json!(["info", "", "the one that matters"]));
    let lines = lines(log(&json!(wished))).await;
    assert_eq!(shown(&lines), [(Level::INFO, "the one that matters")]);
}

#[tokio::test]
async fn a_dry_run_is_logged_for_debugging_only() {
    let calls =
        [log(&json!([["error", "", "charged"]])), json!({"try": "print", "stream": "error", "text": "charged\n"})];
    for payload in calls {
        let dry_run = Host { is_dry_run: true, ..host() };
        let lines = lines_of(
            Level::DEBUG,
            branch(&CHAOS, "chaos", Op::Action).call(&call(Op::Action, &payload.to_string()), &dry_run),
        )
        .await;
        assert_eq!(shown(&lines), [(Level::DEBUG, "charged")]);
        assert_eq!(lines[0].fields["is_dry_run"], "true");
    }
}
