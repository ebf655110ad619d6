//! The host program: reads the settings, puts the parts together, serves until it is told to stop.

// A request must never bring the host down. Tests may (clippy.toml).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{error::Error, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use tokio::{net::TcpListener, signal::unix};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use wasaga::{
    api,
    branch::{grpc, http},
    causes,
    commands::{self, Arguments, Verdict},
    config::{Config, Log},
    data_folder,
    directory::Branches,
    engine::{self, Clock, Engine},
    keys,
    plugin::{Registry, Runtime, collector},
    store::{LocalStore, OpenError, Stats, Store, disk::Os},
};

/// How long a stopping host goes on answering after the last attempt has ended or was given up.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { flags, command } = Arguments::parse();
    if let Some(command) = command {
        return match commands::run(command).await {
            Ok(Verdict::Good) => ExitCode::SUCCESS,
            Ok(Verdict::Bad) => ExitCode::FAILURE,
            Err(error) => fail(&*error),
        };
    }
    let config = match Config::load(flags) {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    // Ends last, so that what is logged while stopping is written too.
    let _writer = match log(&config.log) {
        Ok(writer) => writer,
        Err(error) => return fail(&*error),
    };
    match run(&config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&*error),
    }
}

/// Exit status for data that a newer version has written: `EX_CONFIG` of sysexits.h, so that a supervisor can tell it
/// from a crash, and does not try again.
const NEWER_DATA: u8 = 78;

/// Says what is wrong, with all its causes, where a person sees it even if logging does not work.
fn fail(error: &(dyn Error + 'static)) -> ExitCode {
    eprintln!("wasaga: {}", causes::in_one_line(error));
    if is_newer_data(error) { NEWER_DATA.into() } else { ExitCode::FAILURE }
}

/// Whether the host has refused data that a newer version has written.
fn is_newer_data(error: &(dyn Error + 'static)) -> bool {
    causes::chain(error).any(|error| {
        error.downcast_ref().is_some_and(data_folder::Error::is_newer)
            || error.downcast_ref().is_some_and(OpenError::is_newer)
            || error.downcast_ref().is_some_and(engine::Error::is_newer)
    })
}

fn log(settings: &Log) -> Result<WorkerGuard, Box<dyn Error>> {
    let filter = EnvFilter::try_new(&settings.filter)
        .map_err(|error| format!("the log filter {:?} is wrong: {error}", settings.filter))?;
    // A slow terminal or pipe must not hold up sagas: beyond this many waiting lines, new ones are lost.
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(65_536).finish(std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    if settings.json {
        log.json().init();
    } else {
        log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
    }
    Ok(guard)
}

async fn run(config: &Config) -> Result<(), Box<dyn Error>> {
    // Before sled sees it, which panics if it stands before 1970.
    let clock = Clock::start()?;
    data_folder::open(&config.data, &Os)?;
    // Before anything else, as it keeps a second host from the same data.
    let (store, recovery) = LocalStore::open(config.store_settings())?;
    info!(?recovery, "store opened");
    // Before plugins are loaded, which may write to the data folder; the engine checks the same again.
    if let Some(unknown) = keys::find_unknown(&store)? {
        return Err(engine::Error::from(unknown).into());
    }
    let store = Arc::new(store);
    let runtime = Runtime::new(&config.plugin_settings()?)?;
    let plugins = load_plugins(&runtime, config);
    let branches =
        Arc::new(Branches::new(plugins.clone(), http::Client::new(&config.http)?, grpc::Client::new(&config.http)));
    // Before any attempt: a host that finds its port taken has called no branch.
    let listener = listen(&config.listen).await?;
    let address = listener.local_addr()?;
    let grpc_listener = match config.grpc_address(address) {
        Some(address) => Some(listen(&address).await?),
        None => None,
    };
    let engine = Engine::start(store.clone() as Arc<dyn Store>, branches, config.saga.clone(), clock)?;
    if let Some(listener) = &grpc_listener {
        info!("gRPC on {}", listener.local_addr()?);
    }
    info!("ready on http://{address}");

    let uploads = match config.plugins.upload {
        api::Uploads::Loopback if !address.ip().is_loopback() => api::Uploads::Off,
        uploads => uploads,
    };
    let every = Some(config.plugins.watch).filter(|every| !every.is_zero());
    let collector = tokio::spawn(collector::run(plugins.clone(), store.clone(), every, engine.unread() == 0));
    let context = context(&engine, plugins, uploads, &store, config);
    let stopping = CancellationToken::new();
    let connections = &config.api.connections;
    let serving = async {
        let http = api::serve(listener, api::router(context.clone()), connections.clone(), stopping.cancelled());
        let grpc = async {
            if let Some(listener) = grpc_listener {
                let router = api::grpc::router(context.clone());
                api::serve_http2(listener, router, connections.clone(), stopping.cancelled()).await;
            }
        };
        tokio::join!(http, grpc)
    };
    let stop = async {
        let outcome = stop_signal(&engine).await;
        stopping.cancel();
        // Also answers the clients that wait for results, which ends serving.
        engine.stop(config.stop_grace).await;
        outcome
    };
    let cut_off = async {
        stopping.cancelled().await;
        tokio::time::sleep(config.stop_grace + LAST_ANSWERS).await;
        warn!("stopping: connections that neither send nor read are cut off");
    };
    let bounded = async {
        tokio::select! {
            _ = serving => {}
            () = cut_off => {}
        }
    };
    let ((), outcome) = tokio::join!(bounded, stop);
    collector.abort();
    outcome?;
    store.close()?;
    info!("stopped");
    Ok(())
}

async fn listen(address: &str) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| format!("cannot listen on {address}: {error}; is a host running already?"))
}

fn load_plugins(runtime: &Runtime, config: &Config) -> Arc<Registry> {
    let plugins = Arc::new(Registry::load(runtime, &config.plugins.dir, config.plugins.routes.clone()));
    for name in config.plugins.grants.keys().filter(|name| plugins.plugin(name).is_none()) {
        warn!("[plugins.grants.{name}] grants something to a plugin that is not there: is the name right?");
    }
    plugins
}

fn context(
    engine: &Engine,
    plugins: Arc<Registry>,
    uploads: api::Uploads,
    store: &Arc<LocalStore>,
    config: &Config,
) -> api::Context {
    let mut registry = prometheus_client::registry::Registry::default();
    let journal = store.clone();
    api::metrics::register(&mut registry, engine.clone(), move || {
        let Stats { commits, syncs, journal_bytes, .. } = journal.stats();
        api::metrics::Journal { commits, syncs, bytes: journal_bytes }
    });
    api::Context::new(engine.clone(), plugins, uploads, registry, config.api.requests.clone())
}

/// Resolves when the host should stop; an error when it must.
async fn stop_signal(engine: &Engine) -> Result<(), Box<dyn Error>> {
    let mut interrupt = unix::signal(unix::SignalKind::interrupt())?;
    let mut terminate = unix::signal(unix::SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => info!("stopping: interrupted"),
        _ = terminate.recv() => info!("stopping: told to terminate"),
        () = engine.store_failed() => {
            error!("stopping: the store has failed");
            return Err("the store has failed: start the host again, it recovers from its journal".into());
        }
    }
    Ok(())
}
