//! Words that the project has replaced. What replaced them is in `host/docs/renamed.md`.

use std::fs;

use crate::{root, rust_files};

const RETIRED: [&str; 16] = [
    "Takeoff",
    "take_off",
    "hasten",
    "Nowhere",
    "Shelf",
    "GivingWay",
    "in_vain",
    "Departure",
    "ShutDoor",
    "keeper",
    "rehearsal",
    "// Who ",
    "/// Who",
    "//! Who",
    " whoever ",
    "Whoever ",
];

/// The file with this list of words.
const ALLOWED: [&str; 1] = ["host/tests/tidy/words.rs"];

#[test]
fn retired_words_are_not_used() {
    let mut found = Vec::new();
    for file in rust_files(&root().join("host")) {
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        if ALLOWED.contains(&name.as_str()) {
            continue;
        }
        for (line, text) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let words = RETIRED.iter().filter(|word| text.contains(**word));
            found.extend(words.map(|word| format!("{name}:{}: {word:?}", line + 1)));
        }
    }
    assert!(found.is_empty(), "host/docs/renamed.md has the new words: {found:#?}");
}
