//! The authority that a request names: the host, and perhaps the port, by which its client has called.

use std::net::{IpAddr, Ipv6Addr};

/// What stands in `Host`, or before the path of an absolute address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Authority<'a> {
    pub host: Host<'a>,
    pub port: Option<u16>,
}

/// A host, as a client calls it. Resolves no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host<'a> {
    Address(IpAddr),
    Localhost,
    /// Without the dot that may end it, in the spelling of the client.
    Name(&'a str),
}

impl<'a> Authority<'a> {
    /// Reads it (RFC 3986, section 3.2, without user information). `None` if it is malformed.
    pub fn read(text: &'a str) -> Option<Self> {
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Some(Self { host: Host::Address(address.into()), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => (text, ""),
        };
        let port = match port {
            "" => None,
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            _ => return None,
        };
        Some(Self { host: Host::read(host)?, port })
    }
}

impl<'a> Host<'a> {
    fn read(text: &'a str) -> Option<Self> {
        if let Some(address) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            // What follows `%` is an interface of the client's machine (RFC 6874).
            let address = address.split_once('%').map_or(address, |(address, _)| address);
            return address.parse::<Ipv6Addr>().ok().map(|address| Self::Address(address.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if let Ok(address) = name.parse() {
            return Some(Self::Address(address));
        }
        let is_name =
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        match is_name {
            true if name.eq_ignore_ascii_case("localhost") => Some(Self::Localhost),
            true => Some(Self::Name(name)),
            false => None,
        }
    }

    /// Whether it is this machine, whatever names mean.
    pub fn is_loopback(self) -> bool {
        match self {
            Self::Address(address) => address.to_canonical().is_loopback(),
            Self::Localhost => true,
            Self::Name(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_a_name_and_the_rest_is_malformed() {
        for (text, host, port) in [
            ("127.0.0.1", Host::Address([127, 0, 0, 1].into()), None),
            ("127.0.0.1.:80", Host::Address([127, 0, 0, 1].into()), Some(80)),
            ("[::1]:36789", Host::Address(Ipv6Addr::LOCALHOST.into()), Some(36789)),
            ("[::1]", Host::Address(Ipv6Addr::LOCALHOST.into()), None),
            ("::1", Host::Address(Ipv6Addr::LOCALHOST.into()), None),
            ("[fe80::1%25eth0]:1", Host::Address("fe80::1".parse().unwrap()), Some(1)),
            ("LocalHost.:1", Host::Localhost, Some(1)),
            ("a_b.Example.:", Host::Name("a_b.Example"), None),
            ("127.1", Host::Name("127.1"), None),
        ] {
            assert_eq!(Authority::read(text), Some(Authority { host, port }), "{text}");
        }
        for text in
            ["", ".", ":80", "a:x", "a:65536", "a:1:2", "[::1", "[::1]x", "[a]", "a@b", "a b", "a/b", "é", "[::1]:x"]
        {
            assert_eq!(Authority::read(text), None, "{text}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        let is_loopback = |text| Authority::read(text).is_some_and(|authority| authority.host.is_loopback());
        for host in [
            "127.0.0.1",
            "127.0.0.1:36789",
            "127.8.8.8:1",
            "[::1]:36789",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "localhost",
            "LOCALHOST:80",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "example.com", "example.com:36789", "localhost.example.com", "10.0.0.1:1", "127.0.0.1.nip.io"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
