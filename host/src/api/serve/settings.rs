//! Limits of connections.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::{Deserialize, Serialize};

/// Limits of connections.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Most connections at once, over HTTP and gRPC together. For a further one, the connection without a request that has
    /// been idle longest is closed; if all have requests, it waits in the system's queue. Each costs a file descriptor and
    /// about 20 KiB. At most the connections' share of the limit of open files, which the log names if it is less.
    pub connections_max: usize,
    /// Longest time from the end of one request of a connection to the end of the next request's header. Longer than
    /// common clients keep unused connections (Go: 90 s), so that a request rarely meets a connection that is closing.
    #[serde(with = "duration")]
    pub header_timeout: Duration,
    /// Largest header of a request, and largest chunk of a body, in bytes.
    pub buffer_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { connections_max: 10_000, header_timeout: Duration::from_secs(100), buffer_bytes_max: 64 << 10 }
    }
}
