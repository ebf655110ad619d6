//! Limits of connections.

use std::{net::IpAddr, str::FromStr, time::Duration};

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
    /// Most connections of one client (an address of IPv4, or a network of 64 bits of IPv6) that have sent no complete
    /// header since they were made. A further one takes the place of the oldest, if that is older than a second. 0: a
    /// quarter of `connections_max`.
    pub silent_per_client: usize,
    /// Addresses and networks of proxies: they speak for many clients, so they have no such share, and their connections
    /// are the last to be closed for others. It is no right: nothing that they say of clients is believed.
    pub proxies: Vec<Network>,
    /// Longest time from the end of one request of a connection to the end of the next request's header. Longer than
    /// common clients keep unused connections (Go: 90 s), so that a request rarely meets a connection that is closing.
    #[serde(with = "duration")]
    pub header_timeout: Duration,
    /// Largest header of a request, and largest chunk of a body, in bytes.
    pub buffer_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            silent_per_client: 0,
            proxies: Vec::new(),
            header_timeout: Duration::from_secs(100),
            buffer_bytes_max: 64 << 10,
        }
    }
}

/// An address of IP, or a network: an address and how many of its bits count, as in `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address nor a network: write it as \"10.0.0.7\", \"10.0.0.0/8\" or \"2001:db8::/32\"")]
pub struct NoNetwork(String);

impl Network {
    /// Whether an address belongs to it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                (network.to_bits() ^ address.to_bits()).checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                (network.to_bits() ^ address.to_bits()).checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let read = || {
            let (address, bits) = match text.split_once('/') {
                Some((address, bits)) => (address, Some(bits.parse().ok()?)),
                None => (text, None),
            };
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.unwrap_or(most);
            (bits <= most).then_some(Self { address, bits })
        };
        read().ok_or_else(|| NoNetwork(text.to_owned()))
    }
}

impl TryFrom<String> for Network {
    type Error = NoNetwork;

    fn try_from(text: String) -> Result<Self, NoNetwork> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(Network { address, bits }: Network) -> Self {
        format!("{address}/{bits}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_what_shares_its_bits() {
        let contains =
            |network: &str, address: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
        for (network, address) in [
            ("10.0.0.7", "10.0.0.7"),
            ("10.0.0.0/8", "10.255.0.1"),
            ("0.0.0.0/0", "203.0.113.9"),
            ("2001:db8::/32", "2001:db8:1::1"),
            ("::/0", "::1"),
        ] {
            assert!(contains(network, address), "{network} {address}");
        }
        for (network, address) in [
            ("10.0.0.7", "10.0.0.8"),
            ("10.0.0.0/8", "11.0.0.0"),
            ("::/0", "10.0.0.1"),
            ("2001:db8::/32", "2001:db9::1"),
        ] {
            assert!(!contains(network, address), "{network} {address}");
        }
        for text in ["", "proxy", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "::/129", "10.0.0.0/-1"] {
            assert_eq!(text.parse::<Network>(), Err(NoNetwork(text.to_owned())));
        }
    }
}
