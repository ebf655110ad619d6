//! What people who write plugins see of the program: the real one, run as they run it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "cli/gallery.rs"]
mod gallery;
#[path = "cli/plugin.rs"]
mod plugin;
#[path = "cli/trial.rs"]
mod trial;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// What a command printed, and whether it says that all is well.
struct Said {
    is_good: bool,
    text: String,
}

impl Said {
    #[track_caller]
    fn must_hold(&self, words: &[&str]) {
        for word in words {
            assert!(self.text.contains(word), "no {word:?} in:\n{}", self.text);
        }
    }
}

/// Runs `wasaga plugin ...` in a folder.
fn wasaga(folder: &Path, args: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_wasaga"))
        .arg("plugin")
        .args(args)
        .current_dir(folder)
        .env_remove("WASAGA_CONFIG")
        .env_remove("WASAGA_HOST")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    Said { is_good: output.status.success(), text: String::from_utf8(text).unwrap() }
}

/// The file of a component that `make plugins` or `make fixtures` has built.
fn component(folder: &str, name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let file = target.join(folder).join(name).with_extension("wasm").canonicalize();
    file.unwrap_or_else(|error| panic!("{name}: {error}: run `make plugins fixtures`"))
}
