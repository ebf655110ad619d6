//! The one wasmtime engine of the host, and what all its guests share.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZero,
    path::PathBuf,
    sync::{Arc, Mutex, Weak, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, UpdateDeadline,
    component::{Linker, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::{
    cache::Cache,
    compilers::Compilers,
    component_store::ComponentStore,
    grants::Grants,
    http::{self, Clients, Outgoing, Tls},
    keyvalue::{self, KeyValue},
    limits::{Limits, Meter},
    scheduler::{CpuMeter, Scheduler},
    stdio::{self, Kind, Stdio},
};
use crate::store::sync::lock;

/// How guests are run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What one attempt may use.
    pub limits: Limits,
    /// Guests that exist at once, running or waiting for the host; further calls wait. Reserves `memory_bytes` of
    /// address space (not memory) for each of their memories.
    pub slots: u32,
    /// How many of them may be of one plugin: one that waits for a slow service must not keep all others out.
    pub slots_per_plugin: u32,
    /// Guests that may compute for long at once, behind everybody else, and as many behind those that may never end; see
    /// [`background`](super::background).
    pub busy_guests: usize,
    /// How long a guest computes before it lets others on its thread have their turn. Shorter is fairer under load, and
    /// wakes an idle host more often.
    pub tick: Duration,
    /// What each plugin may do beyond that, by name.
    pub grants: BTreeMap<String, Arc<Grants>>,
    /// Where compiled components are kept; `None`: compile at every start.
    pub cache_dir: Option<PathBuf>,
    /// Where components are kept for the sagas that are pinned to them; `None`: in memory, as long as this process.
    pub component_store_dir: Option<PathBuf>,
    /// How many versions of a plugin that were replaced, and that no saga needs, are kept all the same: to go back to,
    /// or to be named by their digest.
    pub spare_versions: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            limits: Limits::default(),
            slots: 128,
            slots_per_plugin: 64,
            busy_guests: processors,
            tick: Duration::from_millis(2),
            grants: BTreeMap::new(),
            cache_dir: None,
            component_store_dir: None,
            spare_versions: 1,
        }
    }
}

