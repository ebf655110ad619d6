//! The wasmtime engine of the host, and everything that its guests share.

use std::{
    collections::BTreeMap,
    env,
    num::NonZero,
    path::PathBuf,
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;
use tracing::{debug, warn};
use wasmtime::{
    Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, UpdateDeadline,
    component::{Component, Linker},
};

use super::{
    compile::{self, Compiler, Cost, Fault},
    compilers::Compilers,
    engine,
    guest::{self, Guest, Parts},
    scheduler::Scheduler,
};
use crate::{
    egress::tls::{self, Tls},
    memory::{Budget, Holder},
    plugin::{
        grants::entry::Grants,
        imports::{
            guest_log::{self, GuestLog},
            http::client::Clients,
        },
        limits::{CompileLimits, Limits},
        storage::{
            cache::{self, Cache},
            component_store::ComponentStore,
            refusals::Refusals,
        },
    },
    saga::Digest,
    store::sync::lock,
};

/// An invalid component whose compilation took longer is remembered, so that it costs that time once.
const CHEAP: Duration = Duration::from_secs(2);

/// How guests are run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Limits of one attempt.
    pub limits: Limits,
    /// Guests that may exist at once, running or waiting for the host: the engine starts no more. Reserves `memory_bytes` of
    /// address space (not memory) for each of their memories.
    pub slots: u32,
    /// Threads of each lower level of the scheduler: as many guests that compute for long run at once; see
    /// [`scheduler`](super::scheduler).
    pub busy_guests: usize,
    /// How long a guest computes before it yields its thread to others. A shorter tick is fairer under load, and wakes an
    /// idle host more often.
    pub tick: Duration,
    /// The grants of each plugin, by name.
    pub grants: BTreeMap<String, Arc<Grants>>,
    /// Where compiled components are cached; `None`: compile at every start.
    pub cache_dir: Option<PathBuf>,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// Limits of compiling one component, if it happens in a process of its own.
    pub compile: CompileLimits,
    /// Where components are stored for the sagas that are pinned to them; `None`: in the memory of this process only.
    pub component_store_dir: Option<PathBuf>,
    /// How many replaced versions of a plugin are kept although no saga needs them: an address can name them by digest.
    pub spare_versions: usize,
    /// How much each plugin may log.
    pub guest_log: guest_log::Settings,
    /// The budget that has a share for the memories of guests.
    pub memory: Budget,
    /// Limits of the connections of plugins' requests.
    pub egress: Egress,
    /// Certificates of authorities that requests trust besides the system's; see [`Tls::new`].
    pub ca_file: PathBuf,
}

/// Limits of the connections of plugins' requests, all plugins together. Each costs a file descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Requests that have a connection at once; further ones wait as long as for a connection, then they fail.
    pub requests_max: usize,
    /// Unused connections of one plugin that are kept for each host and port.
    pub idle_per_host_max: usize,
}

impl Default for Egress {
    fn default() -> Self {
        Self { requests_max: 1024, idle_per_host_max: 32 }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            limits: Limits::default(),
            slots: 128,
            busy_guests: processors,
            tick: Duration::from_millis(2),
            grants: BTreeMap::new(),
            cache_dir: None,
            compiler: Compiler::InProcess,
            compile: CompileLimits::default(),
            component_store_dir: None,
            spare_versions: 1,
            egress: Egress::default(),
            ca_file: PathBuf::new(),
            guest_log: guest_log::Settings::default(),
            memory: Budget::default(),
        }
    }
}

