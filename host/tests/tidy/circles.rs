//! Circles of imports between the files of a crate.
//!
//! A file imports another if one of its `use` declarations leads there: `crate::`, `super::`, `self::` and the names of
//! its own child modules are followed to the deepest module that is a file. Test modules at the end of a file are left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::rust_files;

type Module = Vec<String>;

/// The circles of a crate's `src`, each as its modules (`a::b`) in order of their names.
pub fn in_crate(src: &Path) -> Vec<Vec<String>> {
    let mut files = BTreeMap::new();
    for file in rust_files(src) {
        let inside = file.strip_prefix(src).unwrap().with_extension("");
        let mut module: Module = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        module.pop_if(|last| ["mod", "lib"].contains(&last.as_str()));
        files.insert(module, fs::read_to_string(&file).unwrap());
    }
    among(&files)
}

/// The circles among files: each set of files that all lead to each other.
fn among(files: &BTreeMap<Module, String>) -> Vec<Vec<String>> {
    let imports: BTreeMap<&Module, BTreeSet<&Module>> =
        files.iter().map(|(module, text)| (module, imports(module, text, files))).collect();
    let reached = |from: &Module| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = next.pop() {
            for &to in &imports[&module] {
                if reached.insert(to.clone()) {
                    next.push(to.clone());
                }
            }
        }
        reached
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = files.keys().map(|module| (module, reached(module))).collect();
    let circle = |module: &Module| {
        let members = reached[module].iter().filter(|other| reached[other].contains(module));
        members.map(|module| module.join("::")).collect::<Vec<_>>()
    };
    files.keys().map(circle).filter(|circle| circle.len() > 1).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The other files that a file imports.
fn imports<'a>(module: &Module, text: &str, files: &'a BTreeMap<Module, String>) -> BTreeSet<&'a Module> {
    let code: String = text
        .split("#[cfg(test)]\nmod ")
        .next()
        .unwrap_or_default()
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n")
        .collect();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("use ") {
        let before = code[..at].chars().next_back().is_none_or(char::is_whitespace);
        let Some((tree, _)) = code[at + 4..].split_once(';').filter(|_| before) else { continue };
        for path in paths(tree) {
            if let Some(file) = resolve(module, &path, files).filter(|file| *file != module) {
                found.insert(file);
            }
        }
    }
    found
}

/// The paths of a tree of imports: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(tree: &str) -> Vec<Vec<String>> {
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in tree.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 {
            parts.push(String::new());
        } else {
            parts.last_mut().unwrap().push(c);
        }
    }
    let mut paths_found = Vec::new();
    for part in parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()) {
        let names = |path: &str| -> Vec<String> {
            let path = path.split(" as ").next().unwrap_or_default();
            path.split("::").map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
        };
        match part.split_once('{') {
            None => paths_found.push(names(part)),
            Some((prefix, inner)) => {
                let inner = paths(inner.trim_end().trim_end_matches('}'));
                paths_found.extend(inner.into_iter().map(|path| [names(prefix), path].concat()));
            }
        }
    }
    paths_found
}

fn resolve<'a>(module: &Module, path: &[String], files: &'a BTreeMap<Module, String>) -> Option<&'a Module> {
    let mut here = module.clone();
    let mut path = path.iter().peekable();
    match path.peek()?.as_str() {
        "crate" => here.clear(),
        "self" | "super" => {}
        name if files.contains_key(&[module.clone(), vec![name.to_owned()]].concat()) => {}
        _ => return None,
    }
    path.next_if(|name| ["crate", "self"].contains(&name.as_str()));
    while path.next_if(|name| *name == "super").is_some() {
        here.pop();
    }
    let mut deepest = files.get_key_value(&here);
    for name in path {
        here.push(name.clone());
        deepest = files.get_key_value(&here).or(deepest);
    }
    deepest.map(|(module, _)| module)
}

#[test]
fn circles_are_found_through_nested_imports_and_not_through_tests() {
    let module = |name: &str| name.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect::<Module>();
    let files = BTreeMap::from(
        [
            ("", "pub mod a;\nmod b;\n"),
            ("a", "mod x;\nuse crate::{b::{self, Thing}, other};\n"),
            ("a::x", "// use super::super::b;\n#[cfg(test)]\nmod tests {\n    use super::super::A;\n}\n"),
            ("b", "use std::fs;\npub(crate) use super::{\n    a::{\n        x::X,\n        y as z,\n    },\n};\n"),
        ]
        .map(|(name, text)| (module(name), text.to_owned())),
    );
    assert_eq!(among(&files), [["a", "b"]]);
}
