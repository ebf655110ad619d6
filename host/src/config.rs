//! The host's settings: a file, flags and variables. Without any of them the defaults serve the tutorial.
//!
//! Every limit lives next to what it limits, with its unit and its reason; this is where they come together. The
//! commented sample in `examples/wasaga.toml` is checked against the defaults by a test.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::{Deserialize, Serialize};

use crate::{
    api,
    branch::http,
    data_folder, engine,
    plugin::{self, Grants},
    store,
};

/// Flags and variables; each overrides the file.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "wasaga", version, about, disable_help_subcommand = true)]
pub struct Flags {
    /// Settings file; examples/wasaga.toml shows all of them
    #[arg(long, env = "WASAGA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to listen on [default: 127.0.0.1:36789]
    #[arg(long, env = "WASAGA_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Address and port of the gRPC API, "next" or "off" [default: next, the port after that of --listen]
    #[arg(long, env = "WASAGA_GRPC_LISTEN", value_name = "ADDRESS")]
    pub grpc_listen: Option<String>,
    /// Folder of the journal, the state and the components of sagas [default: wasaga-data]
    #[arg(long, env = "WASAGA_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Folder of the plugins' components, one NAME.wasm each [default: target/plugins]
    #[arg(long, env = "WASAGA_PLUGINS", value_name = "DIR")]
    pub plugins: Option<PathBuf>,
    /// What to log: error, warn, info, debug, or a tracing filter [default: info]
    #[arg(long, env = "WASAGA_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port to listen on. Loopback: DTM's API has no authentication, so opening it is a decision.
    pub listen: String,
    /// Address and port of the gRPC API. `next`: the port after that of `listen`, as under DTM (any free one if that is
    /// 0). `off`: there is none.
    pub grpc_listen: String,
    /// Folder of the journal, the state and the components of sagas. Created if missing; used by one host at a time.
    pub data: PathBuf,
    /// How long a stopping host waits for running attempts before it gives them up.
    #[serde(with = "duration")]
    pub stop_grace: Duration,
    /// What is logged.
    pub log: Log,
    /// How sagas run.
    pub saga: engine::Settings,
    /// How HTTP branches are called.
    pub http: http::Settings,
    /// Which plugins there are, and what they may use.
    pub plugins: Plugins,
    /// How state is kept.
    pub store: Store,
    /// What clients may send.
    pub api: Api,
}

/// What is logged, to standard error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, or a filter by module as the tracing crate writes them.
    pub filter: String,
    /// One JSON object a line instead of text for people.
    pub json: bool,
}

/// Which plugins there are, and what they may use.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plugins {
    /// Folder of the components, one `NAME.wasm` each.
    pub dir: PathBuf,
    /// How often the folder is looked at: what is new there is used from then on, without a restart. 0: only at the start.
    #[serde(with = "duration")]
    pub watch: Duration,
    /// Who may replace plugins by `PUT /api/v1/plugins/NAME`.
    pub upload: api::Uploads,
    /// Replaced versions of each plugin that are kept although no saga needs them, to go back to.
    pub spare_versions: usize,
    /// Addresses that belong to a plugin although they name another host.
    pub routes: Vec<plugin::Route>,
    /// Guests that exist at once; further calls wait for one to end.
    pub slots: u32,
    /// How many of them may be of one plugin.
    pub slots_per_plugin: u32,
    /// Guests that may compute at once for longer than a moment; they give way to short ones. As many give way to them in
    /// turn, which are not done after some more. 0: as many as there are processors.
    pub busy_guests: usize,
    /// What one attempt may use.
    pub limits: plugin::Limits,
    /// What each plugin may do beyond that, by name. Nothing, unless it is named.
    pub grants: BTreeMap<String, plugin::grants::Settings>,
}

/// How state is kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Bytes of memory for state that was read or written lately.
    pub cache_bytes: u64,
    /// Read all state at the start and compare it with its digest; damage is then mended before anybody is served.
    /// Costs about a second for every million rows.
    pub verify_on_open: bool,
    /// Bytes of journal after which a new base (a checked copy of all state) is written and old journal is deleted; or
    /// the size of the last base, if that is more. What the disk has to hold besides, and a rebuild to replay.
    pub base_bytes: u64,
    /// Open a damaged journal by giving up everything after the damage. Only ever for one start, by hand.
    pub salvage: bool,
}

