//! The rules of the house that a compiler does not check.

mod circles;
mod docs;
mod promises;
mod words;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use wasaga_testkit::table;

const LINES_MAX: usize = 600;
const SCRIPT_LINES_MAX: usize = 400;

/// Each module may import only those before it. The binary may import all; `saga` and `store` are crates that import nothing of ours.
const LAYERS: [&str; 17] = [
    "causes",
    "descriptors",
    "files",
    "memory",
    "keys",
    "redact",
    "hidden",
    "data_folder",
    "egress",
    "branch",
    "plugin",
    "directory",
    "engine",
    "api",
    "config",
    "log",
    "commands",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Folders that are built or downloaded, not written.
const NOT_OURS: [&str; 3] = ["target", "node_modules", ".git"];

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    files_of(dir, &["rs"])
}

/// The files below a folder with one of the extensions.
fn files_of(dir: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            if !NOT_OURS.iter().any(|name| path.ends_with(name)) {
                files.extend(files_of(&path, extensions));
            }
        } else if extensions.iter().any(|wanted| path.extension().is_some_and(|extension| extension == *wanted)) {
            files.push(path);
        }
    }
    files
}

#[test]
fn no_file_is_too_long() {
    let files: Vec<PathBuf> =
        ["host", "plugins", "examples"].iter().flat_map(|dir| rust_files(&root().join(dir))).collect();
    assert!(files.len() > 20, "found only {files:?}");
    for file in files {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines: more than one idea, split it", file.display());
    }
}

#[test]
fn no_script_is_too_long() {
    let files = files_of(&root(), &["py", "sh"]);
    assert!(files.len() > 5, "found only {files:?}");
    for file in files {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= SCRIPT_LINES_MAX, "{} has {lines} lines: split it", file.display());
    }
}

/// Folders whose files may still import each other in a circle: a crate's `src`, and a module in it. To be emptied.
const CIRCLES_ALLOWED: [(&str, &str); 0] = [];

#[test]
fn imports_make_no_circles() {
    for src in ["host/src", "host/saga/src", "host/store/src"] {
        for circle in circles::in_crate(&root().join(src)) {
            let is_within = |part: &str| circle.iter().all(|module| module.starts_with(part));
            let is_allowed = CIRCLES_ALLOWED.iter().any(|(exempt, part)| *exempt == src && is_within(part));
            assert!(is_allowed, "these modules of {src} import each other in a circle: {circle:?}");
        }
    }
}

/// The crate roots of all that runs.
#[test]
fn crate_roots_deny_panics() {
    const LINE: &str = "#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]";
    for file in ["host/src/lib.rs", "host/src/main.rs", "host/saga/src/lib.rs", "host/store/src/lib.rs"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        assert!(text.lines().any(|line| line == LINE), "{file} must have the line {LINE}");
    }
}

#[test]
fn every_module_has_a_layer() {
    let entries = fs::read_dir(root().join("host/src")).unwrap().map(|entry| entry.unwrap().path());
    let mut modules: BTreeSet<String> =
        entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert!(modules.remove("lib") && modules.remove("main"));
    assert_eq!(modules, LAYERS.map(str::to_owned).into());
}

#[test]
fn imports_point_one_way() {
    let src = root().join("host/src");
    for (layer, name) in LAYERS.iter().enumerate() {
        let own = src.join(name).with_extension("rs");
        let mut files = if src.join(name).is_dir() { rust_files(&src.join(name)) } else { Vec::new() };
        files.extend(own.is_file().then_some(own));
        assert!(!files.is_empty());
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for later in &LAYERS[layer + 1..] {
                for import in [format!("crate::{later}"), format!("    {later}::")] {
                    let outside = text.lines().any(|line| line.contains(&import) && !line.trim().starts_with("//"));
                    assert!(!outside, "{} imports {later}, which comes after {name}", file.display());
                }
            }
        }
    }
}

#[test]
fn each_library_is_named_where_it_belongs() {
    let homes = [
        ("sled::", [].as_slice()),
        ("wasmtime", &["plugin"]),
        ("axum", &["api"]),
        ("reqwest", &["branch", "commands"]),
    ];
    for (engine, homes) in homes {
        let src = root().join("host/src");
        let named: Vec<PathBuf> = rust_files(&src)
            .into_iter()
            .filter(|file| !homes.iter().any(|home| file.starts_with(src.join(home))))
            .filter(|file| {
                let text = fs::read_to_string(file).unwrap();
                text.lines().any(|line| line.contains(engine) && !line.trim().starts_with("//"))
            })
            .collect();
        assert!(named.is_empty(), "only {homes:?} may name {engine}: {named:?}");
    }
}

#[test]
fn the_targets_named_in_the_readme_exist() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let mut named = 0;
    for words in readme.split("make ").skip(1) {
        let target: String = words.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
        let is_command = readme.contains(&format!("`make {target}")) || readme.contains(&format!("\nmake {target}"));
        if is_command {
            named += 1;
            assert!(makefile.contains(&format!("\n{target}:")), "README.md names `make {target}`");
        }
    }
    assert!(named > 2);
}

#[test]
fn the_paths_in_the_contributing_page_exist() {
    let page = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let mut named = 0;
    for cell in table::rows(&page).concat() {
        for path in cell.split('`').skip(1).step_by(2).filter(|code| code.contains('/') && !code.contains(' ')) {
            named += 1;
            assert!(root().join(path).exists(), "CONTRIBUTING.md names {path}, which is not there");
        }
    }
    assert!(named > 20, "found only {named} paths");
}
