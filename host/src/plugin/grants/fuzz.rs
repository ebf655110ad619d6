//! Fuzz targets: the requests that grants allow, and the redaction of secrets.

use http::{Method, Uri};
use wasaga_fuzz::Target;

use super::{
    rule::{Allowed, Denied, Rule, permit},
    secret::Secret,
};
use crate::redact::{Case, Mark, found_in, redact};

/// The lines: the address of an entry, and the one of a request. What is allowed stands below the entry, byte for byte.
#[test]
fn fuzz_rules() {
    Target::new("rules")
        .tokens([
            "https://",
            "http://",
            "a.example",
            "/v1/",
            "..",
            ".",
            "%2e",
            "%2F",
            "%5c",
            "%00",
            "//",
            ";",
            "\\",
            ":443",
            ":80",
            ":0",
            "@",
            "?",
            "#",
            "[::1]",
            "*",
            "\n",
            "\t",
            "A.EXAMPLE",
        ])
        .bytes_max(512)
        .run(|input| {
            let Ok(text) = str::from_utf8(input) else { return };
            let (url, request) = text.split_once('\n').unwrap_or((text, text));
            let allowed = Allowed { url: url.to_owned(), methods: vec!["GET".to_owned()], private: false };
            let Ok(rule) = Rule::new(&allowed) else { return };
            let rules = [rule];
            let itself: Uri = url.parse().unwrap();
            permit(&rules, &Method::GET, &itself).expect("an entry allows its own address");
            let Ok(uri) = request.parse::<Uri>() else { return };
            match permit(&rules, &Method::GET, &uri) {
                Ok(permission) => {
                    let (host, path) = (permission.uri.host().unwrap(), permission.uri.path());
                    assert!(host.eq_ignore_ascii_case(itself.host().unwrap()), "{request:?} under {url:?}");
                    assert_eq!(
                        (path, permission.uri.query().unwrap_or_default()),
                        (uri.path(), uri.query().unwrap_or_default())
                    );
                    assert_eq!(permission.uri.scheme(), itself.scheme());
                    let port =
                        |uri: &Uri| uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
                    assert_eq!(port(&permission.uri), port(&itself));
                    assert!(path.starts_with(itself.path()), "{request:?} under {url:?}");
                    assert!(!path.split('/').any(|segment| [".", ".."].contains(&segment)), "{request:?}");
                    assert_eq!(permit(&rules, &Method::GET, &permission.uri).unwrap(), permission);
                    assert!(matches!(permit(&rules, &Method::POST, &uri), Err(Denied::Method { .. })));
                }
                Err(Denied::Address { .. } | Denied::Ambiguous(_)) => {}
                Err(denied) => panic!("{denied:?}"),
            }
        });
}

/// The first byte is the limit of the text behind it.
#[test]
fn fuzz_redaction() {
    const NAME: &str = "key";
    let secrets = ["hunter2", "pa\"s/s\\\n-\u{e9}\u{1f600}", "first line\nsecond line"].map(Secret::new);
    let named = || secrets.iter().flat_map(|secret| secret.traces().map(|trace| (Mark::Secret(NAME), trace)));
    Target::new("redaction")
        .tokens([
            "hunter2",
            "hunt",
            "\\u0068unter2",
            "%68unter2",
            "\\\\u0068",
            "pa\\\"s/s",
            "first line",
            "second",
            "\\n",
            "%0a",
            "\\ud83d",
            "\\ude00",
            "\\u{",
            "\\x",
            "%",
            "\\",
            "[secret key]",
            "\u{1f600}",
            "\u{e9}",
        ])
        .bytes_max(1024)
        .run(|input| {
            let Some((bytes_max, text)) = input.split_first() else { return };
            let (bytes_max, text) = (usize::from(*bytes_max) * 4, String::from_utf8_lossy(text));
            for case in [Case::Matters, Case::IsIgnored] {
                let shown = redact(named(), &text, bytes_max, case);
                assert!(shown.len() <= bytes_max + "[secret key]…".len(), "{} bytes of {bytes_max}", shown.len());
                // Piece by piece, and without the backslashes at their ends: those are no longer what they were in the text.
                for piece in shown.trim_end_matches('…').split("[secret key]") {
                    assert_eq!(found_in(named(), piece.trim_end_matches('\\')), None, "{shown:?} of {text:?}");
                }
                if case == Case::Matters && text.len() <= bytes_max && !shown.contains("[secret ") {
                    assert_eq!(shown, text);
                }
            }
        });
}
