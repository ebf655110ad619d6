//! Which destinations may be called: `allow`, `deny` and `unlisted` under `[http]` in the settings.
//!
//! In this order: an entry of `deny` refuses; an entry of `allow` with a network allows; link-local addresses and those of
//! metadata services are refused; an entry of `allow` with a name allows; [`Unlisted`] decides. So what a name means, which
//! its owner chooses, never leads to a metadata service.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use url::Host;

use super::public_address::is_public;

/// An entry of `allow` or `deny`: a host or a network, and the ports that it is about.
///
/// `api.example.com`, `*.example.com` (all names below it), `10.0.0.0/8`, `fd00::/8`, `127.0.0.1:8080`, `[::1]:8080`,
/// `billing:8000-8099`, `*:22`. Without a port all ports are meant. Names ignore case.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Entry {
    target: Target,
    ports: Option<(u16, u16)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Any,
    /// In lower case, in Punycode, without a dot at the end, as the two below.
    Name(String),
    /// All names that end in a dot and this one.
    Below(String),
    Network(IpNet),
}

/// Why a text is no entry, and the mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no destination: {what}; write it as in \"api.example.com\", \"*.example.com:443\", \"10.0.0.0/8\" or \"[fd00::1]:8080\""
)]
pub struct Fault {
    text: String,
    what: &'static str,
}

impl FromStr for Entry {
    type Err = Fault;

    /// Reads an entry. The text of every entry is read as the same entry.
    fn from_str(text: &str) -> Result<Self, Fault> {
        parse(text).map_err(|what| Fault { text: text.to_owned(), what })
    }
}

impl TryFrom<String> for Entry {
    type Error = Fault;

    fn try_from(text: String) -> Result<Self, Fault> {
        text.parse()
    }
}

impl From<Entry> for String {
    fn from(entry: Entry) -> Self {
        entry.to_string()
    }
}

fn parse(text: &str) -> Result<Entry, &'static str> {
    if text.contains("://") {
        return Err("it has a scheme");
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, rest) = rest.split_once(']').ok_or("the bracket is not closed")?;
        let network = network(inside)?.filter(|_| inside.contains(':'));
        let target = Target::Network(network.ok_or("what the brackets hold is no IPv6 address or network")?);
        let ports = match rest.strip_prefix(':') {
            Some(given) => Some(ports(given)?),
            None if rest.is_empty() => None,
            None => return Err("something other than a port follows the bracket"),
        };
        return Ok(Entry { target, ports });
    }
    if text.matches(':').count() > 1 {
        let network = network(text)?.ok_or("it has two colons, and is no IPv6 address or network")?;
        return Ok(Entry { target: Target::Network(network), ports: None });
    }
    let (target, ports) = match text.split_once(':') {
        Some((target, given)) => (target, Some(ports(given)?)),
        None => (text, None),
    };
    let target = match network(target)? {
        Some(network) => Target::Network(network),
        None => host(target)?,
    };
    Ok(Entry { target, ports })
}

/// The network that a text is; an address is the network of that address. An error: it is one, with a wrong length.
fn network(text: &str) -> Result<Option<IpNet>, &'static str> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Some(address.to_canonical().into()));
    }
    let Some((address, _)) = text.split_once('/') else { return Ok(None) };
    if address.parse::<IpAddr>().is_err() {
        return Err("it has a path, or a network without an address");
    }
    let network: IpNet = text.parse().map_err(|_| "the length of the network's prefix is wrong")?;
    if network.network() != network.addr() {
        return Err("the address has bits beyond the network's prefix");
    }
    Ok(Some(canonical(network)))
}

/// A network of IPv4 addresses that is written as one of IPv6 addresses: that of the IPv4 addresses.
fn canonical(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(network) => {
            let length = network.prefix_len().checked_sub(96);
            network.addr().to_ipv4_mapped().zip(length).and_then(|(address, length)| Ipv4Net::new(address, length).ok())
        }
        IpNet::V4(_) => None,
    };
    mapped.map_or(network, IpNet::V4)
}

fn host(text: &str) -> Result<Target, &'static str> {
    if text == "*" {
        return Ok(Target::Any);
    }
    let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
    // The parser of addresses decodes percent signs, and takes a star for a letter.
    if name.contains(['*', '%']) {
        return Err("a star stands at the beginning only, before a dot or alone, and nothing is percent-encoded");
    }
    match Host::parse(name) {
        Ok(Host::Domain(name)) => {
            let name = without_last_dot(&name).to_owned();
            if name.split('.').any(str::is_empty) {
                return Err("a part of the name is empty");
            }
            Ok(if below { Target::Below(name) } else { Target::Name(name) })
        }
        // 0x7f.1 and the like.
        Ok(_) => Err("an address is written as four decimal numbers, and has no star before it"),
        Err(_) => Err("this cannot be the name of a host"),
    }
}

