//! The examples of `plugins/` that `wasaga plugin new` copies. A test compares the lists with the folders.

use clap::ValueEnum;

/// The programming languages that there is an example for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lang {
    /// Built by cargo.
    Rust,
    /// Built by `ComponentizeJS`.
    #[value(alias = "js")]
    Javascript,
    /// Built by componentize-py.
    #[value(alias = "py")]
    Python,
    /// Built by Go itself and wasm-tools.
    Go,
    /// Built by clang.
    C,
}

/// A file of a template: its path in the folder, and its text.
pub type File = (&'static str, &'static str);

macro_rules! files {
    ($folder:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../../", $folder, "/", $path)))),+]
    };
}

/// The files of the contract, by their path in `wit/`.
pub const WIT: &[File] = files!("wit":
    "saga.wit",
    "deps/README.md",
    "deps/cli.wit",
    "deps/clocks.wit",
    "deps/config/store.wit",
    "deps/config/world.wit",
    "deps/filesystem.wit",
    "deps/http.wit",
    "deps/io.wit",
    "deps/keyvalue/atomic.wit",
    "deps/keyvalue/batch.wit",
    "deps/keyvalue/store.wit",
    "deps/keyvalue/watch.wit",
    "deps/keyvalue/world.wit",
    "deps/logging/logging.wit",
    "deps/logging/world.wit",
    "deps/random.wit",
    "deps/sockets.wit",
);

impl Lang {
    /// All languages.
    pub const ALL: [Self; 5] = [Self::Rust, Self::Javascript, Self::Python, Self::Go, Self::C];

    /// The name of the example's folder in `plugins/`.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Javascript => "javascript",
            Self::Python => "python",
            Self::Go => "go",
            Self::C => "c",
        }
    }

    /// The name of the language, as people write it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::Javascript => "JavaScript",
            Self::Python => "Python",
            Self::Go => "Go",
            Self::C => "C",
        }
    }

    /// The files of the example, without the contract.
    pub fn files(self) -> &'static [File] {
        match self {
            Self::Rust => {
                files!("plugins/rust": ".gitignore", "Cargo.toml", "README.md", "src/decision.rs", "src/lib.rs")
            }
            Self::Javascript => files!("plugins/javascript":
                ".gitignore",
                "README.md",
                "app.js",
                "decide.js",
                "decide.test.js",
                "package-lock.json",
                "package.json",
            ),
            Self::Python => files!("plugins/python":
                ".gitignore",
                "README.md",
                "app.py",
                "decide.py",
                "requirements.txt",
                "test_decide.py",
            ),
            Self::Go => files!("plugins/go":
                ".gitignore",
                "Makefile",
                "README.md",
                "decision/decision.go",
                "decision/decision_test.go",
                "exports/export_wasaga_saga_branch/branch.go",
                "exports/export_wasaga_saga_branch/store.go",
                "go.mod",
                "main.go",
            ),
            Self::C => files!("plugins/c":
                ".gitignore",
                "Makefile",
                "README.md",
                "branch.c",
                "decision.c",
                "decision.h",
                "decision_test.c",
                "json.c",
                "json.h",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path, process::Command};

    use super::*;

    /// The files below a folder of the project, without those that git ignores.
    fn in_project(folder: &str) -> BTreeSet<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
        let listed = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(&root)
            .output()
            .expect("git lists the project's files");
        assert!(listed.status.success(), "{listed:?}");
        let files = String::from_utf8(listed.stdout).unwrap();
        files.lines().filter(|file| root.join(file).is_file()).map(ToOwned::to_owned).collect()
    }

    #[test]
    fn every_file_of_the_examples_is_copied() {
        for lang in Lang::ALL {
            let copied: BTreeSet<String> = lang.files().iter().map(|(path, _)| (*path).to_owned()).collect();
            assert_eq!(copied, in_project(&format!("plugins/{}", lang.folder())));
        }
        let copied: BTreeSet<String> = WIT.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(copied, in_project("wit"));
    }
}