/// Why no guest can run on this machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither with a pool of instances nor without.
    #[error("no WebAssembly engine for these settings: {detail}")]
    Engine {
        /// What the engine said.
        detail: String,
    },
    /// No plugin could reach an `https` address.
    #[error("plugins cannot use TLS")]
    Tls(#[source] rustls::Error),
    /// No saga could rely on a plugin.
    #[error("cannot keep components in the data folder")]
    ComponentStore(#[source] std::io::Error),
    /// The thread that makes guests yield.
    #[error("cannot start the thread that limits guests")]
    Ticker(#[source] std::io::Error),
}

/// The engine and what its guests share. A cheap handle; the last one dropped ends the ticker thread.
#[derive(Clone)]
pub struct Runtime(Arc<Shared>);

struct Shared {
    engine: Engine,
    linker: Linker<Guest>,
    pooled: bool,
    limits: Limits,
    grants: BTreeMap<String, Arc<Grants>>,
    /// Only where something is granted that needs it.
    tls: Option<Tls>,
    permits: Arc<Semaphore>,
    slots_per_plugin: u32,
    /// The shares of plugins that are loaded, by name: all versions of one share one.
    shares: Mutex<HashMap<Box<str>, Weak<Semaphore>>>,
    background: Arc<Scheduler>,
    cache: Option<Cache>,
    component_store: Option<ComponentStore>,
    spare_versions: usize,
    compilers: Compilers,
    _ticker: Ticker,
}

impl Runtime {
    /// Reserves the pool and starts the ticker. Where the pool cannot be reserved (an address space limit, strict
    /// overcommit), guests run without it, several times slower to start, and a warning says so. A cache that cannot
    /// be used costs compile time only, so it is a warning too.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let (engine, pooled) = engine(settings)?;
        let linker = linker(&engine).map_err(|error| Error::engine(&error))?;
        let cache = settings.cache_dir.as_ref().and_then(|dir| {
            Cache::open(dir, &engine)
                .inspect_err(|error| warn!(dir = %dir.display(), "compiled components are not kept: {error}"))
                .ok()
        });
        Ok(Self(Arc::new(Shared {
            pooled,
            limits: settings.limits.clone(),
            tls: tls(settings)?,
            grants: settings.grants.clone(),
            permits: Arc::new(Semaphore::new(settings.slots.max(1) as usize)),
            slots_per_plugin: settings.slots_per_plugin.clamp(1, settings.slots.max(1)),
            shares: Mutex::default(),
            background: Arc::new(Scheduler::new(settings.busy_guests)),
            cache,
            component_store: settings
                .component_store_dir
                .as_deref()
                .map(ComponentStore::open)
                .transpose()
                .map_err(Error::ComponentStore)?,
            spare_versions: settings.spare_versions,
            compilers: Compilers::default(),
            _ticker: Ticker::start(engine.clone(), settings.tick.max(TICK_MIN)).map_err(Error::Ticker)?,
            linker,
            engine,
        })))
    }

    /// Whether instances come from a pool.
    pub fn is_pooled(&self) -> bool {
        self.0.pooled
    }

    /// What one attempt may use.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// What the settings grant to a plugin; nothing if they do not name it.
    pub fn grants(&self, plugin: &str) -> Arc<Grants> {
        self.0.grants.get(plugin).cloned().unwrap_or_default()
    }

    /// What the settings grant to all plugins.
    pub(super) fn all_grants(&self) -> impl Iterator<Item = &Grants> {
        self.0.grants.values().map(|grants| &**grants)
    }

    /// Connections for a plugin whose grants let it out.
    pub(super) fn clients(&self) -> Option<Clients> {
        self.0.tls.as_ref().map(Clients::new)
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(super) fn linker(&self) -> &Linker<Guest> {
        &self.0.linker
    }

    pub(super) fn cache(&self) -> Option<&Cache> {
        self.0.cache.as_ref()
    }

    pub(super) fn component_store(&self) -> Option<&ComponentStore> {
        self.0.component_store.as_ref()
    }

    pub(super) fn spare_versions(&self) -> usize {
        self.0.spare_versions
    }

    /// Compiles something without keeping guests and commits from the processors.
    pub(super) fn compiling<T: Send>(&self, compile: impl FnOnce() -> T + Send) -> T {
        self.0.compilers.run(compile)
    }

    /// Where guests go on that compute for long.
    pub(super) fn scheduler(&self) -> Arc<Scheduler> {
        self.0.background.clone()
    }

    /// The permits of which a plugin has its own.
    pub(super) fn permits(&self, plugin: &str) -> Permits {
        let mut shares = lock(&self.0.shares);
        let known = shares.get(plugin).and_then(Weak::upgrade);
        let share = known.unwrap_or_else(|| {
            shares.retain(|_, share| share.strong_count() > 0);
            let share = Arc::new(Semaphore::new(self.0.slots_per_plugin as usize));
            shares.insert(plugin.into(), Arc::downgrade(&share));
            share
        });
        Permits { share, all: self.0.permits.clone() }
    }

    /// A store for one attempt: limited, and yielding to others when its turn is over.
    pub(super) fn store(&self, parts: Parts) -> Store<Guest> {
        let mut store = Store::new(&self.0.engine, Guest::new(parts, &self.0.limits));
        store.set_hostcall_fuel(self.0.limits.hostcall_bytes);
        store.limiter(|guest| &mut guest.meter);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|context| {
            let is_over = context.data().cpu_meter.tick();
            Ok(if is_over { UpdateDeadline::Yield(1) } else { UpdateDeadline::Continue(1) })
        });
        store
    }
}

/// Where the attempts of one plugin get their places from.
pub(super) struct Permits {
    share: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// A place in the pool, for as long as this is kept.
pub(super) struct Permit {
    _all: OwnedSemaphorePermit,
    _share: OwnedSemaphorePermit,
}

impl Permits {
    /// Waits for a place in the pool, first behind the plugin's own attempts, then behind everybody's. `None` only once a
    /// semaphore is closed, which nothing does.
    pub async fn take(&self) -> Option<Permit> {
        let share = self.share.clone().acquire_owned().await.ok()?;
        let all = self.all.clone().acquire_owned().await.ok()?;
        Some(Permit { _all: all, _share: share })
    }
}

/// A shorter tick would cost more in the thread that ticks than it gives to others.
const TICK_MIN: Duration = Duration::from_millis(1);

impl Error {
    fn engine(error: &wasmtime::Error) -> Self {
        Self::Engine { detail: format!("{error:#}") }
    }
}

fn tls(settings: &Settings) -> Result<Option<Tls>, Error> {
    let is_needed = settings.grants.values().any(|grants| !grants.http_rules().is_empty());
    is_needed.then(Tls::new).transpose().map_err(Error::Tls)
}

/// Everything that guests may import.
fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_config::add_to_linker(&mut linker, Guest::config)?;
    http::add_to_linker(&mut linker)?;
    keyvalue::add_to_linker(&mut linker)?;
    stdio::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// With a pool if it can be reserved.
fn engine(settings: &Settings) -> Result<(Engine, bool), Error> {
    let mut config = config(&settings.limits);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(settings)));
    match Engine::new(&config) {
        Ok(engine) => Ok((engine, true)),
        Err(error) => {
            warn!("guests start several times slower, their pool cannot be reserved (fewer slots may help): {error:#}");
            config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
            Engine::new(&config).map(|engine| (engine, false)).map_err(|error| Error::engine(&error))
        }
    }
}