/// What clients may send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Limits of requests.
    pub requests: api::Limits,
    /// Limits of connections.
    pub connections: api::serve::Settings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:36789".into(),
            grpc_listen: "next".into(),
            data: "wasaga-data".into(),
            stop_grace: Duration::from_secs(10),
            log: Log::default(),
            saga: engine::Settings::default(),
            http: http::Settings::default(),
            plugins: Plugins::default(),
            store: Store::default(),
            api: Api::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".into(), json: false }
    }
}

impl Default for Plugins {
    fn default() -> Self {
        let plugin::Settings { limits, slots, slots_per_plugin, spare_versions, .. } = plugin::Settings::default();
        Self {
            dir: "target/plugins".into(),
            watch: Duration::from_secs(1),
            upload: api::Uploads::default(),
            spare_versions,
            routes: Vec::new(),
            slots,
            slots_per_plugin,
            busy_guests: 0,
            limits,
            grants: BTreeMap::new(),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        let store::Settings { cache_bytes, verify_on_open, base_bytes, salvage, .. } =
            store::Settings::new(PathBuf::new());
        Self { cache_bytes, verify_on_open, base_bytes, salvage }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the settings file {}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says something that is no setting.
    #[error("the settings file {} is wrong (examples/wasaga.toml shows every setting)", file.display())]
    Parse {
        /// Which.
        file: PathBuf,
        /// Where, and what.
        source: Box<toml::de::Error>,
    },
    /// A plugin cannot be granted what the settings say.
    #[error("a plugin cannot be granted what the settings say")]
    Grants(#[from] plugin::grants::Error),
}

impl Config {
    /// The defaults, overridden by the file, overridden by flags and variables.
    pub fn load(flags: Flags) -> Result<Self, Error> {
        let mut config = match &flags.config {
            Some(file) => Self::read(file)?,
            None => Self::default(),
        };
        let Flags { config: _, listen, grpc_listen, data, plugins, log } = flags;
        override_with(&mut config.listen, listen);
        override_with(&mut config.grpc_listen, grpc_listen);
        override_with(&mut config.data, data);
        override_with(&mut config.plugins.dir, plugins);
        override_with(&mut config.log.filter, log);
        Ok(config)
    }

    fn read(file: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(file).map_err(|source| Error::Read { file: file.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| Error::Parse { file: file.to_owned(), source: Box::new(source) })
    }

    /// Where gRPC is served, if at all, when HTTP is served at `http`.
    pub fn grpc_address(&self, http: SocketAddr) -> Option<String> {
        match &*self.grpc_listen {
            "off" => None,
            "next" => {
                let port = if self.listen.ends_with(":0") { 0 } else { http.port().wrapping_add(1) };
                Some(SocketAddr::new(http.ip(), port).to_string())
            }
            address => Some(address.to_owned()),
        }
    }

    /// How guests are run. Fetches the secrets that they are granted.
    pub fn plugin_settings(&self) -> Result<plugin::Settings, Error> {
        let defaults = plugin::Settings::default();
        let Plugins { slots, slots_per_plugin, busy_guests, limits, grants, spare_versions, .. } = &self.plugins;
        let check = |(name, settings): (&String, _)| Ok((name.clone(), Arc::new(Grants::new(name, settings)?)));
        Ok(plugin::Settings {
            limits: limits.clone(),
            slots: *slots,
            slots_per_plugin: *slots_per_plugin,
            busy_guests: if *busy_guests == 0 { defaults.busy_guests } else { *busy_guests },
            grants: grants.iter().map(check).collect::<Result<_, Error>>()?,
            cache_dir: Some(data_folder::compiled(&self.data)),
            component_store_dir: Some(data_folder::components(&self.data)),
            spare_versions: *spare_versions,
            ..defaults
        })
    }

    /// How state is kept.
    pub fn store_settings(&self) -> store::Settings {
        let Store { cache_bytes, verify_on_open, base_bytes, salvage } = self.store;
        store::Settings {
            base_bytes,
            cache_bytes,
            verify_on_open,
            salvage,
            ..store::Settings::new(data_folder::store(&self.data))
        }
    }
}

fn override_with<T>(setting: &mut T, flag: Option<T>) {
    if let Some(flag) = flag {
        *setting = flag;
    }
}
