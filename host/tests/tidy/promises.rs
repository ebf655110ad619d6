//! `host/tests/README.md` has a row for each invariant, and the tests that it names exist.

use std::{fs, path::PathBuf};

use wasaga_testkit::table;

use crate::root;

/// How the README calls the invariants of each page that lists them.
const INVARIANTS: [(&str, &str); 2] = [("host", "host/src/lib.rs"), ("store", "host/store/src/lib.rs")];

#[test]
fn every_invariant_has_a_row_and_every_row_its_tests() {
    let readme = fs::read_to_string(root().join("host/tests/README.md")).unwrap();
    let mut wanted = Vec::new();
    for (name, page) in INVARIANTS {
        let page = fs::read_to_string(root().join(page)).unwrap();
        wanted.extend(numbers(&page).map(|number| format!("{name} {number}")));
    }
    let mut listed = Vec::new();
    let rows = table::rows(&readme);
    for row in &rows {
        let [promise, tests] = row[..] else { panic!("{row:?} must have two cells") };
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
        assert!(!promise.is_empty() && (!named.is_empty() || tests == "no test"), "{row:?} names no test");
        for test in named {
            assert!(exists(test), "{promise} names the test {test}, which is not there");
        }
        let invariant = promise.split(':').next().unwrap_or_default();
        let is_invariant = |name: &str| invariant.strip_prefix(name).is_some_and(|number| number.starts_with(' '));
        if INVARIANTS.iter().any(|(name, _)| is_invariant(name)) {
            listed.push(invariant.to_owned());
        }
    }
    assert_eq!(listed, wanted);
    assert!(rows.len() > wanted.len() + 20, "the claims of README.md have rows too");
}

/// The numbers of the invariants in the doc of a crate: lines such as `//! 1. **Title.** Text`.
fn numbers(page: &str) -> impl Iterator<Item = u32> {
    page.lines().filter_map(|line| line.strip_prefix("//! ")?.split_once(". **")?.0.parse().ok())
}

/// A test `binary::module::name`, or one beside the code of a crate.
fn exists(test: &str) -> bool {
    let Some((path, name)) = test.rsplit_once("::") else { return false };
    let (top, modules) = path.split_once("::").unwrap_or((path, ""));
    let modules: Vec<&str> = modules.split("::").filter(|module| !module.is_empty()).collect();
    let folders = match top {
        "wasaga" => vec!["host/src".to_owned()],
        "wasaga_saga" => vec!["host/saga/src".to_owned()],
        "wasaga_store" => vec!["host/store/src".to_owned()],
        _ => ["host", "host/saga", "host/store"].map(|of| format!("{of}/tests/{top}")).to_vec(),
    };
    folders.iter().flat_map(|folder| files(folder, &modules)).any(|file| table::tests_in_file(&file).contains(name))
}

/// The files that may have a module: its own, its folder's, and its parent's if it is `tests`.
fn files(folder: &str, modules: &[&str]) -> Vec<PathBuf> {
    let path = modules.iter().fold(root().join(folder), |path, module| path.join(module));
    let mut candidates = vec![path.with_extension("rs"), path.join("mod.rs"), path.join("main.rs")];
    if let Some((&"tests", parent)) = modules.split_last() {
        candidates.extend(files(folder, parent));
    }
    candidates.retain(|file| file.is_file());
    candidates
}

#[test]
fn tests_are_found_where_they_are() {
    let name = "every_invariant_has_a_row_and_every_row_its_tests";
    assert!(exists(&format!("tidy::promises::{name}")));
    assert!(!exists(&format!("tidy::words::{name}")) && !exists("tidy::promises::numbers"));
    assert!(exists("tidy::no_file_is_too_long"));
    assert!(exists("wasaga::api::authority::tests::only_this_machine_is_loopback"));
    assert!(exists("exhaustive::every_saga_of_one_step"));
}
