//! What addresses say about plugins.

use serde::{Deserialize, Serialize};

use super::{component, contract};
use crate::saga::{Digest, Op};

/// Addresses that belong to a plugin although they name another host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// What the address starts with; `/try` or `/cancel` must follow.
    pub prefix: String,
    /// The plugin's name.
    pub plugin: String,
}

/// An address that belongs to plugins, but to no function of one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// No file of that name.
    #[error("there is no plugin `{name}` for {target}; there are: {known}")]
    UnknownPlugin {
        /// The address.
        target: String,
        /// Its plugin.
        name: String,
        /// The plugins that there are.
        known: String,
    },
    /// There is such a file, but it is no plugin.
    #[error("the plugin for {target} could not be loaded: {refused}")]
    Refused {
        /// The address.
        target: String,
        /// Which file, and why.
        refused: String,
    },
    /// There is no component with that digest, or none under that name.
    #[error("the plugin `{name}` for {target} is not known in that version; it is in: {known}")]
    UnknownVersion {
        /// The address.
        target: String,
        /// Its plugin.
        name: String,
        /// The versions that there are.
        known: String,
    },
    /// What follows the name is no digest.
    #[error(
        "{target} has a wrong version: after the name comes nothing, or @{VERSION} and the 64 hexadecimal digits, in lower \
         case, of the component's SHA-256"
    )]
    BadVersion {
        /// The address.
        target: String,
    },
    /// A component that a saga is pinned to is not there any more.
    #[error("the component {version} of the plugin `{name}` is lost ({fault}): put it back to {path}")]
    Lost {
        /// The plugin.
        name: String,
        /// Its digest.
        version: Digest,
        /// What happened when it was looked for.
        fault: String,
        /// Where it should be.
        path: String,
    },
    /// Neither `try` nor `cancel`.
    #[error(
        "{target} names no operation: it must end in /{} for an action, in /{} for a compensation",
        contract::function(Op::Action),
        contract::function(Op::Compensate)
    )]
    UnknownOperation {
        /// The address.
        target: String,
    },
    /// The right plugin and the wrong function.
    #[error("{target} cannot be a step's {}: use /{}", op.as_str(), contract::function(*op))]
    WrongOperation {
        /// The address.
        target: String,
        /// Where it was given.
        op: Op,
    },
}

/// What a digest is marked by.
const VERSION: &str = "sha256:";

/// What an address says about a plugin.
#[derive(Debug, PartialEq, Eq)]
pub struct Location<'a> {
    /// Its name.
    pub plugin: &'a str,
    /// `sha256:...`, if the address says so.
    pub version: Option<&'a str>,
    function: &'a str,
}

impl<'a> Location<'a> {
    /// Reads `wasm://NAME[@sha256:DIGEST]/FUNCTION`, what one of the routes gives to a plugin, and
    /// `http(s)://NAME[:PORT]/FUNCTION` where `is_owned` says that there is such a plugin. `None`: another service's.
    ///
    /// The longest prefix comes first in `routes`.
    pub fn of(target: &'a str, routes: &'a [Route], is_owned: impl Fn(&str) -> bool) -> Option<Self> {
        if let Some(path) = target.strip_prefix("wasm://") {
            let (plugin, function) = path.split_once('/').unwrap_or((path, ""));
            let (plugin, version) = plugin.split_once('@').map_or((plugin, None), |(name, it)| (name, Some(it)));
            return Some(Self { plugin, version, function });
        }
        let address = target.split(['?', '#']).next().unwrap_or_default();
        for Route { prefix, plugin } in routes {
            let rest = address.strip_prefix(prefix.strip_suffix('/').unwrap_or(prefix));
            if let Some(function) = rest.and_then(|rest| rest.strip_prefix('/')) {
                return Some(Self { plugin, version: None, function });
            }
        }
        let address = address.strip_prefix("http://").or_else(|| address.strip_prefix("https://"))?;
        let (authority, function) = address.split_once('/')?;
        // With credentials in front of it, it is not the name that it begins with.
        let plugin = authority.split(':').next().filter(|_| !authority.contains('@'))?;
        (component::is_name(plugin) && contract::operation(function).is_some() && is_owned(plugin)).then_some(Self {
            plugin,
            version: None,
            function,
        })
    }

    /// The digest that the address names, if it names one.
    pub fn digest(&self, target: &str) -> Result<Option<Digest>, Unresolved> {
        let Some(version) = self.version else { return Ok(None) };
        let digest = version.strip_prefix(VERSION).and_then(|digest| digest.parse().ok());
        digest.map(Some).ok_or_else(|| Unresolved::BadVersion { target: target.to_owned() })
    }

    /// Whether the address can be a step's `op`.
    pub fn check(&self, target: &str, op: Op) -> Result<(), Unresolved> {
        match contract::operation(self.function) {
            None => Err(Unresolved::UnknownOperation { target: target.to_owned() }),
            Some(named) if named != op => Err(Unresolved::WrongOperation { target: target.to_owned(), op }),
            Some(_) => Ok(()),
        }
    }
}

/// A digest as addresses have it.
pub fn version(digest: Digest) -> String {
    format!("{VERSION}{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(target: &str) -> Option<(&str, Option<&str>, &str)> {
        let location = Location::of(target, &[], |name| name == "a")?;
        Some((location.plugin, location.version, location.function))
    }

    #[test]
    fn a_name_may_be_followed_by_a_version() {
        assert_eq!(of("wasm://a/try"), Some(("a", None, "try")));
        assert_eq!(of("wasm://a@sha256:12/try"), Some(("a", Some("sha256:12"), "try")));
        let digest = Digest([0xab; 32]);
        let target = format!("wasm://a@{}/try", version(digest));
        let location = Location::of(&target, &[], |_| false).unwrap();
        assert_eq!((location.digest(&target), location.check(&target, Op::Action)), (Ok(Some(digest)), Ok(())));
        for wrong in ["", "sha256:", "sha256:12", "1", &format!("sha256:{}", "AB".repeat(32))] {
            let target = format!("wasm://a@{wrong}/try");
            let location = Location::of(&target, &[], |_| false).unwrap();
            assert_eq!(location.digest(&target), Err(Unresolved::BadVersion { target: target.clone() }));
        }
    }

    #[test]
    fn only_the_host_of_an_address_is_a_name() {
        assert_eq!(of("http://a/try"), Some(("a", None, "try")));
        assert_eq!(of("https://a:443/cancel?x#y"), Some(("a", None, "cancel")));
        for other in
            ["http://a:secret@b/try", "http://a@b/try", "http://b/try", "http://a/pay", "http://a", "a/try", ""]
        {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
