//! DTM's metrics, by DTM's names (`dtmsvr/metrics.go`), so that its dashboards and alerts keep working.
//!
//! | name                               | labels                              | counts                                    |
//! |------------------------------------|-------------------------------------|-------------------------------------------|
//! | `dtm_server_info`                  | `version`                           | 1                                         |
//! | `dtm_server_process_total`         | `type`, `api`, `status`             | requests                                  |
//! | `dtm_server_response_duration`     | `type`, `api`                       | seconds until the response                |
//! | `dtm_transaction_process_total`    | `model`, `status`                   | rounds: work on a saga until it waits     |
//! | `dtm_transaction_handled_duration` | `model`                             | age of the saga at a round's end, in s    |
//! | `dtm_branch_process_total`         | `model`, `branchid`, `branchtype`, `status` | attempts; only a success is `ok`  |
//!
//! Every label has a bounded set of values: `api` is a known endpoint or `other` (DTM takes it from the address, query
//! string included), and steps after the twentieth are counted as `branchid="more"`. `dtm_server_info` has no labels
//! `gin_version` and `grpc_version`: Wasaga uses neither library.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{MetricType, counter::ConstCounter, exemplar::Exemplar, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    engine::{
        Engine,
        counters::{BOUNDS_S, BRANCHES, Durations, OkFail},
    },
    saga::{BranchId, BranchOp, Op},
};

/// The values of the label `api`: the last segment of an endpoint's path, in lower case as in DTM.
const APIS: [&str; 14] = [
    "submit",
    "newgid",
    "prepare",
    "query",
    "all",
    "abort",
    "forcestop",
    "resetnextcrontime",
    "resetcrontime",
    "version",
    "registerbranch",
    "json-rpc",
    "ping",
    "other",
];

/// Counts of requests, by protocol and endpoint.
#[derive(Debug, Default)]
pub struct Requests {
    http: [Endpoint; APIS.len()],
    grpc: [Endpoint; APIS.len()],
}

#[derive(Debug, Default)]
struct Endpoint {
    results: OkFail,
    durations: Durations,
}

impl Requests {
    /// The endpoints that have been called, with their labels.
    fn called(&self) -> impl Iterator<Item = (&Endpoint, [(&'static str, &'static str); 2])> {
        [("http", &self.http), ("grpc", &self.grpc)].into_iter().flat_map(|(kind, endpoints)| {
            let called = endpoints.iter().zip(APIS).filter(|(endpoint, _)| endpoint.results.read() != [0, 0]);
            called.map(move |(endpoint, api)| (endpoint, [("type", kind), ("api", api)]))
        })
    }
}

fn count(endpoints: &[Endpoint], path: &MatchedPath, is_ok: bool, duration: Duration) {
    let name = path.as_str().rsplit('/').next().unwrap_or_default();
    let index = APIS.iter().position(|api| api.eq_ignore_ascii_case(name)).unwrap_or(APIS.len() - 1);
    if let Some(endpoint) = endpoints.get(index) {
        endpoint.results.count(is_ok);
        endpoint.durations.observe(duration);
    }
}

/// Middleware that counts a request over HTTP. Statuses below 400 are `ok`.
pub async fn count_http(
    State(requests): State<Arc<Requests>>,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    let (response, duration) = timed(request, next).await;
    count(&requests.http, &path, response.status().as_u16() < 400, duration);
    response
}

/// Middleware that counts a request over gRPC. It is `ok` unless the header `grpc-status` says otherwise.
pub async fn count_grpc(
    State(requests): State<Arc<Requests>>,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    let (response, duration) = timed(request, next).await;
    let is_ok = response.headers().get("grpc-status").is_none_or(|status| status == "0");
    count(&requests.grpc, &path, is_ok, duration);
    response
}

/// The response, and how long it took by the system's clock: tokio's is stopped by some tests.
async fn timed(request: Request, next: Next) -> (Response, Duration) {
    let start = Instant::now();
    let response = next.run(request).await;
    (response, start.elapsed())
}

/// Adds DTM's metrics to a registry.
pub fn register(registry: &mut Registry, engine: Engine, requests: Arc<Requests>) {
    registry.register_collector(Box::new(Metrics { engine, requests }));
}

struct Metrics {
    engine: Engine,
    requests: Arc<Requests>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

type Exemplars = HashMap<usize, Exemplar<[(&'static str, &'static str); 0], f64>>;

const MODEL: (&str, &str) = ("model", "saga");

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "The version of this server";
        let mut info = encoder.encode_descriptor("dtm_server_info", help, None, MetricType::Gauge)?;
        ConstGauge::new(1_i64).encode(info.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?)?;
        self.encode_requests(&mut encoder)?;
        self.encode_rounds(&mut encoder)?;
        self.encode_attempts(&mut encoder)
    }
}

impl Metrics {
    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut total = counter(encoder, "dtm_server_process", "Requests answered")?;
        for (endpoint, [kind, api]) in self.requests.called() {
            ok_fail(&mut total, &endpoint.results, |status| [kind, api, status])?;
        }
        let help = "Seconds until a request was answered";
        let mut durations =
            encoder.encode_descriptor("dtm_server_response_duration", help, None, MetricType::Histogram)?;
        for (endpoint, labels) in self.requests.called() {
            histogram(&mut durations, &endpoint.durations, &labels)?;
        }
        Ok(())
    }

    fn encode_rounds(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = self.engine.counters();
        let mut total = counter(encoder, "dtm_transaction_process", "Rounds of work on sagas")?;
        ok_fail(&mut total, &counters.rounds, |status| [MODEL, status])?;
        let (name, help) = ("dtm_transaction_handled_duration", "Age of a saga at the end of each round, in seconds");
        let mut ages = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        histogram(&mut ages, &counters.ages, &[MODEL])
    }

    fn encode_attempts(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = self.engine.counters();
        let mut total = counter(encoder, "dtm_branch_process", "Attempts of branches")?;
        for step in 0..=BRANCHES {
            let branch = if step < BRANCHES { BranchId(step).to_string() } else { "more".to_owned() };
            for op in [Op::Action, Op::Compensate] {
                if let Some(attempts) =
                    counters.attempts(BranchOp { step, op }).filter(|counts| counts.read() != [0, 0])
                {
                    let labels = |status| [MODEL, ("branchid", branch.as_str()), ("branchtype", op.as_str()), status];
                    ok_fail(&mut total, attempts, labels)?;
                }
            }
        }
        Ok(())
    }
}

/// Begins a counter. The encoder adds `_total` to its name.
fn counter<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Counter)
}

fn ok_fail<'a, L: EncodeLabelSet>(
    encoder: &mut MetricEncoder<'_>,
    counts: &OkFail,
    labels: impl Fn((&'a str, &'a str)) -> L,
) -> fmt::Result {
    for (status, count) in ["ok", "fail"].into_iter().zip(counts.read()) {
        ConstCounter::new(count).encode(encoder.encode_family(&labels(("status", status)))?)?;
    }
    Ok(())
}

fn histogram(encoder: &mut MetricEncoder<'_>, durations: &Durations, labels: &impl EncodeLabelSet) -> fmt::Result {
    let counts = durations.counts();
    let bounds = BOUNDS_S.into_iter().chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(counts).collect();
    let none: Option<&Exemplars> = None;
    let sum_s = durations.sum().as_secs_f64();
    encoder.encode_family(labels)?.encode_histogram(sum_s, counts.iter().sum(), &buckets, none)
}