fn config(limits: &Limits) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        // No guest grows beyond it: less address space for each slot, and a memory never moves.
        .memory_reservation(limits.memory_bytes as u64)
        .max_wasm_stack(limits.stack_bytes)
        // The guest's share, and as much as wasmtime recommends for the host functions that it calls.
        .async_stack_size(limits.stack_bytes + (1 << 20));
    config
}

/// Most of the cost of a fresh instance is returning its memory to the kernel and faulting it in again, so pages that
/// were touched stay and only they are reset (`pagemap_scan`, Linux 6.7 and newer; else up to this many bytes each).
const KEEP_RESIDENT_BYTES: usize = 1 << 20;

fn pool(settings: &Settings) -> PoolingAllocationConfig {
    let limits = &settings.limits;
    // And one to see whether a new component starts.
    let slots = settings.slots.saturating_add(1);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_stacks(slots)
        .total_core_instances(slots.saturating_mul(limits.instances))
        .total_memories(slots.saturating_mul(limits.memories))
        .total_tables(slots.saturating_mul(limits.tables))
        .max_core_instances_per_component(limits.instances)
        .max_memories_per_component(limits.memories)
        .max_tables_per_component(limits.tables)
        .max_memories_per_module(limits.memories)
        .max_tables_per_module(limits.tables)
        .max_memory_size(limits.memory_bytes)
        .table_elements(limits.table_elements)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// What a guest writes to, works on and reaches out by, and what counts how long it computes.
pub(super) struct Parts {
    pub stdio: Stdio,
    pub key_value: KeyValue,
    pub outgoing: Outgoing,
    pub cpu_meter: CpuMeter,
}

/// What the host keeps for one attempt.
pub struct Guest {
    /// Dropped before the resources: what was not finished by then is not sent as if it were.
    outgoing: Outgoing,
    http: WasiHttpCtx,
    wasi: WasiCtx,
    table: ResourceTable,
    pub(super) meter: Meter,
    key_value: KeyValue,
    /// Made when the guest first asks for its settings.
    config: Option<WasiConfigVariables>,
    pub(super) stdio: Stdio,
    cpu_meter: CpuMeter,
}

/// Random bytes that a guest may ask for at a time; the host makes them without a pause.
const RANDOM_BYTES_MAX: u64 = 64 << 10;

impl Guest {
    /// No files, no environment, no arguments, no input, no sockets: the context starts empty, and what would otherwise
    /// be refused only when used is switched off.
    fn new(parts: Parts, limits: &Limits) -> Self {
        let Parts { stdio, key_value, outgoing, cpu_meter } = parts;
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        let wasi = WasiCtx::builder()
            .stdout(stdio.stream(Kind::Output))
            .stderr(stdio.stream(Kind::Error))
            .max_random_size(RANDOM_BYTES_MAX)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        Self {
            outgoing,
            http: http::context(),
            wasi,
            table,
            meter: Meter::new(limits),
            key_value,
            config: None,
            stdio,
            cpu_meter,
        }
    }

    /// The plugins' data, as this guest may use it.
    pub(super) fn key_value(&mut self) -> keyvalue::Host<'_> {
        keyvalue::Host { key_value: &self.key_value, table: &mut self.table }
    }

    fn config(&mut self) -> WasiConfig<'_> {
        let key_value = &self.key_value;
        WasiConfig::from(&*self.config.get_or_insert_with(|| key_value.grants().config().collect()))
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: &mut self.table, ctx: &mut self.http }
    }
}

/// Advances the engine's epoch at every tick, which makes running guests yield.
struct Ticker {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: Engine, tick: Duration) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new().name("guest-ticker".into()).spawn(move || {
            while stopped.recv_timeout(tick) == Err(mpsc::RecvTimeoutError::Timeout) {
                engine.increment_epoch();
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked: it only waits and counts.
            let _ = thread.join();
        }
    }
}
