use super::*;

fn rules() -> Rules {
    let names = ["wasaga.example", "wasaga"].map(|name| name.parse().unwrap());
    Rules::new(names.into(), vec!["https://console.example:8443".parse().unwrap()])
}

/// A request to `/api/dtmsvr/submit`, unless the first line says otherwise: `METHOD address`, then headers.
fn request(head: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method("POST").uri("/api/dtmsvr/submit");
    for &(name, value) in head {
        request = match name {
            "GET" | "POST" | "HEAD" | "OPTIONS" => request.method(name).uri(value),
            _ => request.header(name, value),
        };
    }
    request.body(()).unwrap()
}

fn passes(head: &[(&str, &str)]) {
    assert_eq!(rules().check(&request(head)), Ok(()), "{head:?}");
}

fn refused(head: &[(&str, &str)], why: &Refusal) {
    assert_eq!(rules().check(&request(head)), Err(why.clone()), "{head:?}");
}

const HERE: (&str, &str) = ("Host", "127.0.0.1:36789");

#[test]
fn addresses_localhost_and_configured_names_pass() {
    for host in [
        "127.0.0.1:36789",
        "127.0.0.1",
        "10.0.0.7:80",
        "[::1]:36789",
        "[2001:db8::1]",
        "localhost:36789",
        "LOCALHOST",
        "localhost.",
        "wasaga",
        "Wasaga:1",
        "wasaga.example",
        "WASAGA.Example.:36789",
        "",
    ] {
        passes(&[("Host", host)]);
    }
    passes(&[]);
    passes(&[("POST", "http://127.0.0.1:36789/api/dtmsvr/submit"), ("Host", "wasaga")]);
    let any = Rules::new(vec!["*".parse().unwrap()], Vec::new());
    assert_eq!(any.check(&request(&[("Host", "whatever.example")])), Ok(()));
}

#[test]
fn other_names_are_refused_wherever_they_stand() {
    for host in [
        "evil.example",
        "EVIL.example.:36789",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "2130706433",
        "wasaga.evil",
    ] {
        let name = host.split(':').next().unwrap().trim_end_matches('.').to_ascii_lowercase();
        refused(&[("Host", host)], &Refusal::Name(name.clone()));
        let address = format!("http://{host}/api/dtmsvr/submit");
        refused(&[("POST", &address), HERE], &Refusal::Name(name));
    }
    for host in ["a:x", "a b", "user@127.0.0.1", "[::1"] {
        refused(&[("Host", host)], &Refusal::Host);
    }
    refused(&[("POST", "http://user@evil.example/api/dtmsvr/submit"), HERE], &Refusal::Host);
    refused(&[HERE, ("Host", "evil.example")], &Refusal::Hosts);
    refused(&[HERE, HERE], &Refusal::Hosts);
}

#[test]
fn pages_of_other_origins_are_refused() {
    for origin in [
        "http://evil.example",
        "http://127.0.0.1:8500",
        "http://127.0.0.1",
        "http://localhost:36789",
        "https://127.0.0.1",
        "null",
        "",
        "chrome-extension://abc",
        "http://127.0.0.1:36789/",
        "https://console.example",
        "http://console.example:8443",
    ] {
        refused(&[HERE, ("Origin", origin)], &Refusal::Origin(origin.to_owned()));
    }
    refused(&[HERE, ("Origin", "http://127.0.0.1:36789"), ("Origin", "null")], &Refusal::Origin("null".to_owned()));
    refused(&[("Origin", "http://127.0.0.1:36789")], &Refusal::Origin("http://127.0.0.1:36789".to_owned()));
    for site in ["cross-site", "same-site", "made-up", ""] {
        refused(&[HERE, ("Sec-Fetch-Site", site)], &Refusal::Site);
        refused(&[HERE, ("Origin", "http://127.0.0.1:36789"), ("Sec-Fetch-Site", site)], &Refusal::Site);
    }
    refused(&[HERE, ("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")], &Refusal::Site);
    refused(&[("OPTIONS", "/api/v1/plugins/x"), HERE, ("Origin", "null")], &Refusal::Origin("null".to_owned()));
}

#[test]
fn pages_of_the_host_and_of_configured_origins_pass() {
    for (host, origin) in [
        ("127.0.0.1:36789", "http://127.0.0.1:36789"),
        ("[::1]:36789", "http://[::1]:36789"),
        ("localhost:8080", "http://localhost:8080"),
        ("wasaga.example", "http://wasaga.example"),
        // A proxy has ended TLS.
        ("wasaga.example", "https://Wasaga.example"),
        ("wasaga.example:443", "https://wasaga.example"),
        ("wasaga.example:8443", "https://wasaga.example:8443"),
    ] {
        passes(&[("Host", host), ("Origin", origin), ("Sec-Fetch-Site", "same-origin")]);
    }
    for site in ["same-origin", "none"] {
        passes(&[HERE, ("Sec-Fetch-Site", site)]);
    }
    for site in ["same-origin", "same-site", "cross-site"] {
        passes(&[HERE, ("Origin", "https://console.example:8443"), ("Sec-Fetch-Site", site)]);
    }
}

