//! Where HTTP branches may go: what is refused where an address is given, and what on the way.

use wasaga::egress::rules::Unlisted;

use super::*;

fn settings(deny: &[&str], allow: &[&str], unlisted: Unlisted) -> Settings {
    let entries = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Settings { deny: entries(deny), allow: entries(allow), unlisted, ..Settings::default() }
}

fn refusal(settings: &Settings, url: &str) -> Option<String> {
    match Client::new(settings).unwrap().branch(url) {
        Ok(_) => None,
        Err(Error::Destination(why)) => Some(why),
        Err(error) => panic!("{url}: {error}"),
    }
}

#[test]
fn every_spelling_of_an_address_is_refused_where_it_is_given() {
    let public = settings(&[], &[], Unlisted::Public);
    for url in [
        "http://127.0.0.1:8500/x",
        "http://0x7f000001:8500/x",
        "http://2130706433:8500",
        "http://0177.0.0.1:8500/x",
        "http://127.1:8500/x",
        "http://user:secret@127.0.0.1:8500/x",
        "http://\u{ff11}27.0.0.1:8500/x",
    ] {
        let why = refusal(&public, url).expect(url);
        assert!(
            why.contains(r#"add "127.0.0.1:8500" to allow under [http]"#) && !why.contains("secret"),
            "{url}: {why}"
        );
        assert_eq!(refusal(&settings(&[], &["127.0.0.1:8500"], Unlisted::Public), url), None, "{url}");
    }
    for (url, entry) in [
        ("http://0:8500/x", "0.0.0.0:8500"),
        ("https://[::ffff:127.0.0.1]/x", "127.0.0.1:443"),
        ("http://[::1]/x", "[::1]:80"),
        ("http://LOCALHOST/x", "localhost:80"),
        ("http://10.1.2.3/x", "10.1.2.3:80"),
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254:80"),
        ("http://[::ffff:a9fe:a9fe]/", "169.254.169.254:80"),
        ("http://[fd00:ec2::254]/", "[fd00:ec2::254]:80"),
    ] {
        let why = refusal(&public, url).expect(url);
        assert!(why.contains(&format!("add {entry:?} to allow under [http]")), "{url}: {why}");
    }
    assert_eq!(refusal(&public, "http://1.1.1.1/x"), None);
    assert_eq!(refusal(&public, "http://api.example.com/x"), None);
}

#[test]
fn by_default_only_metadata_services_are_refused() {
    for url in ["http://127.0.0.1:8500", "http://localhost", "http://10.1.2.3", "http://[fd00::1]", "http://service"] {
        assert_eq!(refusal(&Settings::default(), url), None, "{url}");
    }
    for url in ["http://169.254.169.254", "http://[fe80::1]", "http://100.100.100.200"] {
        assert!(refusal(&Settings::default(), url).is_some(), "{url}");
    }
}

#[test]
fn names_are_compared_without_case() {
    let denied = settings(&["Pay.Example", "*.Internal:8080"], &[], Unlisted::All);
    for (url, is_refused) in [
        ("http://PAY.example/x", true),
        ("http://pay.example./x", true),
        ("http://pay.example.org/x", false),
        ("http://A.internal:8080/x", true),
        ("http://a.internal/x", false),
    ] {
        assert_eq!(refusal(&denied, url).is_some(), is_refused, "{url}");
    }
    let why = refusal(&denied, "http://pay.example/x").unwrap();
    assert!(why.contains(r#""pay.example" in deny under [http]"#), "{why}");
    let listed = settings(&[], &["Pay.Example"], Unlisted::None);
    assert_eq!(refusal(&listed, "http://pay.EXAMPLE/x"), None);
    let why = refusal(&listed, "http://other.example/x").unwrap();
    assert!(why.contains(r#"add "other.example:80" to allow"#), "{why}");
}

#[test]
fn services_over_http_can_be_turned_off() {
    let client = Client::new(&Settings { http_branches: false, ..Settings::default() }).unwrap();
    let Err(error @ Error::Off) = client.branch("http://127.0.0.1/x") else { panic!("not refused") };
    assert!(error.to_string().contains("http_branches = true under [http]"), "{error}");
}

/// A service that redirects everything to this address.
async fn redirecting(code: u16, location: String) -> Participant {
    Participant::start(move |_| (status(code), [("location", &location)]).into_response()).await
}

#[tokio::test]
async fn each_redirect_is_checked() {
    for name in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"] {
        let target = Participant::start(|_| success()).await;
        let port = target.url.rsplit(':').next().unwrap().to_owned();
        for code in [302, 307] {
            let to_target = redirecting(code, format!("http://user:secret@{name}:{port}/secret")).await;
            let service = redirecting(code, to_target.url.clone()).await;
            let client =
                Client::new(&settings(&[&format!("127.0.0.0/8:{port}"), &format!("[::1]:{port}")], &[], Unlisted::All));
            let outcome = client.unwrap().branch(&service.url).unwrap().call(&call("1"), &branch_host()).await;
            let error = error_of(outcome);
            assert!(error.contains("redirect") && error.contains("in deny under [http]"), "{name} {code}: {error}");
            assert!(!error.contains("secret"), "{error}");
            assert_eq!((service.seen().len(), to_target.seen().len(), target.seen().len()), (1, 1, 0));
        }
    }
    let service = redirecting(302, "http://169.254.169.254/latest/meta-data".into()).await;
    let error = error_of(run(&service.url, &call("1")).await);
    assert!(error.contains(r#"add "169.254.169.254:80" to allow under [http]"#), "{error}");
}

#[tokio::test]
async fn headers_that_were_dropped_stay_so() {
    let home = Participant::listen("127.0.0.1:0", |_| success()).await.unwrap();
    let away = redirecting(307, format!("{}/back", home.url)).await;
    // Within one host they stay, and a second one on the way takes them for good.
    let location = away.url.clone();
    let first = Participant::start(move |seen| {
        let location = if seen.target.starts_with("/here") { location.clone() } else { "/here".to_owned() };
        (status(307), [("location", &location)]).into_response()
    })
    .await;
    let outcome = run(&first.url, &call_of("g1", "1", &[("X-Token", "t")])).await;
    assert!(outcome.has_succeeded(), "{outcome:?}");
    assert_eq!(first.seen().iter().filter(|seen| seen.headers.contains_key("x-token")).count(), 2);
    for service in [&away, &home] {
        let seen = &service.seen()[0];
        assert!(!seen.headers.contains_key("x-token") && seen.body == "1", "{seen:?}");
    }
}
