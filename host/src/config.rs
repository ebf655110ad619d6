//! The host's settings, from a file, flags and environment variables. The defaults are enough for the tutorial.
//!
//! Every limit is defined next to the code that it limits, with its unit and its reason; this module collects them. A test
//! compares the commented sample `examples/wasaga.toml` with the defaults.

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
    api::{
        self,
        web::{self, HostName, Origin},
    },
    branch::http,
    data_folder,
    descriptors::Shares,
    engine, memory,
    plugin::{self, Grants},
    store,
};

/// Flags and environment variables; each overrides the file.
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
    /// Names by which clients call the host, separated by commas; addresses and localhost need none [default: none]
    #[arg(long, env = "WASAGA_HOST_NAMES", value_name = "NAMES", value_delimiter = ',')]
    pub host_names: Option<Vec<HostName>>,
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

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port to listen on. The default is a loopback address, since DTM's API has no authentication.
    pub listen: String,
    /// Address and port of the gRPC API. `next`: the port after that of `listen`, as in DTM (any free port if that is 0).
    /// `off`: no gRPC API.
    pub grpc_listen: String,
    /// How long a start waits for an address that is in use: of a host that still stops, or of somebody's outgoing
    /// connection, whose port Linux may choose from 32768 to 60999.
    #[serde(with = "duration")]
    pub listen_patience: Duration,
    /// Folder of the journal, the state and the components of sagas. Created if missing; used by one host at a time.
    pub data: PathBuf,
    /// How long a stopping host waits for running attempts before it cancels them.
    #[serde(with = "duration")]
    pub stop_grace: Duration,
    pub log: Log,
    pub saga: engine::Settings,
    pub http: http::Settings,
    pub memory: memory::Settings,
    pub plugins: Plugins,
    pub store: Store,
    pub api: Api,
}

/// Logging, to standard error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, or a filter by module as the tracing crate writes them.
    pub filter: String,
    /// Whether a line is a JSON object instead of text.
    pub json: bool,
}

/// Plugins, their limits and their grants.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plugins {
    /// Folder of the components, one file `NAME.wasm` for each plugin.
    pub dir: PathBuf,
    /// Interval at which the folder is read for new and replaced components. 0: only at the start.
    #[serde(with = "duration")]
    pub watch: Duration,
    /// Which clients may replace plugins by `PUT /api/v1/plugins/NAME`.
    pub upload: api::Uploads,
    /// Replaced versions of each plugin that are kept although no saga uses them, so that they can be restored.
    pub spare_versions: usize,
    /// Addresses of other hosts that are routed to a plugin.
    pub routes: Vec<plugin::Route>,
    /// Guests that exist at once; further attempts wait for a place. A quarter is a reserve for plugins that have few.
    pub slots: u32,
    /// The most of them for one plugin: a plugin that waits for a slow service must not take all.
    pub slots_per_plugin: u32,
    /// Threads of lower priority for guests that compute for more than a few milliseconds, and as many of still lower
    /// priority for those that compute for much longer. 0: one for each processor.
    pub busy_guests: usize,
    /// Bytes that one plugin may write to the log in the long run, all its attempts together, each line counted as 64 more
    /// than its text; the rest is dropped, with a note. Three quarters of the lines that wait to be written are the host's in
    /// any case. 0: no limit.
    pub log_bytes_per_second: u64,
    /// Bytes that a plugin may write at once beyond that.
    pub log_burst_bytes: u64,
    /// Limits of one attempt.
    pub limits: plugin::Limits,
    /// Limits of compiling one component.
    pub compile: plugin::CompileLimits,
    /// Grants by plugin name. A plugin without an entry has none.
    pub grants: BTreeMap<String, plugin::grants::Settings>,
}

/// The store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Bytes of memory that cache state.
    pub cache_bytes: u64,
    /// Read all state at the start and compare it with its digest, so that damage is repaired before the first request.
    /// Takes about a second for a million rows.
    pub verify_on_open: bool,
    /// Bytes of journal after which a new base (a copy of all state with a checksum) is written and the old journal is
    /// deleted; or the size of the last base, if that is more. This much journal is on disk and replayed by a rebuild.
    pub base_bytes: u64,
    /// Bytes of the disk that stay free: with less, new sagas get 503 with Retry-After, and those under way go on. 0: the
    /// greater of 64 MiB and 2 % of the disk, at most 1 GiB.
    pub free_bytes_min: u64,
    /// Open a damaged journal without the part from the damage on, which is kept in files `*.lost`. Set it for a single
    /// start only.
    pub salvage: bool,
}

