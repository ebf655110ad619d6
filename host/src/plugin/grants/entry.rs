//! One entry of the host's settings, `[plugins.grants.NAME]`.
//!
//! A plugin without an entry is granted nothing. Entries are checked and secrets are read when the host starts, so a
//! running host has everything that its settings name.
//!
//! Secrets stay out of everything that the host writes and shows. Texts of a guest pass [`Grants::shown`]: its log lines,
//! its reasons and errors, and the names of its requests. Its output is not redacted, since later steps rely on it; an
//! output that holds a secret ([`Grants::revealed_by`]) fails the attempt, so it is neither stored nor shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    rule::{self, Allowed, Rule},
    secret::{Missing, Secret, Source, VALUE_BYTES_MAX},
};
use crate::{
    plugin::{keyvalue_keys::BUCKET_BYTES_MAX, name},
    redact::{self, Case, Mark, Trace},
};

/// Bytes of a key of `config` or `secrets`.
pub const KEY_BYTES_MAX: usize = 256;

/// The header of a plugin's entry, as TOML has it: a name with a dot is quoted.
pub fn header(plugin: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !plugin.is_empty() && plugin.chars().all(is_bare) {
        format!("[plugins.grants.{plugin}]")
    } else {
        format!("[plugins.grants.{plugin:?}]")
    }
}

/// One entry, as it is written in the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Read by `wasi:config/store`.
    pub config: BTreeMap<String, String>,
    /// Read by `wasi:config/store` too, and kept out of everything that people see.
    pub secrets: BTreeMap<String, Source>,
    /// Buckets that it shares with the other plugins whose entries name them.
    pub shared: BTreeSet<String>,
    /// Requests that it may make by `wasi:http/outgoing-handler`.
    pub http: Vec<Allowed>,
}

/// One entry, checked.
#[derive(Debug, Default)]
pub struct Grants {
    /// Buckets that it shares with the other plugins whose entries name them.
    pub shared: BTreeSet<String>,
    config: BTreeMap<String, String>,
    secrets: BTreeMap<String, Secret>,
    http: Vec<Rule>,
}

/// An entry that cannot be used, and its place in the settings.
#[derive(Debug, thiserror::Error)]
#[error("{} {place}", header(plugin))]
pub struct Error {
    pub plugin: String,
    pub place: String,
    #[source]
    pub fault: Fault,
}

/// A wrong part of an entry, and its mend.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("no plugin can have this name: write that of its file, without .wasm")]
    Plugin,
    #[error("a key has from 1 to {KEY_BYTES_MAX} bytes and no control characters")]
    Key,
    #[error("the key is in config and in secrets: keep one of them")]
    KeyTwice,
    #[error("the value has {0} bytes, the limit is {VALUE_BYTES_MAX}")]
    Value(usize),
    #[error(
        "a bucket's name has from 1 to {BUCKET_BYTES_MAX} bytes and no control characters; the one without a name is \
         \"default\""
    )]
    Bucket,
    #[error(transparent)]
    Secret(#[from] Missing),
    #[error(transparent)]
    Http(#[from] rule::Fault),
}

impl Grants {
    /// Checks an entry and reads its secrets.
    pub fn new(plugin: &str, settings: &Settings) -> Result<Self, Error> {
        let at = |place: String| move |fault| Error { plugin: plugin.to_owned(), place, fault };
        let Settings { config, secrets, shared, http } = settings;
        if name::name(Path::new(&format!("{plugin}.wasm"))).ok() != Some(plugin) {
            return Err(at("the name".to_owned())(Fault::Plugin));
        }
        for (key, value) in config {
            check_config(key, value).map_err(at(format!("config {key:?}")))?;
        }
        for bucket in shared {
            check_name(bucket, BUCKET_BYTES_MAX, Fault::Bucket).map_err(at(format!("shared {bucket:?}")))?;
        }
        let read = |(key, source): (&String, &Source)| {
            let secret = read_secret(key, source, config).map_err(at(format!("secrets {key:?}")))?;
            Ok((key.clone(), secret))
        };
        let check = |(index, allowed)| {
            Rule::new(allowed).map_err(|fault| at(format!("http, entry {}", index + 1))(fault.into()))
        };
        Ok(Self {
            shared: shared.clone(),
            config: config.clone(),
            secrets: secrets.iter().map(read).collect::<Result<_, _>>()?,
            http: http.iter().enumerate().map(check).collect::<Result<_, _>>()?,
        })
    }

    /// Keys and values that the plugin reads by `wasi:config/store`, secrets included.
    pub fn config(&self) -> impl Iterator<Item = (&str, &str)> {
        let plain = self.config.iter().map(|(key, value)| (&**key, &**value));
        plain.chain(self.secrets().map(|(key, secret)| (key, secret.reveal())))
    }

    /// The requests that it may make.
    pub fn http_rules(&self) -> &[Rule] {
        &self.http
    }

    /// A text of the guest as people may see it: each secret replaced by `[secret KEY]`, and cut after about `bytes_max`.
    /// Secrets shorter than [`REDACTED_BYTES_MIN`](crate::redact::REDACTED_BYTES_MIN) bytes are not replaced. Call it
    /// before the text is cut or escaped.
    pub fn shown(&self, text: &str, bytes_max: usize) -> String {
        redact::redact(self.traces(), text, bytes_max, Case::Matters)
    }

    /// As [`Grants::shown`], for a text with the name of a host in it: secrets are found in any case of letters.
    pub fn shown_with_host(&self, text: &str, bytes_max: usize) -> String {
        redact::redact(self.traces(), text, bytes_max, Case::IsIgnored)
    }

    /// The key of a secret that the text holds, if it holds one.
    pub fn revealed_by(&self, text: &str) -> Option<&str> {
        match redact::found_in(self.traces(), text)? {
            Mark::Secret(name) => Some(name),
            Mark::Hidden => None,
        }
    }

    /// The texts that reveal its secrets.
    pub(crate) fn traces(&self) -> impl Iterator<Item = Trace<'_>> {
        self.secrets().flat_map(|(key, secret)| secret.traces().map(move |trace| (Mark::Secret(key), trace)))
    }

    /// All secrets with their keys.
    fn secrets(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.secrets.iter().map(|(key, secret)| (&**key, secret))
    }
}

fn check_config(key: &str, value: &str) -> Result<(), Fault> {
    check_name(key, KEY_BYTES_MAX, Fault::Key)?;
    if value.len() > VALUE_BYTES_MAX { Err(Fault::Value(value.len())) } else { Ok(()) }
}

fn read_secret(key: &str, source: &Source, config: &BTreeMap<String, String>) -> Result<Secret, Fault> {
    check_name(key, KEY_BYTES_MAX, Fault::Key)?;
    if config.contains_key(key) {
        return Err(Fault::KeyTwice);
    }
    Ok(Secret::read(source)?)
}

fn check_name(name: &str, bytes_max: usize, fault: Fault) -> Result<(), Fault> {
    let fits = (1..=bytes_max).contains(&name.len()) && !name.contains(char::is_control);
    if fits { Ok(()) } else { Err(fault) }
}
