//! Fuzz target: addresses of branches, which several parsers read.

use std::net::Ipv4Addr;

use wasaga_fuzz::Target;

use crate::{
    branch::{Branch, Destination, grpc, http},
    plugin::{
        Route,
        address::{Error, Location},
        is_name,
    },
    saga::Op,
};

/// The `host:port` of a service.
fn place(branch: &dyn Branch) -> String {
    match branch.destination() {
        Some(Destination::Service(place)) => place.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The plugin of an address is the host that an HTTP client would connect to, and a service has a host and a port.
#[test]
fn fuzz_addresses() {
    let http = http::Client::new(&http::Settings::default()).unwrap();
    let grpc = grpc::Client::new(&http::Settings::default());
    let routes = [Route { prefix: "http://pay.example/v1".to_owned(), plugin: "pay".to_owned() }];
    Target::new("addresses")
        .tokens([
            "http://",
            "https://",
            "HTTP://",
            "wasm://",
            "/try",
            "/cancel",
            "@sha256:",
            ":443",
            ":0",
            ":65536",
            "@",
            "?",
            "#",
            "\\",
            "%2f",
            "%00",
            "%2e%2e",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "0x7f.1",
            "..",
            "//",
            "\t",
            "\n",
            "\u{ff0e}",
            "\u{202e}",
            "localhost",
        ])
        .bytes_max(512)
        .run(|input| {
            let Ok(target) = str::from_utf8(input) else { return };
            let named = Location::of(target, &[], |_| true);
            if let (Some(location), Some((scheme, _))) = (&named, target.split_once("://"))
                && scheme.starts_with("http")
            {
                assert!(is_name(&location.plugin) && location.version.is_none());
                if let Ok(branch) = http.branch(target) {
                    let host = place(&branch);
                    let (host, _) = host.rsplit_once(':').unwrap();
                    // A number is an address to an HTTP client, so no plugin should have such a name.
                    if host.parse::<Ipv4Addr>().is_err() {
                        assert_eq!(location.plugin, host, "{target:?} names a plugin that is not its host");
                    }
                }
            }
            if let Some(location) = Location::of(target, &routes, |_| false) {
                let is_wasm = target.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("wasm://"));
                assert!(is_wasm || location.plugin == "pay");
                if let Ok(Some(digest)) = location.digest(target) {
                    assert!(target.contains(&crate::plugin::version(digest)));
                }
                match location.check(target, Op::Action) {
                    Ok(()) => assert!(location.check(target, Op::Compensate).is_err()),
                    Err(Error::UnknownOperation { .. } | Error::WrongOperation { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            if let Ok(branch) = grpc.branch(target) {
                let place = place(&branch);
                let (authority, _) = target.split_once('/').unwrap();
                let (host, port) = authority.rsplit_once(':').unwrap();
                let port: u16 = port.parse().unwrap();
                assert!(format!("{host}:{port}").eq_ignore_ascii_case(&place), "{target:?} goes to {place}");
            }
        });
}
