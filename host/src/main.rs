//! The host program: reads the settings, puts the parts together, serves until it is told to stop.

// A request must never bring the host down. Tests may (clippy.toml).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    error::Error,
    mem,
    net::SocketAddr,
    process::{self, ExitCode},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use clap::Parser;
use tokio::{
    net::TcpListener,
    runtime,
    signal::unix,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use wasaga::{
    api::{
        self, Connections, Routes,
        health::{Condition, Health, Progress},
    },
    branch::{grpc, http},
    causes,
    commands::{self, Arguments, Verdict},
    config::Config,
    data_folder,
    descriptors::{self, Shares},
    directory::Branches,
    engine::{self, Clock, Engine},
    keys, log,
    memory::Budget,
    plugin::{self, Registry, Runtime, collector},
    store::{LocalStore, OpenError, Opening, Stats, Store, disk::Os},
};

/// How long a stopping host goes on answering after the last attempt has ended or was given up.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// How long a host whose store has failed may take to end, beyond `stop_grace` and [`LAST_ANSWERS`]: closing a disk that
/// does not answer may take for ever, and a host that does not end is not started again.
const CLOSING: Duration = Duration::from_secs(5);

/// How long the end of the process waits for the log and the last message to be written: a reader of standard error that
/// has stopped must not keep the process.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Pause between two attempts to listen on an address in use.
const LISTEN_PAUSE: Duration = Duration::from_millis(100);

/// Why the host ends.
type Failure = Box<dyn Error + Send + Sync>;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often memory that has been free for a second is returned to the system.
const RETURN_MEMORY_EVERY: Duration = Duration::from_secs(1);

/// Returns unused memory to the system from time to time, without end. The allocator does so while it allocates, so an idle
/// host would keep what it had at its busiest. Done by a thread of its own, as that has nothing to look through but what all
/// threads have in common.
fn return_memory() -> std::io::Result<()> {
    let every = || loop {
        std::thread::sleep(RETURN_MEMORY_EVERY);
        // SAFETY: it takes the allocator's own locks, and may be called by any thread at any time.
        unsafe { libmimalloc_sys::mi_collect(false) };
    };
    std::thread::Builder::new().name("memory-return".into()).spawn(every).map(drop)
}

fn main() -> ExitCode {
    let Arguments { flags, command } = Arguments::parse();
    let runtime = match runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => end(None, Some(&error)),
    };
    if let Some(command) = command {
        return match runtime.block_on(commands::run(command)) {
            Ok(Verdict::Good) => ExitCode::SUCCESS,
            Ok(Verdict::Bad) => ExitCode::FAILURE,
            Err(error) => end(None, Some(&*error)),
        };
    }
    data_folder::keep_private();
    let config = match Config::load(flags) {
        Ok(config) => config,
        Err(error) => end(None, Some(&error)),
    };
    let log = match log::start(&config.log) {
        Ok(log) => log,
        Err(error) => end(None, Some(&error)),
    };
    let outcome = runtime.block_on(run(Arc::new(config)));
    // What still blocks a thread, such as the lookup of a name, must not keep the process.
    runtime.shutdown_background();
    end(Some(log), outcome.as_ref().err().map(|error| &**error as &(dyn Error + 'static)))
}

/// Exit status for data that a newer version has written: `EX_CONFIG` of sysexits.h, so that a supervisor can tell it
/// from a crash, and does not try again.
const NEWER_DATA: u8 = 78;

/// Ends the process. What was logged is written, and then what is wrong, with all its causes, where a person sees it even
/// if logging does not work; unless nobody reads it.
fn end(log: Option<log::Guard>, failure: Option<&(dyn Error + 'static)>) -> ! {
    let text = failure.map(|error| format!("wasaga: {}", causes::in_one_line(error)));
    let code = match failure {
        None => 0,
        Some(error) if is_newer_data(error) => NEWER_DATA,
        Some(_) => 1,
    };
    let (done, written) = mpsc::channel();
    let write = move || {
        drop(log);
        if let Some(text) = text {
            eprintln!("{text}");
        }
        // The process may have stopped waiting.
        let _ = done.send(());
    };
    // If there is no thread, the exit status says what there is to say.
    if thread::Builder::new().name("last-words".to_owned()).spawn(write).is_ok() {
        let _ = written.recv_timeout(LAST_WORDS);
    }
    process::exit(code.into())
}

/// Whether the host has refused data that a newer version has written.
fn is_newer_data(error: &(dyn Error + 'static)) -> bool {
    causes::chain(error).any(|error| {
        error.downcast_ref().is_some_and(data_folder::Error::is_newer)
            || error.downcast_ref().is_some_and(OpenError::is_newer)
            || error.downcast_ref().is_some_and(engine::Error::is_newer)
    })
}

async fn run(config: Arc<Config>) -> Result<(), Failure> {
    return_memory()?;
    let mut signals = Signals::new()?;
    let shares = divide_descriptors(&config);
    let opening = Arc::new(Opening::default());
    let health = Health::starting({
        let opening = opening.clone();
        move || opening.progress().map(|(part, done, total)| Progress { part, done, total })
    });
    let settings = api::serve::Settings { connections_max: shares.connections, ..config.api.connections.clone() };
    let connections = Connections::new(settings);
    let stopping = CancellationToken::new();
    let starting = async {
        // Before the data are opened: a host that finds its port taken has changed nothing, and those that wait for this
        // one are told how far it is.
        let front = Front::open(&config, &connections, &health, &stopping).await?;
        let open = {
            let (config, health, on_loopback) = (config.clone(), health.clone(), front.listens_on_loopback());
            move || Opened::open(&config, shares, opening, &health, on_loopback)
        };
        let opened = spawn_blocking(open).await??;
        Ok::<_, Failure>((front, opened))
    };
    let (front, Opened { store, plugins, engine }) = tokio::select! {
        started = starting => started?,
        why = signals.next() => {
            info!("stopping: {why} while it starts");
            return Ok(());
        }
    };
    let uploads = match config.plugins.upload {
        api::Uploads::Loopback if !front.address.ip().is_loopback() => api::Uploads::Off,
        uploads => uploads,
    };
    let every = Some(config.plugins.watch).filter(|every| !every.is_zero());
    let collector = tokio::spawn(collector::run(plugins.clone(), store.clone(), every, engine.unread() == 0));
    let context = context(&engine, plugins, uploads, &store, &connections, &config);
    front.grpc_routes.open(api::grpc::router(context.clone()));
    front.routes.open(api::router(context).merge(health.routes()));
    // Only now: a client that is told so sends its request at once.
    health.set(Condition::Ready);
    if let Some(address) = front.grpc_address {
        info!("gRPC on {address}");
    }
    info!("ready on http://{}", front.address);

    let outcome = tokio::select! {
        why = signals.next() => {
            info!("stopping: {why}");
            health.set(Condition::Stopping);
            Ok(())
        }
        () = engine.store_failed() => {
            error!("stopping: the store has failed");
            health.set(Condition::Failed);
            // Never dropped: sled panics in its drop if the disk fails once more.
            mem::forget(store.clone());
            exit_after(config.stop_grace.saturating_add(LAST_ANSWERS).saturating_add(CLOSING));
            Err("the store has failed: start the host again, it recovers from its journal")
        }
    };
    let stop = async {
        // In this order: a client that was told to close its connection finds nobody listening when it opens another.
        stopping.cancel();
        front.accepting.await?;
        connections.close();
        let answering = async {
            let time_max = config.stop_grace.saturating_add(LAST_ANSWERS);
            if tokio::time::timeout(time_max, connections.ended()).await.is_err() {
                warn!("stopping: connections that neither send nor read are cut off");
            }
        };
        // Also answers the clients that wait for results, which ends their connections.
        tokio::join!(answering, engine.stop(config.stop_grace));
        collector.abort();
        outcome?;
        spawn_blocking(move || store.close()).await??;
        info!("stopped");
        Ok(())
    };
    tokio::select! {
        stopped = stop => stopped,
        why = signals.next() => {
            exit_after(LAST_WORDS);
            Err(format!("stopped at once, {why} again: attempts that ran are repeated at the next start").into())
        }
    }
}

/// Raises the limit of open files and divides it. Says so if the settings ask for more.
fn divide_descriptors(config: &Config) -> Shares {
    let (limit, asked) = (descriptors::raise(), config.descriptors());
    let shares = Shares::divide(limit, &asked);
    if shares != asked {
        let needed = asked.needed();
        warn!(
            "the limit of open files is {limit}, which is enough for {shares}; the settings ask for {asked}: raise the limit \
             to {needed} (LimitNOFILE of systemd, ulimit -n), or lower connections_max, calls_max, slots and \
             pool_idle_per_host_max"
        );
    }
    shares
}

/// Ends the process after this time, if it has not ended by then.
fn exit_after(time: Duration) {
    let exit = move || {
        thread::sleep(time);
        process::exit(1);
    };
    if let Err(error) = thread::Builder::new().name("exit".to_owned()).spawn(exit) {
        warn!(%error, "the time to end has no limit: no thread can be started");
    }
}

/// The listeners, and what they answer.
struct Front {
    address: SocketAddr,
    grpc_address: Option<SocketAddr>,
    routes: Routes,
    grpc_routes: Routes,
    /// Ends when the listeners are closed.
    accepting: JoinHandle<()>,
}

impl Front {
    /// Listens, and answers that the host is starting.
    async fn open(
        config: &Config,
        connections: &Connections,
        health: &Health,
        stopping: &CancellationToken,
    ) -> Result<Self, Failure> {
        let listener = listen(&config.listen, config.listen_patience).await?;
        let address = listener.local_addr()?;
        // At once: `/healthz` is answered while the host waits for the other port.
        let routes = Routes::starting(health.starting_routes()).under(config.web_rules());
        let http = api::serve(listener, routes.clone(), connections.clone(), stopping.clone().cancelled_owned());
        let http = tokio::spawn(http);
        let grpc_listener = match config.grpc_address(address) {
            Some(address) => Some(listen(&address, config.listen_patience).await?),
            None => None,
        };
        let grpc_address = grpc_listener.as_ref().map(TcpListener::local_addr).transpose()?;
        info!("starting on http://{address}");
        let grpc_routes = Routes::starting(Health::starting_grpc_routes());
        let grpc = {
            let (routes, connections, stopping) = (grpc_routes.clone(), connections.clone(), stopping.clone());
            async move {
                if let Some(listener) = grpc_listener {
                    api::serve_http2(listener, routes, connections, stopping.cancelled_owned()).await;
                }
            }
        };
        let accepting = tokio::spawn(async move {
            // An error says that it panicked, which is in the log.
            let _ = tokio::join!(http, grpc);
        });
        Ok(Self { address, grpc_address, routes, grpc_routes, accepting })
    }

    /// Whether clients on other machines cannot reach the host.
    fn listens_on_loopback(&self) -> bool {
        let is_loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        is_loopback(self.address) && self.grpc_address.is_none_or(is_loopback)
    }
}

/// Listens on an address. If it is in use, tries again for `patience`.
async fn listen(address: &str, patience: Duration) -> Result<TcpListener, String> {
    let began = Instant::now();
    let mut is_told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && began.elapsed() < patience => {
                if !is_told {
                    warn!(
                        "{address} is in use: trying again for {patience:?} (listen_patience). If no other host runs, it is \
                         the port of an outgoing connection: reserve it with net.ipv4.ip_local_reserved_ports"
                    );
                    is_told = true;
                }
                sleep(LISTEN_PAUSE).await;
            }
            Err(error) => return Err(format!("cannot listen on {address}: {error}; is a host running already?")),
        }
    }
}

/// The parts of a host whose data are open.
struct Opened {
    store: Arc<LocalStore>,
    plugins: Arc<Registry>,
    engine: Engine,
}

impl Opened {
    /// Opens the data, loads the plugins and starts to drive sagas. Blocks.
    fn open(
        config: &Config,
        shares: Shares,
        opening: Arc<Opening>,
        health: &Health,
        on_loopback: bool,
    ) -> Result<Self, Failure> {
        health.set(Condition::Starting("opening the data"));
        // Before sled sees it, which panics if it stands before 1970.
        let clock = Clock::start()?;
        data_folder::open(&config.data, &Os)?;
        // Before anything else, as it keeps a second host from the same data.
        let (store, recovery) = LocalStore::open(wasaga::store::Settings { opening, ..config.store_settings() })?;
        info!(
            state = %recovery.state,
            replayed = recovery.replayed,
            last_seq = recovery.last_seq,
            entries = recovery.entries,
            torn_bytes = recovery.torn.map(|torn| torn.bytes),
            salvaged = recovery.salvaged.map(tracing::field::display),
            took_ms = u64::try_from(recovery.took.as_millis()).unwrap_or(u64::MAX),
            "store opened"
        );
        // Before plugins are loaded, which may write to the data folder; the engine checks the same again.
        if let Some(unknown) = keys::find_unknown(&store)? {
            return Err(engine::Error::from(unknown).into());
        }
        let store = Arc::new(store);
        health.set(Condition::Starting("loading plugins"));
        let Shares { calls, requests, idle_per_host, .. } = shares;
        let defaults = plugin::Egress::default();
        let egress =
            plugin::Egress { requests_max: requests, idle_per_host_max: defaults.idle_per_host_max.min(idle_per_host) };
        let memory = Budget::new(config.memory);
        info!(bytes = memory.bytes(), "memory for requests, live sagas and guests");
        let compiler = plugin::Compiler::own_program()?;
        let settings = plugin::Settings { egress, compiler, memory: memory.clone(), ..config.plugin_settings()? };
        let runtime = Runtime::new(&settings)?;
        let plugins = load_plugins(&runtime, config);
        let http = http::Settings { pool_idle_per_host_max: idle_per_host, ..config.http_settings(on_loopback) };
        let branches = Arc::new(Branches::new(plugins.clone(), http::Client::new(&http)?, grpc::Client::new(&http)));
        health.set(Condition::Starting("reading unfinished sagas"));
        let settings = config.engine_settings(calls);
        let engine = Engine::start(store.clone() as Arc<dyn Store>, branches, settings, clock, memory)?;
        Ok(Self { store, plugins, engine })
    }
}

fn load_plugins(runtime: &Runtime, config: &Config) -> Arc<Registry> {
    let plugins = Arc::new(Registry::load(runtime, &config.plugins.dir, config.plugins.routes.clone()));
    for name in config.plugins.grants.keys().filter(|name| plugins.plugin(name).is_none()) {
        let header = plugin::grants::header(name);
        warn!("{header} grants something to a plugin that is not there: is the name right?");
    }
    plugins
}

fn context(
    engine: &Engine,
    plugins: Arc<Registry>,
    uploads: api::Uploads,
    store: &Arc<LocalStore>,
    connections: &Connections,
    config: &Config,
) -> api::Context {
    let mut registry = prometheus_client::registry::Registry::default();
    let journal = store.clone();
    api::metrics::register(&mut registry, engine.clone(), move || {
        let Stats { commits, syncs, journal_bytes, .. } = journal.stats();
        api::metrics::Journal { commits, syncs, bytes: journal_bytes }
    });
    api::metrics::register_connections(&mut registry, connections.clone());
    api::Context::new(engine.clone(), plugins, uploads, registry, config.api.requests.clone())
}

/// The signals that stop the host.
struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let listen = |kind| unix::signal(kind);
        let (interrupt, terminate) = (unix::SignalKind::interrupt(), unix::SignalKind::terminate());
        Ok(Self { interrupt: listen(interrupt)?, terminate: listen(terminate)? })
    }

    /// The next one, in words.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "told to terminate",
        }
    }
}
