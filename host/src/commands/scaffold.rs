//! `wasaga plugin new`: creates a folder that builds, from one of the project's examples.

use std::{
    error::Error,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::{
    print::say,
    templates::{Lang, WIT},
    verdict::Verdict,
};

/// Creates the folder `name` in the current one.
pub fn run(name: &str, lang: Lang) -> Result<Verdict, Box<dyn Error>> {
    if !is_name(name) {
        return Err(format!(
            "{name:?} cannot be a plugin's name in every language: take lowercase letters, digits, '-' and '_', a letter first, \
             at most 63"
        )
        .into());
    }
    let folder = PathBuf::from(name);
    match fs::create_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(format!("{name} exists already: take another name, or remove it").into());
        }
        made => made.map_err(|error| format!("the folder {name} cannot be made here: {error}"))?,
    }
    write(&folder, name, lang)?;
    let readme = folder.join("README.md");
    let text = fs::read_to_string(&readme).map_err(|error| at(&readme, &error))?;
    say(format_args!("{name} is a branch in {}. Its README.md says how to test and build it:\n", lang.title()));
    say(text);
    Ok(Verdict::Good)
}

/// Writes the files of a template.
fn write(folder: &Path, name: &str, lang: Lang) -> Result<(), Box<dyn Error>> {
    let template = lang.files().iter().map(|(path, text)| {
        // Otherwise cargo adds the package to a workspace in a folder above it.
        let end = if *path == "Cargo.toml" { "\n[workspace]\n" } else { "" };
        (PathBuf::from(path), rename(text, lang, name) + end)
    });
    let contract = WIT.iter().map(|(path, text)| (Path::new("wit").join(path), (*text).to_owned()));
    for (path, text) in template.chain(contract) {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|error| at(parent, &error))?;
        fs::write(&path, text).map_err(|error| at(&path, &error))?;
    }
    Ok(())
}

fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// Replaces the example's name by the plugin's, in names of files and packages only: `rust` also occurs as a plain word.
fn rename(text: &str, lang: Lang, name: &str) -> String {
    let example = lang.folder();
    // Cargo names the file of a library with underscores.
    let built = format!("release/{}.wasm", name.replace('-', "_"));
    let text = replace_word(text, &format!("release/{example}.wasm"), &built);
    let text = replace_word(&text, &format!("{example}.wasm"), &format!("{name}.wasm"));
    let text = text.replace(&format!("name = \"{example}\""), &format!("name = \"{name}\""));
    text.replace(&format!("\"name\": \"{example}\""), &format!("\"name\": \"{name}\""))
}

/// Replaces `word` where it is not the end of a longer word.
fn replace_word(text: &str, word: &str, by: &str) -> String {
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, from) = rest.split_at(at);
        let is_whole = !before.ends_with(|c: char| c.is_alphanumeric() || "-_.".contains(c));
        replaced.push_str(before);
        replaced.push_str(if is_whole { by } else { word });
        rest = from.strip_prefix(word).unwrap_or_default();
    }
    replaced.push_str(rest);
    replaced
}

fn is_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_in_every_language() {
        for name in ["a", "stock", "my-plugin_2"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "2go", "Stock", "a.b", "a/b", "..", "-a", &"a".repeat(64)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn only_whole_words_are_renamed() {
        assert_eq!(
            replace_word("c.wasm: c.wasm exec.wasm (c.wasm)", "c.wasm", "x.wasm"),
            "x.wasm: x.wasm exec.wasm (x.wasm)"
        );
        assert_eq!(rename("cp a/release/rust.wasm rust.wasm", Lang::Rust, "a-b"), "cp a/release/a_b.wasm a-b.wasm");
        assert_eq!(rename("rust-version name = \"rust\"", Lang::Rust, "x"), "rust-version name = \"x\"");
    }

    #[test]
    fn every_template_is_called_after_the_plugin() {
        for lang in Lang::ALL {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), "my-plugin", lang).unwrap();
            let readme = fs::read_to_string(dir.path().join("README.md")).unwrap();
            assert!(readme.contains("wasaga plugin push my-plugin.wasm"), "{readme}");
            for (path, _) in lang.files() {
                let text = fs::read_to_string(dir.path().join(path)).unwrap();
                let example = format!("{}.wasm", lang.folder());
                assert_eq!(text, replace_word(&text, &example, ""), "{path} still says {example}");
            }
            assert!(dir.path().join("wit/saga.wit").exists());
        }
    }
}