/// Limits of the API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Names by which clients call the host: others are refused, since a web page of that name can be behind it (DNS
    /// rebinding). Addresses of IP, `localhost` and the name in `listen` need no entry. `*`: any name, which is safe only
    /// if no browser reaches the host.
    pub host_names: Vec<HostName>,
    /// Origins of web pages that may send requests, besides the host's own. No answer has headers of CORS, so their
    /// browsers keep the answers from them.
    pub origins: Vec<Origin>,
    pub requests: api::Limits,
    pub connections: api::serve::Settings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:36789".into(),
            grpc_listen: "next".into(),
            listen_patience: Duration::from_secs(10),
            data: "wasaga-data".into(),
            stop_grace: Duration::from_secs(10),
            log: Log::default(),
            saga: engine::Settings::default(),
            http: http::Settings::default(),
            memory: memory::Settings::default(),
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
        let plugin::Settings { limits, compile, slots, spare_versions, guest_log, .. } = plugin::Settings::default();
        let slots_per_plugin = engine::Settings::default().attempts.plugins.per_holder;
        Self {
            dir: "target/plugins".into(),
            watch: Duration::from_secs(1),
            upload: api::Uploads::default(),
            spare_versions,
            routes: Vec::new(),
            slots,
            slots_per_plugin: u32::try_from(slots_per_plugin).unwrap_or(slots),
            busy_guests: 0,
            log_bytes_per_second: guest_log.bytes_per_second,
            log_burst_bytes: guest_log.burst_bytes,
            limits,
            compile,
            grants: BTreeMap::new(),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        let store::Settings { cache_bytes, verify_on_open, base_bytes, free_bytes_min, salvage, .. } =
            store::Settings::new(PathBuf::new());
        Self { cache_bytes, verify_on_open, base_bytes, free_bytes_min, salvage }
    }
}

/// Why the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the settings file {}", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("the settings file {} is wrong (examples/wasaga.toml shows every setting)", file.display())]
    Parse { file: PathBuf, source: Box<toml::de::Error> },
    #[error("the grants of a plugin are wrong")]
    Grants(#[from] plugin::grants::Error),
}

impl Config {
    /// The defaults, overridden by the file, overridden by flags and variables.
    pub fn load(flags: Flags) -> Result<Self, Error> {
        let mut config = match &flags.config {
            Some(file) => Self::read(file)?,
            None => Self::default(),
        };
        let Flags { config: _, listen, grpc_listen, host_names, data, plugins, log } = flags;
        override_with(&mut config.listen, listen);
        override_with(&mut config.grpc_listen, grpc_listen);
        override_with(&mut config.api.host_names, host_names);
        override_with(&mut config.data, data);
        override_with(&mut config.plugins.dir, plugins);
        override_with(&mut config.log.filter, log);
        Ok(config)
    }

    fn read(file: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(file).map_err(|source| Error::Read { file: file.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| Error::Parse { file: file.to_owned(), source: Box::new(source) })
    }

    /// The file descriptors that the settings ask for.
    pub fn descriptors(&self) -> Shares {
        let Plugins { slots, limits, .. } = &self.plugins;
        Shares {
            connections: self.api.connections.connections_max,
            calls: self.http.calls_max,
            requests: usize::try_from(slots.saturating_mul(limits.http_at_once)).unwrap_or(usize::MAX),
            idle_per_host: self.http.pool_idle_per_host_max,
        }
    }

    /// The address of the gRPC API, if there is one, for an HTTP API that listens on `http`.
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

    /// Which requests are taken over HTTP. The name in `listen` is one of the host's.
    pub fn web_rules(&self) -> web::Rules {
        let Api { host_names, origins, .. } = &self.api;
        let host_names = host_names.iter().cloned().chain(HostName::of_address(&self.listen)).collect();
        web::Rules::new(host_names, origins.clone())
    }

    /// The settings of the engine. At most `calls` services are called at once, whatever the settings say.
    pub fn engine_settings(&self, calls: usize) -> engine::Settings {
        let Plugins { slots, slots_per_plugin, .. } = self.plugins;
        let http::Settings { calls_max, calls_per_destination_max, .. } = self.http;
        let plugins = engine::Limits { total: slots as usize, per_holder: slots_per_plugin as usize };
        let services = engine::Limits { total: calls_max.min(calls), per_holder: calls_per_destination_max };
        let attempts = engine::destinations::Settings { plugins, services, ..Default::default() };
        engine::Settings { attempts, ..self.saga.clone() }
    }

    /// The settings of services' clients, for a host that listens on loopback addresses only, or not.
    pub fn http_settings(&self, listens_on_loopback: bool) -> http::Settings {
        http::Settings { unlisted: self.http.unlisted.resolved(listens_on_loopback), ..self.http.clone() }
    }

    /// The settings of plugins, which are compiled in the calling process unless the caller says otherwise. Reads the secrets
    /// that they are granted.
    pub fn plugin_settings(&self) -> Result<plugin::Settings, Error> {
        let defaults = plugin::Settings::default();
        let Plugins {
            slots,
            busy_guests,
            limits,
            compile,
            grants,
            spare_versions,
            log_bytes_per_second,
            log_burst_bytes,
            ..
        } = &self.plugins;
        let check = |(name, settings): (&String, _)| Ok((name.clone(), Arc::new(Grants::new(name, settings)?)));
        Ok(plugin::Settings {
            limits: limits.clone(),
            compile: *compile,
            slots: *slots,
            busy_guests: if *busy_guests == 0 { defaults.busy_guests } else { *busy_guests },
            grants: grants.iter().map(check).collect::<Result<_, Error>>()?,
            cache_dir: Some(data_folder::compiled(&self.data)),
            component_store_dir: Some(data_folder::components(&self.data)),
            spare_versions: *spare_versions,
            ca_file: self.http.ca_file.clone(),
            guest_log: plugin::GuestLogSettings {
                bytes_per_second: *log_bytes_per_second,
                burst_bytes: *log_burst_bytes,
                hidden_headers: self.saga.hidden_headers.clone(),
            },
            ..defaults
        })
    }

    /// The settings of the store.
    pub fn store_settings(&self) -> store::Settings {
        let Store { cache_bytes, verify_on_open, base_bytes, free_bytes_min, salvage } = self.store;
        store::Settings {
            base_bytes,
            free_bytes_min,
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
