use super::*;

fn entry(text: &str) -> Entry {
    text.parse().unwrap()
}

fn rules(deny: &[&str], allow: &[&str], unlisted: Unlisted) -> Rules {
    let entries = |texts: &[&str]| texts.iter().map(|text| entry(text)).collect();
    Rules { deny: entries(deny), allow: entries(allow), unlisted }
}

/// The error names the entry that would allow the destination, or the one that denies it.
fn named(result: Result<(), Refused>) -> Option<String> {
    match result {
        Ok(()) => None,
        Err(refused) => {
            let text = refused.to_string();
            let (Refused::Denied { entry, .. } | Refused::NotAllowed { entry, .. }) = refused;
            assert!(text.contains(&format!("{entry:?}")), "{text}");
            Some(entry)
        }
    }
}

#[test]
fn an_entry_is_written_as_it_is_read() {
    for (text, canonical) in [
        ("api.example.com", "api.example.com"),
        ("API.Example.Com.", "api.example.com"),
        ("b\u{fc}cher.example", "xn--bcher-kva.example"),
        ("my_service:80", "my_service:80"),
        ("*.example.com:443", "*.example.com:443"),
        ("*", "*"),
        ("*:22", "*:22"),
        ("billing:8000-8099", "billing:8000-8099"),
        ("billing:80-80", "billing:80"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/8:8080", "10.0.0.0/8:8080"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1/32:1-65535", "127.0.0.1:1-65535"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[::1]:8080", "[::1]:8080"),
        ("fd00::/8", "fd00::/8"),
        ("[FD00::/8]:443", "[fd00::/8]:443"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("[::ffff:10.0.0.0/104]:1", "10.0.0.0/8:1"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ] {
        let read = entry(text);
        assert_eq!(read.to_string(), canonical, "{text}");
        assert_eq!(entry(canonical), read, "{text}");
    }
}

#[test]
fn what_is_no_entry_is_refused_with_a_reason() {
    for text in [
        "",
        " ",
        "http://a.example",
        "a.example/x",
        "a.example:",
        "a.example:0",
        "a.example:65536",
        "a.example:http",
        "a.example:+80",
        "a.example:90-80",
        "a.example:80:81",
        "user@a.example",
        "a b",
        "a..example",
        ".example",
        "*example",
        "a.*.example",
        "*.*.example",
        "*.10.0.0.1",
        "*.",
        "a%2eexample",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.0/",
        "10.1",
        "0x7f000001",
        "2130706433",
        "1.2.3.4.5",
        "fd00::/129",
        "fd00::1/8",
        "[::1",
        "[::1]80",
        "[::1]:",
        "[10.0.0.1]",
        "[a.example]",
        "fe80::1%eth0",
    ] {
        let fault = text.parse::<Entry>().unwrap_err().to_string();
        assert!(fault.contains(&format!("{text:?}")) && fault.contains("api.example.com"), "{text}: {fault}");
    }
}

#[test]
fn deny_wins_over_allow_and_allow_over_the_rest() {
    for (deny, allow, host, address, expected) in [
        (&["10.0.0.0/8"][..], &["10.0.0.1"][..], "a", "10.0.0.1", Some("10.0.0.0/8")),
        (&["a"], &["10.0.0.1"], "A", "10.0.0.1", Some("a")),
        (&["*.b"], &["*"], "a.B.", "1.1.1.1", Some("*.b")),
        (&["*.b"], &["*"], "ab", "1.1.1.1", None),
        (&["*.b"], &["*"], "b", "1.1.1.1", None),
        (&["*:22"], &[], "a", "1.1.1.1", None),
        (&["*:80"], &[], "a", "1.1.1.1", Some("*:80")),
        (&["10.0.0.0/8:1-79"], &["10.0.0.0/8"], "a", "10.0.0.1", None),
        (&[], &["a"], "a", "10.0.0.1", None),
        (&[], &["a:81"], "a", "10.0.0.1", Some("a:80")),
        (&[], &["10.0.0.0/8"], "a", "10.0.0.1", None),
        (&[], &["10.0.0.0/8"], "a", "::ffff:10.0.0.1", None),
        (&[], &["10.0.0.0/8:80"], "10.0.0.1", "10.0.0.1", None),
        (&[], &["10.0.0.0/8:81"], "10.0.0.1", "10.0.0.1", Some("10.0.0.1:80")),
        (&[], &[], "[fd00::1]", "fd00::1", Some("[fd00::1]:80")),
    ] {
        let rules = rules(deny, allow, Unlisted::None);
        let loose = Rules { unlisted: Unlisted::Public, ..rules.clone() };
        let found = named(loose.check_address(host, 80, address.parse().unwrap()));
        assert_eq!(found.as_deref(), expected, "{deny:?} {allow:?} {host} {address}");
        // Whatever no entry names is refused under `none`.
        assert!(expected.is_none() || rules.check_address(host, 80, address.parse().unwrap()).is_err());
    }
}

#[test]
fn metadata_services_and_link_local_addresses_need_an_entry_of_their_address() {
    for address in [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fe80::1",
        "febf::1",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "::ffff:0:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "2001:0:1:2:3:4:5601:5601",
    ] {
        let at: IpAddr = address.parse().unwrap();
        for unlisted in [Unlisted::Auto, Unlisted::All, Unlisted::Public, Unlisted::None] {
            // A name and a star cover it only if the address is covered as well.
            for allow in [&[][..], &["metadata.internal", "*"]] {
                let rules = rules(&[], allow, unlisted);
                let wanted = named(rules.check_address("metadata.internal", 80, at)).expect(address);
                let mended = Rules { allow: vec![entry(&wanted)], ..rules.clone() };
                assert_eq!(mended.check_address("metadata.internal", 80, at), Ok(()), "{address} {wanted}");
                assert!(mended.check_address("metadata.internal", 81, at).is_err());
            }
        }
    }
}

#[test]
fn unlisted_decides_about_all_others() {
    for (address, public, private) in [
        ("1.1.1.1", true, true),
        ("2606:4700:4700::1111", true, true),
        ("127.0.0.1", false, true),
        ("0.0.0.0", false, true),
        ("10.1.2.3", false, true),
        ("172.17.0.1", false, true),
        ("100.64.0.1", false, true),
        ("::1", false, true),
        ("fd00::1", false, true),
        ("::ffff:127.0.0.1", false, true),
        ("64:ff9b::101:101", false, true),
    ] {
        let allowed = |unlisted| rules(&[], &[], unlisted).check_address("a", 80, address.parse().unwrap()).is_ok();
        assert_eq!((allowed(Unlisted::Public), allowed(Unlisted::All)), (public, private), "{address}");
        assert_eq!(allowed(Unlisted::Auto.resolved(true)), private);
        assert_eq!(allowed(Unlisted::Auto.resolved(false)), public);
        assert!(!allowed(Unlisted::None));
    }
    assert_eq!(Unlisted::None.resolved(true), Unlisted::None);
}

#[test]
fn a_denied_network_is_denied_in_every_spelling() {
    let rules = rules(&["127.0.0.0/8", "10.0.0.0/8", "::1"], &["*"], Unlisted::All);
    for address in
        ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "::", "::1", "64:ff9b::10.0.0.1", "2002:a00:1::", "::10.0.0.1"]
    {
        assert!(rules.check_address("a", 80, address.parse().unwrap()).is_err(), "{address}");
    }
}

#[test]
fn at_the_door_only_what_is_certain_is_refused() {
    let public = rules(&["evil.example", "10.0.0.0/8"], &["10.0.0.9:80"], Unlisted::Public);
    for (host, port, expected) in [
        ("a.example", 80, None),
        ("EVIL.example.", 80, Some("evil.example")),
        ("127.0.0.1", 8080, Some("127.0.0.1:8080")),
        ("[::1]", 80, Some("[::1]:80")),
        ("localhost", 80, Some("localhost:80")),
        ("x.LOCALHOST", 80, Some("x.LOCALHOST:80")),
        ("10.0.0.9", 80, Some("10.0.0.0/8")),
        ("1.1.1.1", 80, None),
    ] {
        assert_eq!(named(public.check(host, port)).as_deref(), expected, "{host}");
    }
    let none = rules(&[], &["a.example", "*.b.example:443", "10.0.0.0/8:8080"], Unlisted::None);
    for (host, port, is_refused) in [
        ("a.example", 80, false),
        ("x.b.example", 443, false),
        ("x.b.example", 80, true),
        // Its address may be in the network.
        ("other.example", 8080, false),
        ("other.example", 80, true),
        ("localhost", 80, true),
    ] {
        assert_eq!(none.check(host, port).is_err(), is_refused, "{host}:{port}");
    }
    let local = rules(&[], &["127.0.0.1"], Unlisted::Public);
    assert_eq!(local.check("localhost", 80), Ok(()));
}