#[test]
fn links_may_open_the_hosts_own_pages_and_nothing_else() {
    let (navigate, foreign) = (("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Site", "cross-site"));
    for path in ["/", "/ui/", "/ui/sagas/7"] {
        passes(&[("GET", path), HERE, navigate, foreign]);
        passes(&[("GET", path), HERE, navigate, foreign, ("Sec-Fetch-Dest", "document")]);
        passes(&[("GET", path), ("Host", "wasaga.test"), navigate, foreign]);
        refused(&[("GET", path), HERE, navigate, foreign, ("Sec-Fetch-Dest", "iframe")], &Refusal::Site);
        refused(&[("GET", path), HERE, foreign, ("Sec-Fetch-Mode", "no-cors")], &Refusal::Site);
        refused(&[("GET", path), HERE, foreign], &Refusal::Site);
        refused(&[("POST", path), HERE, navigate, foreign], &Refusal::Site);
    }
    for path in ["/ui", "/uix", "/api/dtmsvr/all", "/api/dtmsvr/resetCronTime", "//ui/"] {
        refused(&[("GET", path), HERE, navigate, foreign], &Refusal::Site);
    }
}

#[test]
fn supervisors_may_use_any_name() {
    for path in ["/healthz", "/readyz"] {
        passes(&[("GET", path), ("Host", "evil.example")]);
        passes(&[("HEAD", path), ("Host", "a b"), ("Origin", "null")]);
    }
    refused(&[("GET", "/readyz/"), ("Host", "evil.example")], &Refusal::name("evil.example"));
}

#[test]
fn a_refusal_names_the_entry_that_allows_it() {
    for name in ["wasaga", "Saga_Host.svc.cluster.local."] {
        let (empty, asks) = (Rules::new(Vec::new(), Vec::new()), request(&[("Host", name)]));
        let text = empty.check(&asks).unwrap_err().to_string();
        let entry = text.split(['[', ']']).nth(3).unwrap().trim_matches('"');
        let allowed = Rules::new(vec![entry.parse().unwrap()], Vec::new());
        assert_eq!(allowed.check(&asks), Ok(()), "{text}");
        assert!(text.contains(&format!("host_names = [\"{entry}\"]")) && text.contains("under [api]"), "{text}");
        assert!(text.contains(&format!("WASAGA_HOST_NAMES={entry}.")), "{text}");
    }
    let (empty, asks) = (Rules::new(Vec::new(), Vec::new()), request(&[HERE, ("Origin", "http://localhost:5173")]));
    let text = empty.check(&asks).unwrap_err().to_string();
    assert!(text.contains("under [api]") && text.contains(r#"origins = ["http://localhost:5173"]"#), "{text}");
    let allowed = Rules::new(Vec::new(), vec!["http://localhost:5173".parse().unwrap()]);
    assert_eq!(allowed.check(&asks), Ok(()));
    for why in [Refusal::Origin("null".into()), Refusal::Site] {
        assert!(why.to_string().contains("origins") && why.to_string().contains("[api]"), "{why}");
    }
}

#[test]
fn entries_are_names_and_origins() {
    for name in ["wasaga", "a_b.example", "xn--bcher-kva.example", "wasaga.example."] {
        assert!(name.parse::<HostName>().is_ok(), "{name}");
    }
    for name in ["", "http://wasaga", "wasaga:36789", "wasaga:", "wasaga/", "*.example", "bücher.example", "a b"] {
        assert_eq!(name.parse::<HostName>(), Err(SettingError::HostName(name.to_owned())));
    }
    for name in ["127.0.0.1", "localhost", "[::1]"] {
        assert_eq!(name.parse::<HostName>(), Err(SettingError::Needless(name.to_owned())));
    }
    for origin in ["https://a.example", "http://localhost:5173", "http://[::1]:1", "chrome-extension://abc"] {
        assert!(origin.parse::<Origin>().is_ok(), "{origin}");
    }
    for origin in ["", "null", "*", "a.example", "https://a.example/", "https://", "https://a.example:", "https://a@b"]
    {
        assert_eq!(origin.parse::<Origin>(), Err(SettingError::Origin(origin.to_owned())));
    }
    let name = |address| HostName::of_address(address).map(String::from);
    assert_eq!(name("wasaga.internal:36789").as_deref(), Some("wasaga.internal"));
    assert_eq!((name("127.0.0.1:36789"), name("[::]:1"), name("localhost:1")), (None, None, None));
}

#[test]
fn refusals_are_logged_once_and_not_without_end() {
    let told = Told::default();
    for number in 0..10_000 {
        told.tell(&Refusal::name(&format!("a{}.example", number / 2)));
    }
    assert_eq!(told.count(), 101);
}
