//! The plugins of a folder, and which addresses belong to them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    Plugin, Runtime,
    attempt::Operation,
    component::{self, Fault, Loaded},
    contract,
};
use crate::{branch::Branch, saga::Op};

/// Addresses that belong to a plugin although they name another host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// What the address starts with; `/try` or `/cancel` must follow.
    pub prefix: String,
    /// The plugin's name.
    pub plugin: String,
}

/// A file that is no plugin.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", file.display())]
pub struct Refused {
    /// The file, or the folder if it cannot be read.
    pub file: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

/// An address that belongs to plugins, but to no function of one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// No file of that name.
    #[error("there is no plugin `{name}` for {target}; there are: {known}")]
    UnknownPlugin {
        /// The address.
        target: String,
        /// Its plugin.
        name: String,
        /// The plugins that there are.
        known: String,
    },
    /// There is such a file, but it is no plugin.
    #[error("the plugin for {target} could not be loaded: {refused}")]
    Refused {
        /// The address.
        target: String,
        /// Which file, and why.
        refused: String,
    },
    /// Neither `try` nor `cancel`.
    #[error(
        "{target} names no operation: it must end in /{} for an action, in /{} for a compensation",
        contract::function(Op::Action),
        contract::function(Op::Compensate)
    )]
    UnknownOperation {
        /// The address.
        target: String,
    },
    /// The right plugin and the wrong function.
    #[error("{target} cannot be a step's {}: use /{}", op.as_str(), contract::function(*op))]
    WrongOperation {
        /// The address.
        target: String,
        /// Where it was given.
        op: Op,
    },
}

/// All plugins of a host. Never changes; a new one takes its place.
#[derive(Default)]
pub struct Registry {
    plugins: BTreeMap<String, Entry>,
    refused: Vec<Refused>,
    routes: Vec<Route>,
}

struct Entry {
    plugin: Arc<Plugin>,
    /// Made once, so that finding a branch allocates nothing.
    action: Arc<dyn Branch>,
    compensation: Arc<dyn Branch>,
}

impl Registry {
    /// Loads every `*.wasm` of a folder. A file that is no plugin never stops the others: see [`Registry::refused`].
    /// Compiles what the cache does not hold, which takes from milliseconds to seconds of all processors.
    pub fn load(runtime: &Runtime, dir: &Path, routes: Vec<Route>) -> Self {
        let mut registry = Self { routes, ..Self::default() };
        // The longest prefix wins.
        registry.routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        match component_files(dir) {
            Ok(files) => files.into_iter().for_each(|file| registry.add(runtime, file)),
            Err(error) => {
                registry.refused.push(Refused { file: dir.to_owned(), fault: Fault::Unreadable(error) });
            }
        }
        registry
    }

    fn add(&mut self, runtime: &Runtime, file: PathBuf) {
        match component::name(&file).and_then(|name| Ok((name.to_owned(), Loaded::read(runtime, &file)?))) {
            Ok((name, component)) => {
                let plugin = Arc::new(Plugin::new(runtime, &name, file, component));
                let operation = |op| Arc::new(Operation { plugin: plugin.clone(), op }) as Arc<dyn Branch>;
                let (action, compensation) = (operation(Op::Action), operation(Op::Compensate));
                self.plugins.insert(name, Entry { plugin, action, compensation });
            }
            Err(fault) => self.refused.push(Refused { file, fault }),
        }
    }

    /// The plugins, by name.
    pub fn plugins(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        self.plugins.values().map(|entry| &entry.plugin)
    }

    /// The files that are no plugins.
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// The branch behind an address, when the address belongs to a plugin: `wasm://NAME/try`, one of the routes, or
    /// any `http(s)://NAME[:PORT]/try` whose host is the name of a plugin. `None`: an ordinary HTTP service.
    pub fn resolve(&self, target: &str, op: Op) -> Result<Option<Arc<dyn Branch>>, Unresolved> {
        let Some(Location { plugin, function }) = self.locate(target) else { return Ok(None) };
        let Some(entry) = self.plugins.get(plugin) else { return Err(self.missing(target, plugin)) };
        match contract::operation(function) {
            None => Err(Unresolved::UnknownOperation { target: target.to_owned() }),
            Some(named) if named != op => Err(Unresolved::WrongOperation { target: target.to_owned(), op }),
            Some(Op::Action) => Ok(Some(entry.action.clone())),
            Some(Op::Compensate) => Ok(Some(entry.compensation.clone())),
        }
    }

    fn locate<'a>(&'a self, target: &'a str) -> Option<Location<'a>> {
        if let Some(path) = target.strip_prefix("wasm://") {
            let (plugin, function) = path.split_once('/').unwrap_or((path, ""));
            return Some(Location { plugin, function });
        }
        let address = target.split(['?', '#']).next().unwrap_or_default();
        for Route { prefix, plugin } in &self.routes {
            let rest = address.strip_prefix(prefix.strip_suffix('/').unwrap_or(prefix));
            if let Some(function) = rest.and_then(|rest| rest.strip_prefix('/')) {
                return Some(Location { plugin, function });
            }
        }
        let address = address.strip_prefix("http://").or_else(|| address.strip_prefix("https://"))?;
        let (authority, function) = address.split_once('/')?;
        let plugin = authority.split(':').next().unwrap_or_default();
        let owned = self.plugins.contains_key(plugin) || self.refusal(plugin).is_some();
        (owned && contract::operation(function).is_some()).then_some(Location { plugin, function })
    }

    fn missing(&self, target: &str, name: &str) -> Unresolved {
        let target = target.to_owned();
        if let Some(refused) = self.refusal(name) {
            return Unresolved::Refused { target, refused: refused.to_string() };
        }
        let names: Vec<&str> = self.plugins.keys().map(String::as_str).collect();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Unresolved::UnknownPlugin { target, name: name.to_owned(), known }
    }

    fn refusal(&self, name: &str) -> Option<&Refused> {
        self.refused.iter().find(|refused| component::name(&refused.file).is_ok_and(|refused| refused == name))
    }
}

/// What an address says about a plugin.
struct Location<'a> {
    plugin: &'a str,
    function: &'a str,
}

/// The components of a folder, in the order of their names.
fn component_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let mut files: Vec<PathBuf> =
        entries.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "wasm")).collect();
    files.sort();
    Ok(files)
}