/// Why no guest can run on this machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no WebAssembly engine for these settings: {detail}")]
    Engine { detail: String },
    #[error("plugins cannot use TLS")]
    Tls(#[source] tls::Error),
    #[error("cannot keep components in the data folder")]
    ComponentStore(#[source] std::io::Error),
    #[error("cannot start the thread that limits guests")]
    Ticker(#[source] std::io::Error),
}

/// The engine and everything that its guests share. A cheap handle; dropping the last one ends the ticker thread.
#[derive(Clone)]
pub struct Runtime(Arc<Shared>);

struct Shared {
    engine: Engine,
    linker: Linker<Guest>,
    pooled: bool,
    limits: Arc<Limits>,
    grants: BTreeMap<String, Arc<Grants>>,
    guest_log: guest_log::Settings,
    /// The logs of plugins that were loaded, by name: all versions of a plugin share one.
    guest_logs: Mutex<BTreeMap<String, Arc<GuestLog>>>,
    /// Set if any plugin is granted HTTP requests.
    tls: Option<Tls>,
    egress: Egress,
    /// One for each request of a plugin that has a connection.
    requests: Arc<Semaphore>,
    scheduler: Arc<Scheduler>,
    cache: Option<Cache>,
    refusals: Refusals,
    compiler: Compiler,
    compile: CompileLimits,
    /// One component is compiled at a time, so that they do not need the memory of several.
    compiling: Mutex<()>,
    component_store: Option<ComponentStore>,
    spare_versions: usize,
    memory: Budget,
    compilers: Compilers,
    _ticker: Ticker,
}

impl Runtime {
    /// Reserves the pool of instances and starts the ticker. If the pool cannot be reserved (an address space limit, strict
    /// overcommit), guests run without it and start several times slower; a warning says so. A cache that cannot be used
    /// costs compile time only, so that is a warning too.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let (engine, pooled) = engine(settings)?;
        let linker = guest::linker(&engine).map_err(|error| Error::engine(&error))?;
        let cache = settings.cache_dir.as_ref().and_then(|dir| {
            Cache::open(dir, &engine)
                .inspect_err(|error| warn!(dir = %dir.display(), "compiled components are not kept: {error}"))
                .ok()
        });
        Ok(Self(Arc::new(Shared {
            pooled,
            limits: Arc::new(settings.limits.clone()),
            tls: tls(settings)?,
            egress: settings.egress,
            requests: Arc::new(Semaphore::new(settings.egress.requests_max.clamp(1, Semaphore::MAX_PERMITS))),
            grants: settings.grants.clone(),
            guest_log: settings.guest_log.clone(),
            guest_logs: Mutex::default(),
            scheduler: Arc::new(Scheduler::new(settings.busy_guests)),
            refusals: Refusals::new(cache.as_ref().map(Cache::dir), &engine),
            cache,
            compiler: settings.compiler.clone(),
            compile: settings.compile,
            compiling: Mutex::default(),
            component_store: settings
                .component_store_dir
                .as_deref()
                .map(ComponentStore::open)
                .transpose()
                .map_err(Error::ComponentStore)?,
            spare_versions: settings.spare_versions,
            memory: settings.memory.clone(),
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

    /// Limits of one attempt.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.0.limits
    }

    /// The grants of a plugin; none if the settings do not name it.
    pub fn grants(&self, plugin: &str) -> Arc<Grants> {
        self.0.grants.get(plugin).cloned().unwrap_or_default()
    }

    /// The log of a plugin.
    pub(crate) fn guest_log(&self, plugin: &str) -> Arc<GuestLog> {
        let new = || Arc::new(GuestLog::new(self.0.guest_log.clone()));
        lock(&self.0.guest_logs).entry(plugin.to_owned()).or_insert_with(new).clone()
    }

    /// The grants of all plugins.
    pub(crate) fn all_grants(&self) -> impl Iterator<Item = &Grants> {
        self.0.grants.values().map(|grants| &**grants)
    }

    /// New connection pools for a plugin that is granted HTTP requests.
    pub(crate) fn clients(&self) -> Option<Clients> {
        let Egress { idle_per_host_max, .. } = self.0.egress;
        self.0.tls.as_ref().map(|tls| Clients::new(tls, idle_per_host_max, self.0.requests.clone()))
    }

    /// The wasmtime engine.
    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Everything that guests may import.
    pub(crate) fn linker(&self) -> &Linker<Guest> {
        &self.0.linker
    }

    /// The cache of compiled components, if there is one.
    pub(crate) fn cache(&self) -> Option<&Cache> {
        self.0.cache.as_ref()
    }

    /// The stored components, if they are kept on disk.
    pub(crate) fn component_store(&self) -> Option<&ComponentStore> {
        self.0.component_store.as_ref()
    }

    /// See [`Settings::spare_versions`].
    pub(crate) fn spare_versions(&self) -> usize {
        self.0.spare_versions
    }

    /// Limits of compiling one component.
    pub fn compile_limits(&self) -> &CompileLimits {
        &self.0.compile
    }

    /// Compiles the component with this digest, behind guests and commits. Returns what it took too, unless it happened in
    /// this process. Blocks for as long as the limits allow.
    pub(crate) fn compile(&self, digest: Digest, bytes: &[u8]) -> Result<(Component, Option<Cost>), Fault> {
        let Shared { engine, compile: limits, refusals, .. } = &*self.0;
        let Compiler::Child { program } = &self.0.compiler else {
            let compiled = self.0.compilers.run(|| Component::from_binary(engine, bytes));
            return Ok((compiled.map_err(|error| Fault::Invalid(format!("{error:#}")))?, None));
        };
        let refused = || match refusals.find(digest, limits) {
            Some(reason) => Err(Fault::Refused(compile::Refusal { reason, is_lasting: true })),
            None => Ok(()),
        };
        // Not behind what is being compiled; and once more, as that may have been the same component.
        refused()?;
        let _one_at_a_time = lock(&self.0.compiling);
        refused()?;
        let started = Instant::now();
        let scratch = env::temp_dir();
        let dir = self.cache().map_or(&*scratch, Cache::dir);
        let compiled = compile::in_child(program, &self.0.limits, limits, dir, bytes);
        let (entry, cost) = compiled.inspect_err(|fault| match fault {
            Fault::Refused(refusal) => refusals.remember(digest, *limits, &refusal.reason, refusal.is_lasting),
            Fault::Invalid(detail) if started.elapsed() > CHEAP => refusals.remember(digest, *limits, detail, true),
            _ => {}
        })?;
        debug!(%digest, cpu = ?cost.cpu, memory_bytes = cost.memory_bytes, "component compiled");
        let name = cache::entry_name(digest, cache::compatibility(engine));
        // SAFETY: the host's compiler has written it to a file that no other user could open.
        match unsafe { cache::load(engine, &name, &entry) } {
            Some(loaded) => Ok((loaded.map_err(|error| Fault::Invalid(format!("{error:#}")))?, Some(cost))),
            None => Err(Fault::System(std::io::Error::other(format!(
                "what the compiler {} wrote is not whole, or of another version than this host: install one version",
                program.display()
            )))),
        }
    }

    /// What the guests of a plugin have of the memory for guests.
    pub(crate) fn memory_of(&self, plugin: &str) -> Arc<Holder> {
        self.0.memory.guests_of(plugin)
    }

    /// The scheduler of guests that compute for long.
    pub(crate) fn scheduler(&self) -> Arc<Scheduler> {
        self.0.scheduler.clone()
    }

    /// A store for one run of a guest. It has the limits, and yields to others at the end of its turn.
    pub(crate) fn store(&self, parts: Parts) -> Store<Guest> {
        let mut store = Store::new(&self.0.engine, Guest::new(parts, &self.0.limits));
        store.set_hostcall_fuel(self.0.limits.hostcall_bytes);
        store.limiter(|guest| guest.meter_mut());
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|context| {
            let must_yield = context.data().cpu_meter().tick();
            Ok(if must_yield { UpdateDeadline::Yield(1) } else { UpdateDeadline::Continue(1) })
        });
        store
    }
}

/// A shorter tick would cost more in the ticker thread than it gains in fairness.
const TICK_MIN: Duration = Duration::from_millis(1);

impl Error {
    fn engine(error: &wasmtime::Error) -> Self {
        Self::Engine { detail: format!("{error:#}") }
    }
}

fn tls(settings: &Settings) -> Result<Option<Tls>, Error> {
    let is_needed = settings.grants.values().any(|grants| !grants.http_rules().is_empty());
    is_needed.then(|| Tls::new(&settings.ca_file)).transpose().map_err(Error::Tls)
}

/// The engine, and whether it has a pool of instances.
fn engine(settings: &Settings) -> Result<(Engine, bool), Error> {
    let mut config = engine::config(&settings.limits);
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

/// Bytes of an instance's memory that stay resident between instances. Most of the cost of a fresh instance is returning
/// memory to the kernel and faulting it in again. With `pagemap_scan` (Linux 6.7 and newer) only the touched pages are
/// reset; without it, up to this many bytes.
const KEEP_RESIDENT_BYTES: usize = 1 << 20;

fn pool(settings: &Settings) -> PoolingAllocationConfig {
    let limits = &settings.limits;
    // One more than there are places, for the start check of a new component.
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

/// Thread that advances the engine's epoch at every tick, which makes running guests yield.
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
            // The thread only waits and counts, so it has not panicked.
            let _ = thread.join();
        }
    }
}
