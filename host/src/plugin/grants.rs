//! What the host's settings grant to each plugin: `[plugins.grants.NAME]`.
//!
//! A plugin without an entry is granted nothing. Entries are checked, and secrets fetched, when the host starts: a
//! host that runs has all that its settings promise.
//!
//! Secrets stay out of what the host writes and shows. Texts of a guest pass [`Grants::shown`]: its log lines, its
//! reasons and errors, and what it asks to let out. Its output is not redacted, since later steps rely on it; an output
//! that holds a secret ([`Grants::revealed_by`]) fails the attempt instead of being stored and shown.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    Registry, component, data,
    http::rule::{self, Allowed, Rule},
    redact::{self, Case},
    secret::{Missing, Secret, Source, VALUE_BYTES_MAX},
};

/// Bytes of a key of `config` or `secrets`.
pub const KEY_BYTES_MAX: usize = 256;

/// One entry, as it is written in the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What the plugin reads by `wasi:config/store`.
    pub config: BTreeMap<String, String>,
    /// The same, for what nobody else may read.
    pub secrets: BTreeMap<String, Source>,
    /// Buckets that it shares with the other plugins whose entries name them.
    pub shared: BTreeSet<String>,
    /// What it may ask for by `wasi:http/outgoing-handler`.
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

/// Why an entry cannot be used. Names the place in the settings.
#[derive(Debug, thiserror::Error)]
#[error("[plugins.grants.{plugin}] {place}")]
pub struct Error {
    /// Whose entry.
    pub plugin: String,
    /// Which part of it.
    pub place: String,
    /// What is wrong there.
    #[source]
    pub fault: Fault,
}

/// What is wrong with a part of an entry, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// There can be no such plugin.
    #[error("no plugin can have this name: write that of its file, without .wasm")]
    Plugin,
    /// Nobody could ask for it.
    #[error("a key has from 1 to {KEY_BYTES_MAX} bytes and no control characters")]
    Key,
    /// The plugin could not tell them apart.
    #[error("the key is in config and in secrets: keep one of them")]
    KeyTwice,
    /// Larger than a setting should be.
    #[error("the value has {0} bytes, the limit is {VALUE_BYTES_MAX}")]
    Value(usize),
    /// There can be no such bucket.
    #[error(
        "a bucket's name has from 1 to {} bytes and no control characters; the one without a name is \"default\"",
        data::BUCKET_BYTES_MAX
    )]
    Bucket,
    /// The secret cannot be had.
    #[error(transparent)]
    Secret(#[from] Missing),
    /// The address cannot be allowed.
    #[error(transparent)]
    Http(#[from] rule::Fault),
}

impl Grants {
    /// Checks an entry and fetches its secrets.
    pub fn new(plugin: &str, settings: &Settings) -> Result<Self, Error> {
        let at = |place: String| move |fault| Error { plugin: plugin.to_owned(), place, fault };
        let Settings { config, secrets, shared, http } = settings;
        if component::name(Path::new(&format!("{plugin}.wasm"))).ok() != Some(plugin) {
            return Err(at("the name".to_owned())(Fault::Plugin));
        }
        for (key, value) in config {
            check_config(key, value).map_err(at(format!("config {key:?}")))?;
        }
        for bucket in shared {
            check_name(bucket, data::BUCKET_BYTES_MAX, Fault::Bucket).map_err(at(format!("shared {bucket:?}")))?;
        }
        let fetch = |(key, source): (&String, &Source)| {
            let secret = fetch(key, source, config).map_err(at(format!("secrets {key:?}")))?;
            Ok((key.clone(), secret))
        };
        let check =
            |(at_, allowed)| Rule::new(allowed).map_err(|fault| at(format!("http, entry {}", at_ + 1))(fault.into()));
        Ok(Self {
            shared: shared.clone(),
            config: config.clone(),
            secrets: secrets.iter().map(fetch).collect::<Result<_, _>>()?,
            http: http.iter().enumerate().map(check).collect::<Result<_, _>>()?,
        })
    }

    /// All that the plugin may read by `wasi:config/store`, as key and value, secrets included.
    pub fn config(&self) -> impl Iterator<Item = (&str, &str)> {
        let plain = self.config.iter().map(|(key, value)| (&**key, &**value));
        plain.chain(self.secrets().map(|(key, secret)| (key, secret.reveal())))
    }

    /// What it may ask for.
    pub fn http_rules(&self) -> &[Rule] {
        &self.http
    }

    /// A text of the guest as it may be shown: without its secrets, each of which stands there as `[secret KEY]`, and cut
    /// after about `bytes_max`. Secrets with less than [`REDACTED_BYTES_MIN`](super::secret::REDACTED_BYTES_MIN) bytes are
    /// not looked for. To be called before the text is cut or escaped.
    pub fn shown(&self, text: &str, bytes_max: usize) -> String {
        redact::redact(self.secrets(), text, bytes_max, Case::Matters)
    }

    /// The same for a text with a host's name in it.
    pub fn shown_with_host(&self, text: &str, bytes_max: usize) -> String {
        redact::redact(self.secrets(), text, bytes_max, Case::IsIgnored)
    }

    /// The key of a secret that the text holds.
    pub fn revealed_by(&self, text: &str) -> Option<&str> {
        redact::found_in(self.secrets(), text)
    }

    pub(super) fn secrets(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.secrets.iter().map(|(key, secret)| (&**key, secret))
    }
}

impl Registry {
    /// A part of the plugins' data as people may see it: without any plugin's secrets, since data may be shared and copied.
    pub fn shown<'a>(&self, data: &'a [u8]) -> Cow<'a, [u8]> {
        let secrets = || self.runtime.all_grants().flat_map(Grants::secrets);
        if secrets().next().is_none() {
            return data.into();
        }
        // A secret is text, so no piece that is none can be a part of one.
        let mut shown = Vec::with_capacity(data.len());
        for chunk in data.utf8_chunks() {
            shown.extend(redact::redact(secrets(), chunk.valid(), usize::MAX, Case::Matters).into_bytes());
            shown.extend(chunk.invalid());
        }
        shown.into()
    }
}

fn check_config(key: &str, value: &str) -> Result<(), Fault> {
    check_name(key, KEY_BYTES_MAX, Fault::Key)?;
    if value.len() > VALUE_BYTES_MAX { Err(Fault::Value(value.len())) } else { Ok(()) }
}

fn fetch(key: &str, source: &Source, config: &BTreeMap<String, String>) -> Result<Secret, Fault> {
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
