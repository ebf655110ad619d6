//! The host's metrics, for Prometheus. A scrape reads counters of the engine and the store; nothing is counted here.

use std::fmt;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{context::Context, serve::Connections};
use crate::{
    branch::Destination,
    engine::{Engine, Load},
    memory::Budget,
};

/// The media type of the encoder's format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counts of the journal since the host started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    pub commits: u64,
    /// Syncs to disk. Fewer than commits, since commits that wait at the same time share one.
    pub syncs: u64,
    pub bytes: u64,
}

/// Adds the counters of the engine and the journal to a registry.
pub fn register(registry: &mut Registry, engine: Engine, journal: impl Fn() -> Journal + Send + Sync + 'static) {
    registry.register_collector(Box::new(Counts { engine, journal: Box::new(journal) }));
}

/// Adds the counters of connections to a registry.
pub fn register_connections(registry: &mut Registry, connections: Connections) {
    registry.register_collector(Box::new(OfConnections(connections)));
}

#[derive(Debug)]
struct OfConnections(Connections);

impl Collector for OfConnections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.0.counts();
        gauge(&mut encoder, "wasaga_connections_open", "Connections of clients", counts.open)?;
        let help = "Connections without a request that were closed to make room for new ones";
        counter(&mut encoder, "wasaga_connections_displaced", help, counts.displaced)
    }
}

struct Counts {
    engine: Engine,
    journal: Box<dyn Fn() -> Journal + Send + Sync>,
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counts").finish_non_exhaustive()
    }
}

impl Collector for Counts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let sagas = self.engine.counts();
        let journal = (self.journal)();
        counter(&mut encoder, "wasaga_sagas_submitted", "Sagas accepted", sagas.submitted)?;
        let help = "Sagas that have ended, by their last status";
        let mut finished = encoder.encode_descriptor("wasaga_sagas_finished", help, None, MetricType::Counter)?;
        for (status, count) in [("succeed", sagas.succeeded), ("failed", sagas.failed)] {
            ConstCounter::new(count).encode(finished.encode_family(&[("status", status)])?)?;
        }
        gauge(&mut encoder, "wasaga_sagas_open", "Unfinished sagas", sagas.open)?;
        gauge(&mut encoder, "wasaga_sagas_live", "Unfinished sagas that are running and not waiting", sagas.live)?;
        let loads = self.engine.destinations();
        destinations(&mut encoder, "wasaga_attempts_running", "Attempts that run", &loads, |load| load.running)?;
        let help = "Attempts that wait for others at their destination to end";
        destinations(&mut encoder, "wasaga_attempts_waiting", help, &loads, |load| load.waiting)?;
        let help = "Submissions refused because too many attempts waited for their destination";
        counter(&mut encoder, "wasaga_submissions_refused_by_destination", help, sagas.refused_by_destination)?;
        let help = "Submissions refused because their client had its share of live_max";
        counter(&mut encoder, "wasaga_submissions_refused_by_client", help, sagas.refused_by_client)?;
        let help = "Attempts made again because others had changed what they had read";
        counter(&mut encoder, "wasaga_conflicts", help, sagas.conflicts)?;
        memory(&mut encoder, self.engine.memory())?;
        counter(&mut encoder, "wasaga_journal_commits", "Batches committed", journal.commits)?;
        counter(&mut encoder, "wasaga_journal_syncs", "Syncs of the journal to disk", journal.syncs)?;
        counter(&mut encoder, "wasaga_journal_bytes", "Bytes written to the journal", journal.bytes)
    }
}

/// Most destinations that have a number of their own, so that what clients name does not decide about the size of a scrape.
const DESTINATIONS_MAX: usize = 100;

/// A number of each destination, largest first; those of all others together have the name `others`.
fn destinations(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    loads: &[Load<Destination>],
    number: impl Fn(&Load<Destination>) -> usize,
) -> fmt::Result {
    let mut numbers: Vec<_> = loads.iter().map(|load| (number(load), load.holder.name())).collect();
    numbers.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
    let others = numbers.split_off(numbers.len().min(DESTINATIONS_MAX));
    if !others.is_empty() {
        numbers.push((others.iter().map(|(number, _)| number).sum(), "others"));
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (number, destination) in numbers {
        let number = ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX));
        number.encode(family.encode_family(&[("destination", destination)])?)?;
    }
    Ok(())
}

/// How much of each share of memory is reserved.
fn memory(encoder: &mut DescriptorEncoder<'_>, budget: &Budget) -> fmt::Result {
    let bytes = |bytes: usize| ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
    let help = "Bytes reserved of a share of memory";
    let mut reserved = encoder.encode_descriptor("wasaga_memory_reserved_bytes", help, None, MetricType::Gauge)?;
    for (share, memory) in budget.shares() {
        bytes(memory.used()).encode(reserved.encode_family(&[("share", share)])?)?;
    }
    let help = "Bytes of a share of memory";
    let mut limit = encoder.encode_descriptor("wasaga_memory_limit_bytes", help, None, MetricType::Gauge)?;
    for (share, memory) in budget.shares() {
        bytes(memory.limit()).encode(limit.encode_family(&[("share", share)])?)?;
    }
    let help = "How often a share of memory had no room";
    let mut refused = encoder.encode_descriptor("wasaga_memory_refused", help, None, MetricType::Counter)?;
    for (share, memory) in budget.shares() {
        ConstCounter::new(memory.refused()).encode(refused.encode_family(&[("share", share)])?)?;
    }
    Ok(())
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let encoder: MetricEncoder<'_> = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(encoder)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let encoder: MetricEncoder<'_> = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder)
}

pub(super) fn routes() -> Router<Context> {
    Router::new().route("/api/metrics", get(scrape))
}

async fn scrape(State(context): State<Context>) -> Response {
    let mut metrics = String::new();
    match text::encode(&mut metrics, context.registry()) {
        Ok(()) => (StatusCode::OK, [(CONTENT_TYPE, OPEN_METRICS)], metrics).into_response(),
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
