//! Fuzz target: the rules for destinations.

use std::net::{IpAddr, Ipv4Addr};

use wasaga_fuzz::Target;

use super::rules::{Entry, Rules, Unlisted, literal};

/// The lines: entries of `allow`, a blank, entries of `deny`, a blank, a host.
#[test]
fn fuzz_destinations() {
    let metadata = IpAddr::from(Ipv4Addr::new(169, 254, 169, 254));
    Target::new("destinations")
        .seed("10.0.0.0/8:80-90\n*.example.com\n\n10.1.0.0/16\n\nservice.example.com")
        .seed("[::1]:8080\n169.254.0.0/16\n*\n\n\n\n[::ffff:169.254.169.254]")
        .seed("*\n\n\n\n127.1")
        .tokens([
            "*",
            "*.",
            ":",
            "/",
            "-",
            "\n\n",
            "169.254.169.254",
            "[fe80::1]",
            "::ffff:",
            "64:ff9b::",
            "0x7f.1",
            "localhost",
            ".",
        ])
        .bytes_max(512)
        .run(|input| {
            let Ok(text) = str::from_utf8(input) else { return };
            let mut parts = text.splitn(3, "\n\n");
            let mut entries = || -> Vec<Entry> {
                parts.next().unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
            };
            let (allow, deny) = (entries(), entries());
            let host = parts.next().unwrap_or_default().trim();
            for entry in allow.iter().chain(&deny) {
                assert_eq!(entry.to_string().parse::<Entry>().as_ref(), Ok(entry));
            }
            let names_networks =
                allow.iter().any(|entry| entry.to_string().contains(['.', ':']) && !entry.to_string().starts_with('*'));
            for unlisted in [Unlisted::All, Unlisted::Public, Unlisted::None] {
                let rules = Rules { deny: deny.clone(), allow: allow.clone(), unlisted };
                if rules.check_address(host, 80, metadata).is_ok() {
                    assert!(names_networks, "{host:?} reaches a metadata service by {rules:?}");
                }
                if let Some(address) = literal(host) {
                    assert_eq!(rules.check(host, 80), rules.check_address(host, 80, address));
                }
                // More denials allow nothing more.
                let stricter = Rules { deny: allow.iter().chain(&deny).cloned().collect(), ..rules.clone() };
                assert!(rules.check(host, 80).is_ok() || stricter.check(host, 80).is_err());
            }
        });
}
