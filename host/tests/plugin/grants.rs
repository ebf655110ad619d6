//! What a plugin is granted stays with it.

use std::collections::BTreeMap;

use wasaga::plugin::{Grants, Limits, grants, grants::secret::Source};

use super::*;

const SECRET: &str = "hunter2-\u{e9}";

/// The misbehaving plugin, which knows a secret.
fn chaos_with_a_secret() -> Registry {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, SECRET).unwrap();
    let secrets = BTreeMap::from([("token".to_owned(), Source::File(file))]);
    let grants = Grants::new("chaos", &grants::Settings { secrets, ..Default::default() }).unwrap();
    chaos(&Settings { grants: BTreeMap::from([("chaos".to_owned(), Arc::new(grants))]), ..Settings::default() })
}

#[tokio::test]
async fn secrets_are_redacted_in_what_people_read() {
    let registry = chaos_with_a_secret();
    let text = format!("the token is {SECRET}");
    let shown = "the token is [secret token]";
    assert_eq!(rejected(try_(&registry, "chaos", &json!({"try": "reject", "text": text})).await), shown);
    assert_eq!(unknown(try_(&registry, "chaos", &json!({"try": "be unavailable", "text": text})).await), shown);
    assert_eq!(
        unknown(cancel(&registry, "chaos", &json!({"cancel": "be unavailable", "text": text}), None).await),
        shown
    );
    let error = unknown(try_(&registry, "chaos", &json!({"try": "panic", "text": text})).await);
    assert!(error.contains("[secret token]") && !error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn secrets_are_redacted_before_texts_are_cut() {
    let registry = chaos_with_a_secret();
    let limit = Settings::default().limits.text_bytes;
    let text = format!("{}{SECRET}", "x".repeat(limit - 4));
    let reason = rejected(try_(&registry, "chaos", &json!({"try": "reject", "text": text})).await);
    assert!(!reason.contains("hunt"), "{reason}");
}

#[tokio::test]
async fn secrets_are_redacted_in_log_lines() {
    let registry = chaos_with_a_secret();
    for stream in ["output", "error"] {
        let print = json!({"try": "print", "stream": stream, "text": format!("<{SECRET}>\n")});
        assert_eq!(logging::messages_of(&registry, print).await, ["<[secret token]>"]);
        // Cut by the limit of a line, in the middle of the secret.
        let limit = Settings::default().limits.log_line_bytes;
        let text = format!("{}{SECRET}", "x".repeat(limit - 6));
        let lines = logging::messages_of(&registry, json!({"try": "print", "stream": stream, "text": text})).await;
        assert!(lines[0].contains("[secret token]") && !lines[0].contains("hunt"), "{}", lines[0]);
    }
}

#[tokio::test]
async fn secrets_are_redacted_however_they_are_written() {
    let registry = chaos_with_a_secret();
    for written in
        [r#"{"token":"hunter2-\u00e9"}"#, "https://a.example/?token=hunter2-%C3%A9", r#""\"hunter2-\\u00E9\"""#]
    {
        let reason = rejected(try_(&registry, "chaos", &json!({"try": "reject", "text": written})).await);
        assert!(reason.contains("[secret token]") && !reason.contains("hunter2"), "{reason}");
        let lines = logging::messages_of(&registry, json!({"try": "print", "text": written})).await;
        assert!(lines[0].contains("[secret token]") && !lines[0].contains("hunter2"), "{}", lines[0]);
    }
}

/// The last character of the secret has two bytes, of which the limit lets through one.
#[tokio::test]
async fn secrets_are_redacted_in_lines_that_end_within_a_character() {
    let registry = chaos_with_a_secret();
    let Limits { log_bytes, log_line_bytes, .. } = Settings::default().limits;
    let text = format!("{}{SECRET}", "x".repeat(log_line_bytes + 1 - SECRET.len()));
    let budget = format!("{}\n{SECRET}", "x".repeat(log_bytes - 64 - SECRET.len()));
    for text in [text, budget] {
        let lines = logging::messages_of(&registry, json!({"try": "print", "text": text})).await;
        assert!(!lines.iter().any(|line| line.contains("hunt")), "{:?}", lines.last());
        assert!(lines.iter().any(|line| line.contains("[secret ")), "{:?}", lines.last());
    }
}

#[tokio::test]
async fn an_output_with_a_secret_is_neither_stored_nor_shown() {
    let registry = chaos_with_a_secret();
    let nested = json!({"said": json!({"token": SECRET}).to_string()}).to_string();
    let escaped = [r#"{"token":"hunter2-\u00e9"}"#, r#"["\u0068unter2-\u00E9"]"#, r#"{"hunter2-\u00e9":1}"#];
    for output in escaped.map(str::to_owned).into_iter().chain([json!({"token": SECRET}).to_string(), nested]) {
        let error = unknown(try_(&registry, "chaos", &json!({"try": "output", "text": output})).await);
        assert!(error.contains("the secret \"token\"") && !error.contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_plugin_that_imports_no_way_out_is_contained() {
    let registry = load(&Settings::default(), &component_dir("plugins"));
    let plugin = registry.plugin("service-a").unwrap();
    assert_eq!(plugin.classification().containment, Containment::Contained);
    assert_eq!(plugin.classification().reason, "imports nothing that leaves the host");
    assert_eq!(branch(&registry, "service-a", Op::Action).containment(), Containment::Contained);
}
