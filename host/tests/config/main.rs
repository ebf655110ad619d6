//! The sample of all settings says what is true.

use wasaga::config::{Config, Flags};

const SAMPLE: &str = include_str!("../../../examples/wasaga.toml");

/// The sample with the `#` before every setting removed.
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

/// The example of grants in the sample, copied as it is.
fn example_of_grants() -> String {
    let lines = SAMPLE.lines().filter_map(|line| line.strip_prefix("#     "));
    lines.collect::<Vec<_>>().join("\n")
}

/// What is wrong with these settings, all causes included.
fn refused(settings: &str) -> String {
    let error = toml::from_str::<Config>(settings).unwrap().plugin_settings().unwrap_err();
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[test]
fn the_example_of_grants_is_one() {
    let example = example_of_grants();
    let config: Config = toml::from_str(&example).unwrap();
    let payments = &config.plugins.grants["payments"];
    assert_eq!(payments.config["currency"], "EUR");
    assert_eq!((payments.secrets.len(), payments.shared.len(), payments.http.len()), (2, 1, 2));
    let error = refused(&example);
    assert!(error.contains("[plugins.grants.payments] secrets \"api-key\"") && error.contains("is not set"), "{error}");
}

#[test]
fn a_plugin_gets_what_the_settings_say() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "hunter2\n").unwrap();
    let settings = format!(
        "[plugins.grants.a]
        config = {{ b = \"plain\" }}
        secrets = {{ c = {{ file = {file:?} }}, a = {{ env = \"CARGO_MANIFEST_DIR\" }} }}
        shared = [\"ledger\"]
        http = [{{ url = \"https://api.example.com/v1\", methods = [\"GET\"] }}]"
    );
    let config: Config = toml::from_str(&settings).unwrap();
    let settings = config.plugin_settings().unwrap();
    let grants = &settings.grants["a"];
    let read: Vec<_> = grants.config().collect();
    assert_eq!(read, [("b", "plain"), ("a", env!("CARGO_MANIFEST_DIR")), ("c", "hunter2")]);
    assert!(grants.shared.contains("ledger"));
    assert_eq!(grants.http_rules()[0].to_string(), "https://api.example.com/v1 (GET)");
    // Neither the settings nor what became of them give a secret away.
    for shown in [format!("{config:?}"), format!("{settings:?}"), toml::to_string(&config).unwrap()] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn grants_that_cannot_be_given_are_errors_that_name_the_place_and_the_mend() {
    let long = "x".repeat(70_000);
    for (entry, words) in [
        ("secrets = { k = { env = \"WASAGA_NO_SUCH\" } }", &["secrets \"k\"", "WASAGA_NO_SUCH", "set it"][..]),
        ("secrets = { k = { file = \"/no/such\" } }", &["secrets \"k\"", "/no/such", "readable"]),
        ("secrets = { k = { file = \"/\" } }", &["secrets \"k\"", "not a regular file"]),
        ("config = { k = \"v\" }\nsecrets = { k = { env = \"PATH\" } }", &["secrets \"k\"", "keep one"]),
        (&format!("config = {{ k = \"{long}\" }}"), &["config \"k\"", "70000", "65536"]),
        ("config = { \"\" = \"v\" }", &["config \"\"", "key"]),
        ("shared = [\"\"]", &["shared \"\"", "default"]),
        ("http = [{ url = \"https://a.example/\", methods = [] }]", &["http, entry 1", "a.example", "methods ="]),
        ("http = [{ url = \"https://a.example/\", methods = [\"get\"] }]", &["http, entry 1", "\"get\"", "upper case"]),
        ("http = [{ url = \"https://u:p@a.example/\", methods = [\"GET\"] }]", &["http, entry 1", "user"]),
        ("http = [{ url = \"https://a.example/?q\", methods = [\"GET\"] }]", &["http, entry 1", "query"]),
    ] {
        let error = refused(&format!("[plugins.grants.a]\n{entry}"));
        for word in [&["[plugins.grants.a]"], words].concat() {
            assert!(error.contains(word), "{entry}: no {word:?} in {error:?}");
        }
    }
    let error = refused("[plugins.grants.\"A/b\"]");
    assert!(error.contains("A/b") && error.contains("no plugin can have this name"), "{error}");
}

#[test]
fn a_misspelt_grant_is_an_error_that_names_it() {
    for (entry, word) in [
        ("confg = {}", "confg"),
        ("secrets = { k = \"plain\" }", "plain"),
        ("secrets = { k = { vault = \"x\" } }", "vault"),
        ("secrets = { k = { env = \"A\", file = \"b\" } }", "secrets"),
        ("http = [{ url = \"https://a.example/\" }]", "methods"),
        ("http = [{ url = \"https://a.example/\", methods = [\"GET\"], privat = true }]", "privat"),
    ] {
        let error = toml::from_str::<Config>(&format!("[plugins.grants.a]\n{entry}")).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn names_and_origins_that_are_none_are_errors_that_show_how_to_write_them() {
    for (entry, words) in [
        ("host_names = [\"http://wasaga\"]", "write the name alone, as in \"wasaga.example\""),
        ("host_names = [\"127.0.0.1\"]", "always passes: leave it out"),
        ("origins = [\"console.example\"]", "as in \"https://console.example:8443\""),
        ("connections.proxies = [\"ingress\"]", "\"10.0.0.0/8\""),
    ] {
        let error = toml::from_str::<Config>(&format!("[api]\n{entry}")).unwrap_err().to_string();
        assert!(error.contains(words), "{entry}: {error}");
    }
    let names = |flag: &str| <Flags as clap::Parser>::try_parse_from(["wasaga", "--host-names", flag]);
    let config = Config::load(names("wasaga,wasaga.example").unwrap()).unwrap();
    assert_eq!(config.api.host_names, ["wasaga", "wasaga.example"].map(|name| name.parse().unwrap()));
    assert!(names("http://wasaga").unwrap_err().to_string().contains("write the name alone"));
}
