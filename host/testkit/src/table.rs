//! Tables of a README that name tests.

use std::{collections::BTreeSet, fs, path::Path};

/// The rows of all tables of a page as their cells, the heads of the tables and the lines below them left out.
pub fn rows(page: &str) -> Vec<Vec<&str>> {
    let mut rows = Vec::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let is_head = lines.peek().is_some_and(|below| below.starts_with("| ---") || below.starts_with("|---"));
        if line.starts_with("| ") && !line.starts_with("| ---") && !is_head {
            rows.push(line.trim_matches('|').split('|').map(str::trim).collect());
        }
    }
    rows
}

/// The names of the tests in a folder, without those below it: each is a function right below its attribute.
pub fn tests_in_folder(folder: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = files.map(|entry| entry.unwrap().path());
    files
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
        .flat_map(|file| tests_in_file(&file))
        .collect()
}

/// The names of the tests in a file.
pub fn tests_in_file(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    tests(&text)
}

fn tests(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            is_test |= line
                .trim_start_matches("#[")
                .split('(')
                .next()
                .is_some_and(|word| word.trim_end_matches(']').ends_with("test"));
            continue;
        }
        let name = line.trim_start_matches("async ").strip_prefix("fn ");
        names.extend(name.filter(|_| is_test).and_then(|name| name.split('(').next()).map(str::to_owned));
        is_test = false;
    }
    names
}

#[cfg(test)]
mod tests {
    #[test]
    fn rows_are_read_without_heads() {
        let page = "text\n\n| a | b |\n| --- | --- |\n| 1 | `x` |\n\n| c |\n| --- |\n| 2 |\n";
        assert_eq!(super::rows(page), [vec!["1", "`x`"], vec!["2"]]);
    }

    #[test]
    fn tests_are_functions_below_their_attribute() {
        let text = "#[test]\nfn a() {\n#[tokio::test(start_paused = true)]\n#[ignore]\nasync fn b() {\n#[cfg(unix)]\nfn c() {\n";
        assert_eq!(super::tests(text), ["a", "b"].map(str::to_owned).into());
    }
}