fn ports(text: &str) -> Result<(u16, u16), &'static str> {
    let port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = port(first).zip(port(last)).ok_or("the port is no number up to 65535")?;
    if first == 0 || first > last { Err("the ports are not in order, or 0") } else { Ok((first, last)) }
}

fn without_last_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// The text that is read as this entry.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Any => f.write_str("*")?,
            Target::Name(name) => f.write_str(name)?,
            Target::Below(name) => write!(f, "*.{name}")?,
            Target::Network(network) => {
                let is_address = network.prefix_len() == network.max_prefix_len();
                let text = if is_address { network.addr().to_string() } else { network.to_string() };
                if matches!(network, IpNet::V6(_)) && self.ports.is_some() {
                    write!(f, "[{text}]")?;
                } else {
                    f.write_str(&text)?;
                }
            }
        }
        match self.ports {
            None => Ok(()),
            Some((first, last)) if first == last => write!(f, ":{first}"),
            Some((first, last)) => write!(f, ":{first}-{last}"),
        }
    }
}

impl Entry {
    fn has_port(&self, port: u16) -> bool {
        self.ports.is_none_or(|(first, last)| RangeInclusive::new(first, last).contains(&port))
    }

    /// Whether it is about hosts of this name, whatever their addresses.
    fn names(&self, host: &str) -> bool {
        let host = without_last_dot(host);
        match &self.target {
            Target::Any => true,
            Target::Name(name) => name.eq_ignore_ascii_case(host),
            Target::Below(name) => {
                let at = host.len().checked_sub(name.len());
                let end = at.and_then(|at| host.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(name));
                end && at.and_then(|at| host.get(..at)).is_some_and(|rest| rest.ends_with('.'))
            }
            Target::Network(_) => false,
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        matches!(&self.target, Target::Network(network) if network.contains(&address))
    }
}

/// Which destinations may be called that neither `allow` nor `deny` names. Link-local addresses and those of metadata
/// services never are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unlisted {
    /// As `all` for a host that listens on loopback addresses only, else as `public`: a client on another machine must not
    /// reach what it could not reach itself.
    #[default]
    Auto,
    /// Public addresses, private networks, this machine.
    All,
    /// Public addresses.
    Public,
    /// None: `allow` is the whole list.
    None,
}

impl Unlisted {
    /// What `auto` means for a host that listens on loopback addresses only, or not.
    #[must_use]
    pub fn resolved(self, listens_on_loopback: bool) -> Self {
        match self {
            Self::Auto if listens_on_loopback => Self::All,
            Self::Auto => Self::Public,
            chosen => chosen,
        }
    }
}

/// The rules of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Wins over all else.
    pub deny: Vec<Entry>,
    /// Wins over [`Unlisted`].
    pub allow: Vec<Entry>,
    /// [`Unlisted::Auto`] means all: these rules do not know where the host listens.
    pub unlisted: Unlisted,
}

/// Why a destination may not be called, and the setting that would change it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{destination} may not be called: {entry:?} in deny under [http] in the settings covers it")]
    Denied { destination: String, entry: String },
    #[error(
        "{destination} may not be called: {why}; to allow it, add {entry:?} to allow under [http] in the settings and start \
         the host again"
    )]
    NotAllowed { destination: String, why: &'static str, entry: String },
}

/// Why an address needs an entry of its own.
const RESERVED: &str = "its address is link-local or that of a cloud's metadata service";

/// Why a private address needs an entry.
const NOT_PUBLIC: &str =
    "its address is not public, and the host does not listen on loopback addresses only, or unlisted says \"public\"";

/// Why a destination needs an entry under [`Unlisted::None`].
const NOT_LISTED: &str = "nothing in allow covers it, and unlisted says \"none\"";

impl Rules {
    /// Checks what a client gives, without asking for the addresses of a name: refuses what can be refused for certain. An
    /// address is checked as by [`Rules::check_address`].
    ///
    /// `host` is that of an address; IPv6 addresses are in brackets.
    pub fn check(&self, host: &str, port: u16) -> Result<(), Refused> {
        let host = unbracketed(host);
        if let Some(address) = literal(host) {
            return self.check_address(host, port, address);
        }
        let destination = || format!("{host}:{port}");
        let denies = |entry: &&Entry| entry.has_port(port) && entry.names(host);
        if let Some(entry) = self.deny.iter().find(denies) {
            return Err(Refused::Denied { destination: destination(), entry: entry.to_string() });
        }
        if is_localhost(host) {
            let [v4, v6] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            return self
                .check_address(host, port, v4)
                .or_else(|refused| self.check_address(host, port, v6).map_err(|_| refused));
        }
        let may_allow =
            |entry: &Entry| entry.has_port(port) && (entry.names(host) || matches!(entry.target, Target::Network(_)));
        if self.unlisted == Unlisted::None && !self.allow.iter().any(may_allow) {
            return Err(Refused::NotAllowed { destination: destination(), why: NOT_LISTED, entry: destination() });
        }
        Ok(())
    }

