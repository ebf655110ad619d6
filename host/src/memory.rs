//! Memory by bytes: one budget for what clients and guests can make large.
//!
//! A limit of numbers (connections, live sagas, guests) does not bound memory while one of them may hold a thousand times
//! what another holds. So what can be large is reserved by its bytes before it is held, and released when it is dropped.
//!
//! ```text
//!  budget ──┬── requests  1/4   bodies that are read, answers that are built
//!           ├── payloads  3/8   definitions of live sagas, until they are parked or have ended
//!           └── guests    3/8   linear memories of guests
//! ```
//!
//! Invariants: what is reserved in a share is never more than its limit, except for what one item has beyond half of it, and
//! for outputs of branches, which cannot be refused any more; a share is at zero when nothing that reserved is
//! left. The shares are fixed, so that no kind of use takes the room of another. Within a share, no holder takes the room
//! of another ([`share`]): holders are clients by their addresses (requests, payloads), all sagas that are due (payloads), and
//! plugins (guests).
//!
//! Not in the budget, since their own limits are enough: buffers of connections (`[api.connections]`), the cache of the store
//! (`[store] cache_bytes`), the idle pool of instances, and about 70 B for each saga that the host has ever seen.

mod holders;
mod machine;
mod share;

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use self::holders::Holders;
pub use self::{
    machine::memory as of_machine,
    share::{Holder, Reserved, Share},
};

/// The settings of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Bytes that bodies of requests, answers, payloads of live sagas and memories of guests may have together. Beyond it,
    /// submissions get 503 with `Retry-After`, and what cannot be refused waits; one client or plugin alone has at most three
    /// quarters of what there is for requests, payloads or guests (seven eighths if all is small). 0: a quarter of the machine's memory, or of
    /// the limit of the control group (container, systemd unit) if that is less; the rest is for the system's page cache,
    /// the store, and compiling.
    pub budget_bytes: u64,
}

/// Part of the machine's memory that is the budget unless the settings say otherwise: one of so many.
const PART_OF_MACHINE: u64 = 4;

/// The budget where neither the machine's memory nor a limit can be read, in bytes.
const FALLBACK_BYTES: u64 = 512 << 20;

/// Largest request or saga that may use the room that a share keeps free of large ones, in bytes.
const SMALL_BYTES: usize = 64 << 10;

/// The same for guests, in bytes: what a guest of a compiled language needs.
const SMALL_GUEST_BYTES: usize = 2 << 20;

/// The budget and its shares. Clones share it.
#[derive(Clone, Debug)]
pub struct Budget {
    requests: Arc<Holders<Option<IpAddr>>>,
    payloads: Arc<Holders<Option<IpAddr>>>,
    due: Arc<Holder>,
    large_due: Arc<Holder>,
    guests: Arc<Holders<String>>,
}

impl Budget {
    /// The budget of these settings on this machine.
    pub fn new(settings: Settings) -> Self {
        match settings.budget_bytes {
            0 => Self::of(machine::memory().map_or(FALLBACK_BYTES, |bytes| bytes / PART_OF_MACHINE)),
            bytes => Self::of(bytes),
        }
    }

    /// A budget of so many bytes.
    pub fn of(bytes: u64) -> Self {
        let eighths = |count: u64, small| {
            let limit = bytes / 8 * count;
            Share::new(usize::try_from(limit).unwrap_or(usize::MAX), small)
        };
        let payloads = eighths(3, SMALL_BYTES);
        Self {
            requests: Arc::new(Holders::new(eighths(2, SMALL_BYTES), Share::holder)),
            due: payloads.holder(),
            large_due: payloads.holder(),
            // What is due has an eighth for itself.
            payloads: Arc::new(Holders::new(payloads, Share::holder_of_most)),
            guests: Arc::new(Holders::new(eighths(3, SMALL_GUEST_BYTES), Share::holder)),
        }
    }

    /// The share of bodies that are read and answers that are built.
    pub fn requests(&self) -> &Arc<Share> {
        self.requests.share()
    }

    /// What a client has of it; `None` stands for all clients whose address is unknown.
    pub fn requests_of(&self, client: Option<IpAddr>) -> Arc<Holder> {
        self.requests.of(&client.map(client_at))
    }

    /// The share of live sagas.
    pub fn payloads(&self) -> &Arc<Share> {
        self.payloads.share()
    }

    /// What the live sagas of a client have of it; `None` stands for all clients whose address is unknown.
    pub fn payloads_of(&self, client: Option<IpAddr>) -> Arc<Holder> {
        self.payloads.of(&client.map(client_at))
    }

    /// What the sagas have of it that were parked and are due.
    pub fn payloads_of_due(&self) -> &Arc<Holder> {
        &self.due
    }

    /// The same of those for which there was no room: they wait here in their order, behind no other.
    pub fn payloads_of_large_due(&self) -> &Arc<Holder> {
        &self.large_due
    }

    /// The share of guests.
    pub fn guests(&self) -> &Arc<Share> {
        self.guests.share()
    }

    /// What the guests of a plugin have of it, all its versions together.
    pub fn guests_of(&self, plugin: &str) -> Arc<Holder> {
        self.guests.of(plugin)
    }

    /// All shares with their names in metrics.
    pub fn shares(&self) -> [(&'static str, &Share); 3] {
        [("requests", self.requests()), ("payloads", self.payloads()), ("guests", self.guests())]
    }

    /// The bytes of all shares together.
    pub fn bytes(&self) -> usize {
        self.shares().iter().fold(0, |sum, (_, share)| sum.saturating_add(share.limit()))
    }
}

/// The client at an address, which is one holder: a machine with IPv6 mostly has a network of 64 bits for itself.
pub fn client_at(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}
