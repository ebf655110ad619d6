//! Names of the host, and origins of pages, as the settings list them.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::api::authority::{Authority, Host};

/// A name by which clients call the host, or `*` for any.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// The origin of a web page: scheme, host, and port unless it is the scheme's.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin(String);

/// Why an entry is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// Of `host_names`.
    #[error(
        "{0:?} is no name: write the name alone, as in \"wasaga.example\", in ASCII and without scheme, port and path"
    )]
    HostName(String),
    /// An address of IP, or `localhost`.
    #[error("{0:?} always passes: leave it out of host_names")]
    Needless(String),
    /// Of `origins`.
    #[error(
        "{0:?} is no origin: write scheme, host, and port unless it is the scheme's, as in \"https://console.example:8443\", \
         without a path"
    )]
    Origin(String),
}

impl HostName {
    /// Whether a client means this one, whatever its case.
    pub(super) fn is(&self, name: &str) -> bool {
        self.0 == "*" || self.0.eq_ignore_ascii_case(name)
    }

    /// The name in an address to listen on, if it is one.
    #[must_use]
    pub fn of_address(address: &str) -> Option<Self> {
        match Authority::read(address)?.host {
            Host::Name(name) => Some(Self(name.to_owned())),
            Host::Address(_) | Host::Localhost => None,
        }
    }
}

impl FromStr for HostName {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        match Authority::read(text) {
            _ if text == "*" => Ok(Self(text.to_owned())),
            Some(Authority { host: Host::Name(name), port: None }) if !text.ends_with(':') => Ok(Self(name.to_owned())),
            Some(Authority { host: Host::Address(_) | Host::Localhost, port: None }) => {
                Err(SettingError::Needless(text.to_owned()))
            }
            _ => Err(SettingError::HostName(text.to_owned())),
        }
    }
}

impl Origin {
    /// Whether it is this one, as browsers write it in `Origin`.
    pub(super) fn is(&self, origin: &[u8]) -> bool {
        self.0.as_bytes().eq_ignore_ascii_case(origin)
    }
}

impl FromStr for Origin {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        let is_scheme =
            |scheme: &str| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        match text.split_once("://") {
            Some((scheme, rest)) if is_scheme(scheme) && !rest.ends_with(':') && Authority::read(rest).is_some() => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(SettingError::Origin(text.to_owned())),
        }
    }
}

impl TryFrom<String> for HostName {
    type Error = SettingError;

    fn try_from(text: String) -> Result<Self, SettingError> {
        text.parse()
    }
}

impl TryFrom<String> for Origin {
    type Error = SettingError;

    fn try_from(text: String) -> Result<Self, SettingError> {
        text.parse()
    }
}

impl From<HostName> for String {
    fn from(HostName(name): HostName) -> Self {
        name
    }
}

impl From<Origin> for String {
    fn from(Origin(origin): Origin) -> Self {
        origin
    }
}
