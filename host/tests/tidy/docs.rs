//! Public items have a doc.

use std::fs;

use crate::{root, rust_files};

const ITEMS: [&str; 6] = ["struct", "enum", "trait", "fn", "type", "const"];

#[test]
fn public_items_have_docs() {
    let mut missing = Vec::new();
    for src in ["host/src", "host/saga/src", "host/store/src"] {
        for file in rust_files(&root().join(src)) {
            let text = fs::read_to_string(&file).unwrap();
            let file = file.strip_prefix(root()).unwrap().display();
            missing.extend(undocumented(&text).into_iter().map(|line| format!("{file}:{line}")));
        }
    }
    assert!(missing.is_empty(), "these public items have no doc: {missing:#?}");
}

/// The lines of `pub` items without a doc, fields and variants not counted. Test modules at the end are left out.
fn undocumented(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    // The next item follows a doc. Attributes, which may have many lines, stand in between.
    let (mut has_doc, mut in_attribute) = (false, false);
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    for (number, line) in code.lines().map(str::trim).enumerate() {
        if in_attribute || line.starts_with("#[") {
            in_attribute = !line.ends_with(']');
        } else if line.starts_with("///") {
            has_doc = true;
        } else {
            if is_public_item(line) && !has_doc {
                found.push(format!("{}: {line}", number + 1));
            }
            has_doc = false;
        }
    }
    found
}

fn is_public_item(line: &str) -> bool {
    let Some(item) = line.strip_prefix("pub ") else { return false };
    let qualifiers = ["async", "unsafe", "extern"];
    item.split_whitespace().find(|word| !qualifiers.contains(word)).is_some_and(|word| ITEMS.contains(&word))
}

#[test]
fn docs_are_seen_through_attributes() {
    let text = "/// A doc.\n#[derive(Clone)]\n#[command(\n    name = \"x\"\n)]\npub struct A {\n    pub field: u8,\n}\n\
                #[must_use]\npub async fn b() {}\n/// A doc.\n\npub const fn c() {}\n#[cfg(test)]\nmod tests {\n    pub fn d() {}\n";
    assert_eq!(undocumented(text), ["10: pub async fn b() {}", "13: pub const fn c() {}"]);
}
