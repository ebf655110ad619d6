//! The subcommands for authors of plugins: the real program, run as they run it.

mod gallery;
mod plugin;
mod trial;

use std::{path::Path, process::Command};

use wasaga_testkit::process::program;

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
    let output = Command::new(program())
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