    /// Checks an address that is about to be connected to: that of a host of this name, or the host itself.
    pub fn check_address(&self, host: &str, port: u16, address: IpAddr) -> Result<(), Refused> {
        let host = unbracketed(host);
        let address = address.to_canonical();
        let other = other_meaning(address);
        let socket = || SocketAddr::new(address, port).to_string();
        let destination = || match literal(host) {
            Some(_) => socket(),
            None => format!("{host}:{port} ({address})"),
        };
        let denies = |entry: &&Entry| {
            let is_meant = entry.names(host) || entry.contains(address) || other.is_some_and(|it| entry.contains(it));
            entry.has_port(port) && is_meant
        };
        if let Some(entry) = self.deny.iter().find(denies) {
            return Err(Refused::Denied { destination: destination(), entry: entry.to_string() });
        }
        if self.allow.iter().any(|entry| entry.has_port(port) && entry.contains(address)) {
            return Ok(());
        }
        if is_reserved(address) || other.is_some_and(is_reserved) {
            return Err(Refused::NotAllowed { destination: destination(), why: RESERVED, entry: socket() });
        }
        if self.allow.iter().any(|entry| entry.has_port(port) && entry.names(host)) {
            return Ok(());
        }
        let why = match self.unlisted {
            Unlisted::Auto | Unlisted::All => return Ok(()),
            Unlisted::Public if is_public(address) => return Ok(()),
            Unlisted::Public => NOT_PUBLIC,
            Unlisted::None => NOT_LISTED,
        };
        let entry = if literal(host).is_some() { socket() } else { format!("{host}:{port}") };
        Err(Refused::NotAllowed { destination: destination(), why, entry })
    }
}

/// The IP address that a host is, if it is not a name.
pub fn literal(host: &str) -> Option<IpAddr> {
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inside.unwrap_or(host).parse().ok()
}

/// Whether a name means this machine to every resolver (RFC 6761, section 6.3).
pub fn is_localhost(name: &str) -> bool {
    let name = without_last_dot(name);
    let last = name.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
}

/// A name without brackets, which connectors take off before they look a name up. Addresses keep theirs.
fn unbracketed(host: &str) -> &str {
    let name = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    name.filter(|name| name.parse::<Ipv6Addr>().is_err()).unwrap_or(host)
}

/// Whether parsers of addresses read a name as an IPv4 address (WHATWG's URL standard): `127.1`, `0x7f000001`.
pub fn is_ipv4_address(name: &str) -> bool {
    matches!(Host::parse(name), Ok(Host::Ipv4(_)))
}

/// Link-local networks, and addresses at which clouds serve machines' identities: where a request of the host has the
/// rights of the host.
fn is_reserved(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            // Alibaba Cloud, Azure and Oracle Cloud; all others are link-local.
            const METADATA: [Ipv4Addr; 3] =
                [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
            address.is_link_local() || METADATA.contains(&address)
        }
        IpAddr::V6(address) => match address.segments() {
            // AWS, Google Cloud, Oracle Cloud, Scaleway; networks that translate to IPv4 addresses in several ways (RFC 8215).
            [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]
            | [0x64, 0xff9b, 1, ..]
            | [0xfd00, 0xec2, ..]
            | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
            | [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe] => true,
            _ => address.is_unicast_link_local(),
        },
    }
}

/// Where a connection to this address ends, if it is written in one of the other ways: the IPv4 address inside an IPv6 one
/// (compatible, translated, NAT64, 6to4, Teredo), and the loopback address for the unspecified one.
fn other_meaning(address: IpAddr) -> Option<IpAddr> {
    let v4 = |high: u16, low: u16| Some(IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))));
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Some(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Some(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(Ipv6Addr::LOCALHOST) => None,
        IpAddr::V6(address) => {
            let segments = address.segments();
            let [_, second, third, .., high, low] = segments;
            match segments {
                [0, 0, 0, 0, 0 | 0xffff, 0, ..] | [0x64, 0xff9b, 0 | 1, ..] => v4(high, low),
                [0x2002, ..] => v4(second, third),
                [0x2001, 0, ..] => v4(!high, !low),
                _ => None,
            }
        }
    }
}

#[cfg(test)]
mod tests;
