//! The sample of all settings says what is true.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use wasaga::config::{Config, Flags};

const SAMPLE: &str = include_str!("../../examples/wasaga.toml");

/// The sample as somebody would use it who removes the `#` before every setting.
fn uncommented() -> String {
    SAMPLE.lines().map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line)).fold(
        String::new(),
        |mut text, line| {
            text.push_str(line);
            text.push('\n');
            text
        },
    )
}

#[test]
fn as_it_is_the_sample_changes_nothing() {
    assert_eq!(toml::from_str::<Config>(SAMPLE).unwrap(), Config::default());
}

#[test]
fn the_sample_shows_every_setting_with_its_default() {
    let shown: toml::Value = toml::from_str(&uncommented()).unwrap();
    let defaults = toml::Value::try_from(Config::default()).unwrap();
    assert_eq!(shown, defaults);
}

#[test]
fn a_misspelt_setting_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wasaga.toml");
    std::fs::write(&file, "[saga]\nlive_maximum = 3\n").unwrap();
    let error = Config::load(Flags { config: Some(file.clone()), ..Flags::default() }).unwrap_err();
    assert!(error.to_string().contains(file.to_str().unwrap()));
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("live_maximum"));
}

#[test]
fn flags_override_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wasaga.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:1\"\ndata = \"elsewhere\"\n").unwrap();
    let flags = Flags { config: Some(file), listen: Some("127.0.0.1:2".into()), ..Flags::default() };
    let config = Config::load(flags).unwrap();
    assert_eq!(config.listen, "127.0.0.1:2");
    assert_eq!(config.data, std::path::PathBuf::from("elsewhere"));
}

#[test]
fn grpc_is_served_at_the_next_port_unless_told_otherwise() {
    let at = |listen: &str, grpc_listen: &str, bound: &str| {
        let config = Config { listen: listen.into(), grpc_listen: grpc_listen.into(), ..Config::default() };
        config.grpc_address(bound.parse().unwrap())
    };
    let next = |listen, bound| at(listen, "next", bound).unwrap();
    assert_eq!(next("localhost:36789", "127.0.0.1:36789"), "127.0.0.1:36790");
    assert_eq!(next("[::]:80", "[::]:80"), "[::]:81");
    assert_eq!(next("127.0.0.1:0", "127.0.0.1:40001"), "127.0.0.1:0");
    assert_eq!(at("127.0.0.1:0", "0.0.0.0:9", "127.0.0.1:40001").unwrap(), "0.0.0.0:9");
    assert_eq!(at("127.0.0.1:1", "off", "127.0.0.1:1"), None);
}
