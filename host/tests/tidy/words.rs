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

/// Files that still have such words. To be emptied.
const ALLOWED: [&str; 16] = [
    "host/src/branch/mod.rs",
    "host/src/engine/timer.rs",
    "host/testkit/src/engine/store.rs",
    "host/tests/engine/control.rs",
    "host/tests/engine/damage.rs",
    "host/tests/engine/long_logs.rs",
    "host/tests/engine/output_rule.rs",
    "host/tests/engine/pins.rs",
    "host/tests/engine/races.rs",
    "host/tests/engine/retries.rs",
    "host/tests/engine/stage.rs",
    "host/tests/engine/stopping.rs",
    "host/tests/engine/submit.rs",
    "host/tests/engine/waiting.rs",
    "host/tests/exactly_once/late.rs",
    // This list of words.
    "host/tests/tidy/words.rs",
];

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
