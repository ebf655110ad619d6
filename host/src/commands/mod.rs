//! `wasaga plugin`: tools for authors of plugins. Only `push` and `list` need a running host.

mod check;
mod client;
mod name;
mod print;
mod report;
mod scaffold;
mod templates;
mod trial;
mod verdict;

use std::{env, error, fs, path::PathBuf};

use clap::{Args, Parser, Subcommand};

pub use self::{client::DEFAULT_HOST, templates::Lang, trial::arguments::Trial, verdict::Verdict};
use crate::{
    config::{Config, Flags},
    plugin,
};

/// A saga runtime whose branch services are sandboxed WebAssembly components. Without a command it starts the host.
#[derive(Debug, Parser)]
#[command(name = "wasaga", version, about, disable_help_subcommand = true, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands other than starting the host.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create, check, test, upload and list plugins
    #[command(subcommand)]
    Plugin(Plugin),
    /// Compile a component from standard input to standard output, for a host that watches it
    #[command(hide = true, name = plugin::COMPILE_COMMAND)]
    CompileComponent {
        /// Limits, as the host writes them
        request: String,
    },
}

/// The commands for plugins.
#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// Create a folder with a small branch, its test and a README that says how to build it
    New {
        /// Name of the plugin, and of the folder
        name: String,
        /// Programming language
        #[arg(long, value_enum)]
        lang: Lang,
    },
    /// Show whether a file is a plugin, what it can do, and how to correct it if it is not
    Check {
        /// The component, NAME.wasm
        file: PathBuf,
        /// Name of the plugin, which selects its grants [default: that of the file]
        #[arg(long)]
        name: Option<String>,
        /// Settings file with the limits and grants to use [default: the default limits, no grants]
        #[arg(long, env = "WASAGA_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Run try and cancel in all the ways that happen under a host, without one, and show what they did
    Test {
        #[command(flatten)]
        trial: Trial,
        /// Settings file with the limits, grants and config to use [default: the default limits, no grants]
        #[arg(long, env = "WASAGA_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Upload a plugin to a running host, which uses it for new sagas
    Push {
        /// The component, NAME.wasm
        file: PathBuf,
        /// Name of the plugin [default: that of the file]
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        host: Host,
    },
    /// List the plugins of a running host
    List {
        #[command(flatten)]
        host: Host,
    },
}

/// The running host that a command talks to.
#[derive(Debug, Args)]
pub struct Host {
    /// Address of the running host
    #[arg(long, env = "WASAGA_HOST", value_name = "URL", default_value = DEFAULT_HOST)]
    pub host: String,
}

/// Runs a command, which prints its result to standard output. An error means that the command could not do its work.
pub async fn run(command: Command) -> Result<Verdict, Box<dyn error::Error>> {
    let command = match command {
        Command::Plugin(command) => command,
        Command::CompileComponent { request } => {
            plugin::compile_here(&request)?;
            return Ok(Verdict::Good);
        }
    };
    match command {
        Plugin::New { name, lang } => scaffold::run(&name, lang),
        Plugin::Check { file, name, config } => check::run(&settings(config)?, &file, name.as_deref()),
        Plugin::Test { trial, config } => {
            // The test loads the component twice and compiles it once.
            let cache = Scratch::new();
            let settings = plugin::Settings { cache_dir: Some(cache.0.clone()), ..settings(config)? };
            trial::run(&settings, &trial).await
        }
        Plugin::Push { file, name, host } => client::push(&host.host, &file, name.as_deref()).await,
        Plugin::List { host } => client::list(&host.host).await,
    }
}

/// The path of a temporary folder, which is deleted on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        Self(env::temp_dir().join(format!("wasaga-{:016x}", fastrand::u64(..))))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The system removes leftovers of its folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Settings for a runtime that runs one guest at a time and stores nothing.
fn settings(config: Option<PathBuf>) -> Result<plugin::Settings, Box<dyn error::Error>> {
    let config = Config::load(Flags { config, ..Flags::default() })?;
    let compiler = plugin::Compiler::own_program()?;
    Ok(plugin::Settings { slots: 1, cache_dir: None, component_store_dir: None, compiler, ..config.plugin_settings()? })
}
