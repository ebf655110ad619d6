//! Addresses of plugins, and their parts.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{
    plugin::{contract, name::is_name},
    saga::{Digest, Op},
};

/// A setting: addresses that belong to a plugin although they name another host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The beginning of the address; `/try` or `/cancel` must follow.
    pub prefix: String,
    /// The plugin's name.
    pub plugin: String,
}

/// Why an address that belongs to plugins means no function of one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("there is no plugin `{name}` for {target}; there are: {known}")]
    UnknownPlugin { target: String, name: String, known: String },
    /// The plugin folder has such a file, but it is no plugin.
    #[error("the plugin for {target} could not be loaded: {refused}")]
    Refused { target: String, refused: String },
    #[error("the plugin `{name}` for {target} is not known in that version; it is in: {known}")]
    UnknownVersion { target: String, name: String, known: String },
    #[error(
        "{target} has a wrong version: after the name comes nothing, or @{VERSION} and the 64 hexadecimal digits, in lower \
         case, of the component's SHA-256"
    )]
    BadVersion { target: String },
    /// A saga is pinned to a component that cannot be loaded.
    #[error("the component {version} of the plugin `{name}` is lost ({fault}): put it back to {path}")]
    Lost { name: String, version: Digest, fault: String, path: String },
    #[error(
        "{target} names no operation: it must end in /{} for an action, in /{} for a compensation",
        contract::function(Op::Action),
        contract::function(Op::Compensate)
    )]
    UnknownOperation { target: String },
    #[error("{target} cannot be a step's {}: use /{}", op.as_str(), contract::function(*op))]
    WrongOperation { target: String, op: Op },
}

/// The prefix of a digest in an address.
const VERSION: &str = "sha256:";

/// The parts of an address of a plugin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Location<'a> {
    /// In lower case, as names of plugins are; names of hosts ignore case.
    pub plugin: Cow<'a, str>,
    /// `sha256:...`, if the address has a version.
    pub version: Option<&'a str>,
    function: &'a str,
}

impl<'a> Location<'a> {
    /// Reads `wasm://NAME[@sha256:DIGEST]/FUNCTION`, an address with the prefix of a route, or
    /// `http(s)://NAME[:PORT]/FUNCTION` if `is_owned` says that NAME is a plugin. `None`: the address of a service.
    ///
    /// `routes` must be sorted by length of prefix, the longest first.
    pub fn of(target: &'a str, routes: &'a [Route], is_owned: impl Fn(&str) -> bool) -> Option<Self> {
        if let Some(path) = without_prefix(target, "wasm://") {
            let (plugin, function) = path.split_once('/').unwrap_or((path, ""));
            let (plugin, version) = plugin.split_once('@').map_or((plugin, None), |(name, it)| (name, Some(it)));
            return Some(Self { plugin: in_lower_case(plugin), version, function });
        }
        let address = target.split(['?', '#']).next().unwrap_or_default();
        for Route { prefix, plugin } in routes {
            let rest = without_prefix(address, prefix.strip_suffix('/').unwrap_or(prefix));
            if let Some(function) = rest.and_then(|rest| rest.strip_prefix('/')) {
                return Some(Self { plugin: plugin.into(), version: None, function });
            }
        }
        let address = without_prefix(address, "http://").or_else(|| without_prefix(address, "https://"))?;
        let (authority, function) = address.split_once('/')?;
        // If credentials precede the host, the text before ':' is not its name.
        let plugin = authority.split(':').next().filter(|_| !authority.contains('@')).map(in_lower_case)?;
        (is_name(&plugin) && contract::operation(function).is_some() && is_owned(&plugin)).then_some(Self {
            plugin,
            version: None,
            function,
        })
    }

    /// The digest in the address, if it has one.
    pub fn digest(&self, target: &str) -> Result<Option<Digest>, Error> {
        let Some(version) = self.version else { return Ok(None) };
        let digest = version.strip_prefix(VERSION).and_then(|digest| digest.parse().ok());
        digest.map(Some).ok_or_else(|| Error::BadVersion { target: target.to_owned() })
    }

