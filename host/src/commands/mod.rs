//! The program's other side: tools for people who write plugins. Each command needs no server unless it says so.

mod check;
mod client;
mod print;
mod report;
mod scaffold;
mod templates;
mod trial;

use std::{
    env, error, fs,
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand};

pub use self::{client::DEFAULT_HOST, templates::Lang, trial::Trial};
use crate::{
    config::{Config, Flags},
    plugin,
};

/// A saga runtime whose branch services are sandboxed WebAssembly components. Without a command it serves.
#[derive(Debug, Parser)]
#[command(name = "wasaga", version, about, disable_help_subcommand = true, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// What the server is started with
    #[command(flatten)]
    pub flags: Flags,
    /// Anything but serving
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Anything but serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write, check, try, upload and list plugins
    #[command(subcommand)]
    Plugin(Plugin),
}

/// What can be done with a plugin.
#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// Make a folder with a small branch, its test and a README that says how to build it
    New {
        /// Name of the plugin, and of the folder
        name: String,
        /// What it is written in
        #[arg(long, value_enum)]
        lang: Lang,
    },
    /// Say whether a file is a plugin, what it may do, and what would mend it
    Check {
        /// The component, NAME.wasm
        file: PathBuf,
        /// Name of the plugin, which grants are for [default: that of the file]
        #[arg(long)]
        name: Option<String>,
        /// Settings file whose limits and grants count [default: the defaults, and no grants]
        #[arg(long, env = "WASAGA_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Run try and cancel in all the ways that happen, without a server, and say what they did
    Test {
        /// What is tried
        #[command(flatten)]
        trial: Trial,
        /// Settings file whose limits, grants and settings count [default: the defaults, and no grants]
        #[arg(long, env = "WASAGA_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Upload a plugin to a running host, which uses it from then on
    Push {
        /// The component, NAME.wasm
        file: PathBuf,
        /// Name of the plugin [default: that of the file]
        #[arg(long)]
        name: Option<String>,
        /// Where
        #[command(flatten)]
        host: Host,
    },
    /// List the plugins of a running host
    List {
        /// Where
        #[command(flatten)]
        host: Host,
    },
}

/// Which host is meant.
#[derive(Debug, Args)]
pub struct Host {
    /// Address of the running host
    #[arg(long, env = "WASAGA_HOST", value_name = "URL", default_value = DEFAULT_HOST)]
    pub host: String,
}

/// What a command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is well.
    Good,
    /// It has said what is not.
    Bad,
}

/// Carries a command out. What it has to say goes to standard output; an error is what kept it from its work.
pub async fn run(command: Command) -> Result<Verdict, Box<dyn error::Error>> {
    let Command::Plugin(command) = command;
    match command {
        Plugin::New { name, lang } => scaffold::run(&name, lang),
        Plugin::Check { file, name, config } => check::run(&settings(config)?, &file, name.as_deref()),
        Plugin::Test { trial, config } => {
            // What is compiled for one trial serves the next.
            let cache = Scratch::new();
            let settings = plugin::Settings { cache_dir: Some(cache.0.clone()), ..settings(config)? };
            trial::run(&settings, &trial).await
        }
        Plugin::Push { file, name, host } => client::push(&host.host, &file, name.as_deref()).await,
        Plugin::List { host } => client::list(&host.host).await,
    }
}

/// The name that a plugin goes by: the one that was asked for, or that of its file.
fn name_of<'a>(file: &'a Path, name: Option<&'a str>) -> Result<&'a str, String> {
    match name {
        Some(name) if plugin::is_name(name) => Ok(name),
        Some(name) => Err(format!("--name {name:?}: {}", plugin::name_rule())),
        None => {
            plugin::name(file).map_err(|fault| format!("{}: {fault}, or give another name: --name", file.display()))
        }
    }
}

/// A folder of the system's for temporary ones; gone when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        Self(env::temp_dir().join(format!("wasaga-{:016x}", fastrand::u64(..))))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whatever stays there the system removes some day.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Settings for a runtime that runs one guest and leaves nothing behind.
fn settings(config: Option<PathBuf>) -> Result<plugin::Settings, Box<dyn error::Error>> {
    let config = Config::load(Flags { config, ..Flags::default() })?;
    Ok(plugin::Settings { slots: 1, cache_dir: None, component_store_dir: None, ..config.plugin_settings()? })
}
