//! File descriptors: how many the process may open, and how they are divided.
//!
//! Invariant: the shares and the [`reserve`] together are no more than the limit, so that connections and calls leave the
//! store, the plugins and the process itself the descriptors that they need. A call to a name opens a second one for a
//! moment, while the name is resolved; the reserve covers that. Running out of descriptors anyway costs single connections
//! and attempts: accepting pauses, a call ends without a result and is retried.

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors kept for the store, the plugins and the process: an eighth of the limit, within these bounds. A host with
/// all its features uses about 40.
const RESERVE_MIN: u64 = 64;
const RESERVE_MAX: u64 = 256;

/// Services with unused connections at the same time for which the share of these is meant. They are kept for a few
/// seconds only.
const IDLE_HOSTS: u64 = 8;

/// Raises the soft limit of open files to the hard one, and returns the limit that is in force then. Most systems set the
/// soft one to 1,024, for programs that use `select`.
pub fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let in_force = match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised from {current:?} to {maximum:?}");
            current
        }
    };
    in_force.unwrap_or(u64::MAX)
}

/// Numbers of descriptors, by what they are for: what the settings ask for, or what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Accepted connections, over HTTP and gRPC together.
    pub connections: usize,
    /// Calls of services at once.
    pub calls: usize,
    /// HTTP requests of plugins at once.
    pub requests: usize,
    /// Unused connections that are kept for each host and port of a service, or of one plugin.
    pub idle_per_host: usize,
}

impl Shares {
    /// Divides `limit` descriptors. Each share is at most what is asked for and at least 1; what one does not need is
    /// divided among the others, by their weights (weighted max-min fairness: Bertsekas and Gallager, Data Networks,
    /// section 6.5.2).
    #[must_use]
    pub fn divide(limit: u64, asked: &Self) -> Self {
        let number = |asked: usize| u64::try_from(asked).unwrap_or(u64::MAX);
        let idle = number(asked.idle_per_host).saturating_mul(IDLE_HOSTS);
        let mut parts = [
            Part::new(4, number(asked.connections)),
            Part::new(2, number(asked.calls)),
            Part::new(1, number(asked.requests)),
            Part::new(1, idle),
        ];
        divide(limit.saturating_sub(reserve(limit)), &mut parts);
        let [connections, calls, requests, idle] = parts.map(|part| part.given);
        let share = |given: u64| usize::try_from(given.max(1)).unwrap_or(usize::MAX);
        Self {
            connections: share(connections),
            calls: share(calls),
            requests: share(requests),
            idle_per_host: share(idle / IDLE_HOSTS),
        }
    }

    /// The limit with which each share is what is asked for.
    #[must_use]
    pub fn needed(&self) -> u64 {
        let number = |asked: usize| u64::try_from(asked).unwrap_or(u64::MAX);
        let idle = number(self.idle_per_host).saturating_mul(IDLE_HOSTS);
        [number(self.connections), number(self.calls), number(self.requests), idle]
            .into_iter()
            .fold(RESERVE_MAX, u64::saturating_add)
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, calls, requests, idle_per_host } = self;
        write!(
            f,
            "{connections} connections of clients, {calls} calls of services and {requests} requests of plugins at once, \
             {idle_per_host} unused connections for each service"
        )
    }
}

/// The descriptors that are in no share.
fn reserve(limit: u64) -> u64 {
    (limit / 8).clamp(RESERVE_MIN, RESERVE_MAX).min(limit / 2)
}

/// A part of the descriptors.
struct Part {
    weight: u64,
    asked: u64,
    given: u64,
    is_given: bool,
}

impl Part {
    fn new(weight: u64, asked: u64) -> Self {
        Self { weight, asked, given: 0, is_given: false }
    }
}

/// Gives each part what it asks for or its share by weight, whichever is less.
fn divide(mut left: u64, parts: &mut [Part]) {
    loop {
        let open = || parts.iter().filter(|part| !part.is_given);
        let weights: u64 = open().map(|part| part.weight).sum();
        if weights == 0 {
            return;
        }
        let by_weight = |part: &Part| left.saturating_mul(part.weight) / weights;
        let some_fit = open().any(|part| part.asked <= by_weight(part));
        let mut used: u64 = 0;
        for part in parts.iter_mut().filter(|part| !part.is_given) {
            let share = left.saturating_mul(part.weight) / weights;
            if part.asked <= share || !some_fit {
                part.given = part.asked.min(share);
                part.is_given = true;
                used = used.saturating_add(part.given);
            }
        }
        left = left.saturating_sub(used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Shares = Shares { connections: 10_000, calls: 4096, requests: 1024, idle_per_host: 256 };

    fn total(shares: &Shares) -> u64 {
        shares.needed() - RESERVE_MAX
    }

    #[test]
    fn enough_descriptors_are_what_the_settings_ask_for() {
        for limit in [ASKED.needed(), 1 << 20, u64::MAX] {
            assert_eq!(Shares::divide(limit, &ASKED), ASKED, "{limit}");
        }
        assert_ne!(Shares::divide(ASKED.needed() - 8, &ASKED), ASKED);
    }

    #[test]
    fn few_descriptors_are_divided_by_weight() {
        let shares =
            |connections, calls, requests, idle_per_host| Shares { connections, calls, requests, idle_per_host };
        assert_eq!(Shares::divide(1024, &ASKED), shares(448, 224, 112, 14));
        assert_eq!(Shares::divide(256, &ASKED), shares(96, 48, 24, 3));
        // What connections do not need is for the others.
        let few = Shares { connections: 10, ..ASKED };
        assert_eq!(Shares::divide(256, &few), shares(10, 91, 45, 5));
    }

    #[test]
    fn the_shares_and_the_reserve_are_no_more_than_the_limit() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..10_000 {
            let limit = random.u64(64..100_000);
            let asked = Shares {
                connections: random.usize(1..100_000),
                calls: random.usize(1..100_000),
                requests: random.usize(1..100_000),
                idle_per_host: random.usize(1..1000),
            };
            let shares = Shares::divide(limit, &asked);
            // Each share is at least 1, whatever the limit.
            assert!(total(&shares) + reserve(limit) <= limit + IDLE_HOSTS, "{limit} {asked:?} {shares:?}");
            assert!(shares.connections <= asked.connections && shares.calls <= asked.calls, "{limit} {asked:?}");
        }
    }

    #[test]
    fn the_limit_is_raised_to_the_hard_one() {
        let limit = raise();
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), limit);
    }
}
