//! The places of attempts at their destinations: plugins and services have a bulkhead each.

use std::time::Duration;

use tokio::{sync::mpsc, time::Instant};

use super::{
    bulkhead::{Ahead, Bulkhead, Limits, Load, Place, Waiting},
    format::SagaId,
};
use crate::{
    branch::{Destination, http},
    saga::{BranchOp, Status},
};

/// Of the live sagas, one part of so many may wait for the same destination; further ones are parked at once.
const LIVE_WAITS: usize = 8;

/// How many attempts run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Guests, in all and of one plugin.
    pub plugins: Limits,
    /// Calls of services, in all and of one host and port.
    pub services: Limits,
    /// How long an attempt waits for its destination before its saga is parked. Some times as long as most attempts take, so
    /// that a short burst costs no commit; and short, since a saga that waits so is in memory.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let http::Settings { calls_max, calls_per_destination_max, .. } = http::Settings::default();
        Self {
            plugins: Limits { total: 128, per_holder: 64 },
            services: Limits { total: calls_max, per_holder: calls_per_destination_max },
            patience: Duration::from_millis(200),
        }
    }
}

/// The place of an attempt at its destination.
pub(super) type AttemptPlace = Place<Destination>;

/// The bulkheads of all destinations.
pub(super) struct Destinations {
    plugins: Bulkhead<Destination>,
    services: Bulkhead<Destination>,
    patience: Duration,
    live_waits_max: usize,
}

impl Destinations {
    /// With all places free, and the receiver of the parked sagas whose turn has come.
    pub fn new(settings: Settings, live_max: usize) -> (Self, mpsc::UnboundedReceiver<(SagaId, AttemptPlace)>) {
        let (granted, receiver) = mpsc::unbounded_channel();
        // Whatever the settings and the system's limits: one destination leaves places to others.
        let shared = |Limits { total, per_holder }: Limits| Limits {
            total,
            per_holder: per_holder.min(total / 2).min(live_max / 4).max(1),
        };
        let plugins = Bulkhead::new(shared(settings.plugins), granted.clone());
        let services = Bulkhead::new(shared(settings.services), granted);
        (Self { plugins, services, patience: settings.patience, live_waits_max: live_max / LIVE_WAITS }, receiver)
    }

    /// The bulkhead that a destination belongs to.
    pub fn bulkhead(&self, destination: &Destination) -> &Bulkhead<Destination> {
        match destination {
            Destination::Plugin(_) => &self.plugins,
            Destination::Service(_) => &self.services,
        }
    }

    /// A place, after a wait if need be.
    pub async fn enter(&self, destination: Destination) -> AttemptPlace {
        self.bulkhead(&destination).enter_or_wait(destination).await
    }

    /// Whether there may be a destination for which at least this many attempts wait. Takes no lock.
    pub fn may_have_queue_of(&self, waits: usize) -> bool {
        [&self.plugins, &self.services].iter().any(|bulkhead| bulkhead.waiting_in_all() >= waits)
    }

    /// The use of all destinations, sorted by name.
    pub fn loads(&self) -> Vec<Load<Destination>> {
        let mut loads = self.plugins.loads();
        loads.extend(self.services.loads());
        loads.sort_unstable_by(|a, b| a.holder.cmp(&b.holder));
        loads
    }
}

/// The places that one saga's driver has been granted, and those that it waits for.
pub(super) struct Places {
    granted: Vec<AttemptPlace>,
    waits: Vec<(BranchOp, Waiting<Destination>)>,
    /// When the saga is to be parked, if it still waits and nothing of it runs.
    patience: Option<Instant>,
    status: Status,
}

impl Places {
    /// For a saga of this status that was woken because it has a place, or for another reason.
    pub fn new(status: Status, granted: Option<AttemptPlace>) -> Self {
        Self { granted: granted.into_iter().collect(), waits: Vec::new(), patience: None, status }
    }

    /// A place for an attempt. `None`: the operation waits for it from now on.
    pub fn take(
        &mut self,
        destinations: &Destinations,
        destination: Destination,
        branch_op: BranchOp,
        id: SagaId,
    ) -> Option<AttemptPlace> {
        if let Some(at) = self.granted.iter().position(|place| *place.holder() == destination) {
            return Some(self.granted.swap_remove(at).begin());
        }
        match destinations.bulkhead(&destination).enter(destination, Some(id)) {
            Ok(place) => Some(place.begin()),
            Err(waiting) => {
                let Ahead { parked, waits } = waiting.ahead();
                let is_short = !parked && waits < destinations.live_waits_max;
                let patience = if is_short { destinations.patience } else { Duration::ZERO };
                self.patience.get_or_insert_with(|| Instant::now() + patience);
                self.waits.push((branch_op, waiting));
                None
            }
        }
    }

    /// Whether an operation waits for a place.
    pub fn is_waiting(&self) -> bool {
        !self.waits.is_empty()
    }

    /// Waits for the next place, and returns the operation that waited for it. Without end when none waits.
    pub async fn next(&mut self) -> BranchOp {
        let (at, place) = std::future::poll_fn(|context| {
            let ready = self.waits.iter_mut().enumerate().find_map(|(at, (_, waiting))| {
                match std::pin::Pin::new(waiting).poll(context) {
                    std::task::Poll::Ready(place) => Some((at, place)),
                    std::task::Poll::Pending => None,
                }
            });
            ready.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await;
        let (branch_op, _) = self.waits.swap_remove(at);
        self.granted.push(place);
        if self.waits.is_empty() {
            self.patience = None;
        }
        branch_op
    }

    /// When the saga is to be parked, if nothing of it runs then.
    pub fn patience(&self) -> Option<Instant> {
        self.patience
    }

    /// Ends the waits if the saga's status has changed, as other operations are wanted then. Whether it has.
    pub fn follow(&mut self, status: Status) -> bool {
        let has_changed = std::mem::replace(&mut self.status, status) != status;
        if has_changed {
            self.waits.clear();
            self.patience = None;
        }
        has_changed
    }

    /// Returns the places that the saga has no use for.
    pub fn return_unused(&mut self) {
        self.granted.clear();
    }

    /// Lets the saga wait without a driver: it is sent to the channel when its turn comes. False if a turn has come just
    /// now, so that the saga must be driven again.
    pub fn park(&mut self, id: SagaId) -> bool {
        self.patience = None;
        let mut parked = true;
        for (_, waiting) in self.waits.drain(..) {
            parked &= waiting.park(id);
        }
        parked
    }
}