    /// Checks that the address can be a step's `op`.
    pub fn check(&self, target: &str, op: Op) -> Result<(), Error> {
        match contract::operation(self.function) {
            None => Err(Error::UnknownOperation { target: target.to_owned() }),
            Some(named) if named != op => Err(Error::WrongOperation { target: target.to_owned(), op }),
            Some(_) => Ok(()),
        }
    }
}

/// What follows a prefix of an address. Case is ignored in its scheme and its host (RFC 9110, section 4.2.3), not in its
/// path.
fn without_prefix<'a>(address: &'a str, prefix: &str) -> Option<&'a str> {
    let host = prefix.find("://").map_or(0, |at| at + "://".len());
    let path = prefix.get(host..)?.find('/').map_or(prefix.len(), |at| host + at);
    let same_host = address.get(..path)?.eq_ignore_ascii_case(prefix.get(..path)?);
    address.get(path..)?.strip_prefix(prefix.get(path..)?).filter(|_| same_host)
}

fn in_lower_case(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

/// A digest as a version in an address.
pub fn version(digest: Digest) -> String {
    format!("{VERSION}{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(target: &str) -> Option<(Cow<'_, str>, Option<&str>, &str)> {
        let location = Location::of(target, &[], |name| name == "a")?;
        Some((location.plugin, location.version, location.function))
    }

    #[test]
    fn names_of_hosts_ignore_case_and_paths_do_not() {
        for target in ["http://A:8081/try", "HTTP://a/try", "hTTps://A/try", "wasm://A/try", "WASM://a/try"] {
            assert_eq!(of(target), Some(("a".into(), None, "try")), "{target}");
        }
        assert_eq!(of("http://a/Try"), None);
        for (prefix, target, is_owned) in [
            ("https://Pay.example/v1", "https://pay.EXAMPLE/v1/try", true),
            ("https://pay.example/v1/", "HTTPS://pay.example/v1/try", true),
            ("https://pay.example/v1", "https://pay.example/V1/try", false),
            ("https://pay.example", "https://PAY.example/try", true),
            ("https://pay.example", "https://pay.example.org/try", false),
            ("https://p\u{e9}y", "https://p\u{e9}y/try", true),
            ("https://pay", "https://pa\u{e9}/try", false),
        ] {
            let routes = [Route { prefix: prefix.into(), plugin: "a".into() }];
            let found = Location::of(target, &routes, |_| false);
            assert_eq!(found.is_some(), is_owned, "{prefix} {target}");
        }
    }

    #[test]
    fn a_name_may_be_followed_by_a_version() {
        assert_eq!(of("wasm://a/try"), Some(("a".into(), None, "try")));
        assert_eq!(of("wasm://a@sha256:12/try"), Some(("a".into(), Some("sha256:12"), "try")));
        let digest = Digest([0xab; 32]);
        let target = format!("wasm://a@{}/try", version(digest));
        let location = Location::of(&target, &[], |_| false).unwrap();
        assert_eq!((location.digest(&target), location.check(&target, Op::Action)), (Ok(Some(digest)), Ok(())));
        for wrong in ["", "sha256:", "sha256:12", "1", &format!("sha256:{}", "AB".repeat(32))] {
            let target = format!("wasm://a@{wrong}/try");
            let location = Location::of(&target, &[], |_| false).unwrap();
            assert_eq!(location.digest(&target), Err(Error::BadVersion { target: target.clone() }));
        }
    }

    #[test]
    fn only_the_host_of_an_address_is_a_name() {
        assert_eq!(of("http://a/try"), Some(("a".into(), None, "try")));
        assert_eq!(of("https://a:443/cancel?x#y"), Some(("a".into(), None, "cancel")));
        for other in
            ["http://a:secret@b/try", "http://a@b/try", "http://b/try", "http://a/pay", "http://a", "a/try", ""]
        {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
