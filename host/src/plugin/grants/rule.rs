//! The allow-list of HTTP requests in a plugin's grants, and how a request is compared with it.
//!
//! Invariant: the request that was compared is the request that is sent. A path that a server could read differently (dot
//! segments, encoded separators and dots, empty segments) is refused, not interpreted.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use http::{Method, Uri, uri::Scheme};
use serde::{Deserialize, Serialize};

/// One entry of `http` in `[plugins.grants.NAME]`: an address, and the methods allowed for it and for all paths below it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// Scheme, host, port unless it is the scheme's default, and a prefix of the path in whole segments.
    pub url: String,
    /// In upper case.
    pub methods: Vec<String>,
    /// Whether the host may have an address that is not public: this machine, or a private network.
    #[serde(default)]
    pub private: bool,
}

/// Why an entry of `http` cannot be used, and its mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{0:?} is no address to allow: {1}; write it as https://host/path/")]
    Url(String, &'static str),
    #[error("{0:?} has no methods: name those that are used, as in methods = [\"GET\"]")]
    NoMethods(String),
    #[error("{1:?} is no method to allow for {0:?}: {2}")]
    Method(String, String, &'static str),
}

/// A checked entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    origin: Origin,
    /// Begins with `/`.
    path: String,
    methods: BTreeSet<String>,
    private: bool,
}

/// Scheme, host and port of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    is_https: bool,
    /// In lower case; an IPv6 address in brackets.
    host: String,
    port: u16,
}

/// An allowed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Its address, rebuilt from the parts that were compared.
    pub uri: Uri,
    /// Whether it may go to addresses that are not public.
    pub private: bool,
}

/// Why a request is refused, and the setting that would allow it, if there is one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Servers could read the address in more than one way.
    #[error("its {0}, and no setting allows that")]
    Ambiguous(&'static str),
    #[error("no entry of http allows the address: add {{ url = \"{url}\", methods = [\"{method}\"] }}")]
    Address { url: String, method: Method },
    #[error("the entry of http for {url} allows other methods only: add \"{method}\" to its methods")]
    Method { url: String, method: Method },
}

impl Rule {
    /// Checks an entry.
    pub fn new(allowed: &Allowed) -> Result<Self, Fault> {
        let Allowed { url, methods, private } = allowed;
        let fault = |what| Fault::Url(url.clone(), what);
        if url.contains(['?', '#']) {
            return Err(fault("a query or fragment cannot be compared"));
        }
        let uri: Uri = url.parse().map_err(|_| fault("it is malformed"))?;
        let origin = Origin::of(&uri).map_err(fault)?;
        check_path(uri.path()).map_err(fault)?;
        if methods.is_empty() {
            return Err(Fault::NoMethods(url.clone()));
        }
        for method in methods {
            check_method(method).map_err(|what| Fault::Method(url.clone(), method.clone(), what))?;
        }
        let methods = methods.iter().cloned().collect();
        Ok(Self { origin, path: uri.path().to_owned(), methods, private: *private })
    }

    fn covers(&self, origin: &Origin, path: &str) -> bool {
        let below = |rest: &str| self.path.ends_with('/') || rest.is_empty() || rest.starts_with('/');
        self.origin == *origin && path.strip_prefix(&self.path).is_some_and(below)
    }

    fn url(&self) -> String {
        format!("{}{}", self.origin, self.path)
    }
}

/// As in `https://api.example.com/v1/ (GET, POST)`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods: Vec<&str> = self.methods.iter().map(String::as_str).collect();
        write!(f, "{} ({})", self.url(), methods.join(", "))
    }
}

/// Compares a request with all rules.
pub fn permit(rules: &[Rule], method: &Method, uri: &Uri) -> Result<Permission, Denied> {
    let origin = Origin::of(uri).map_err(Denied::Ambiguous)?;
    check_path(uri.path()).map_err(Denied::Ambiguous)?;
    let query = uri.query().unwrap_or_default();
    if !query.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Denied::Ambiguous("query holds characters that must be percent-encoded"));
    }
    let covering: Vec<&Rule> = rules.iter().filter(|rule| rule.covers(&origin, uri.path())).collect();
    let Some(nearest) = covering.iter().max_by_key(|rule| rule.path.len()) else {
        return Err(Denied::Address { url: format!("{origin}/"), method: method.clone() });
    };
    let mut matching = covering.iter().filter(|rule| rule.methods.contains(method.as_str())).peekable();
    if matching.peek().is_none() {
        return Err(Denied::Method { url: nearest.url(), method: method.clone() });
    }
    let private = matching.any(|rule| rule.private);
    let rebuilt = format!("{origin}{}", uri.path_and_query().map_or("/", |path| path.as_str()));
    let uri = rebuilt.parse().map_err(|_| Denied::Ambiguous("address is malformed"))?;
    Ok(Permission { uri, private })
}

impl Origin {
    /// The error completes "its" or "it".
    fn of(uri: &Uri) -> Result<Self, &'static str> {
        let is_https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err("scheme is neither http nor https"),
        };
        let authority = uri.authority().ok_or("host is missing")?;
        if authority.as_str().contains('@') {
            return Err("host has a user before it");
        }
        let host = authority.host().to_ascii_lowercase();
        check_host(&host)?;
        // What follows the host is nothing, or a port.
        let port = match authority.as_str().get(host.len()..).unwrap_or_default() {
            "" => default_port(is_https),
            rest => rest.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or("port is no number")?,
        };
        if port == 0 {
            return Err("port is 0");
        }
        Ok(Self { is_https, host, port })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { is_https, host, port } = self;
        write!(f, "{}://{host}", if *is_https { "https" } else { "http" })?;
        if *port == default_port(*is_https) { Ok(()) } else { write!(f, ":{port}") }
    }
}

fn default_port(is_https: bool) -> u16 {
    if is_https { 443 } else { 80 }
}

/// The IP address that a host is, if it is not a name.
pub fn literal(host: &str) -> Option<IpAddr> {
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inside.unwrap_or(host).parse().ok()
}

/// Accepts a name, or an IP address in its usual spelling.
fn check_host(host: &str) -> Result<(), &'static str> {
    if host.starts_with('[') {
        return if literal(host).is_some() { Ok(()) } else { Err("host is no IPv6 address") };
    }
    if host.contains('*') {
        return Err("host is a pattern, and hosts are named one by one");
    }
    if !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err("host holds other characters than letters, digits, '-', '_' and '.'");
    }
    if host.split('.').any(str::is_empty) {
        return Err("host begins or ends with a dot, or has two in a row");
    }
    Ok(())
}

/// Accepts a path that all servers read alike.
fn check_path(path: &str) -> Result<(), &'static str> {
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) || path.contains('\\') {
        return Err("path holds characters that must be percent-encoded");
    }
    let mut rest = path;
    while let Some((_, after)) = rest.split_once('%') {
        let digits = after.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            None => return Err("path holds a '%' that encodes nothing"),
            Some(b'/' | b'\\' | b'.') => return Err("path holds an encoded '/', '\\' or '.'"),
            Some(byte) if byte.is_ascii_control() => return Err("path holds an encoded control character"),
            Some(_) => rest = after,
        }
    }
    let segments = path.strip_prefix('/').ok_or("path does not begin with '/'")?;
    let last = segments.split('/').count() - 1;
    for (at, segment) in segments.split('/').enumerate() {
        // Some servers cut parameters off before they look for dots.
        match segment.split(';').next().unwrap_or_default() {
            "." | ".." => return Err("path holds a segment '.' or '..'"),
            "" if at < last => return Err("path holds an empty segment"),
            _ => {}
        }
    }
    Ok(())
}

fn check_method(method: &str) -> Result<(), &'static str> {
    match method {
        "" => Err("it is empty"),
        "CONNECT" => Err("a tunnel would leave all rules behind"),
        "TRACE" => Err("it shows headers that others have added"),
        _ if method.len() > METHOD_BYTES_MAX => Err("it is too long"),
        _ if method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') => Ok(()),
        _ => Err("methods are written in upper case"),
    }
}

/// Longer than any method that is registered.
const METHOD_BYTES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(url: &str, methods: &[&str]) -> Result<Rule, Fault> {
        let methods = methods.iter().map(|method| (*method).to_owned()).collect();
        Rule::new(&Allowed { url: url.into(), methods, private: false })
    }

    fn asked(rules: &[&str], url: &str) -> Result<String, Denied> {
        let rules: Vec<Rule> = rules.iter().map(|url| rule(url, &["GET"]).unwrap()).collect();
        permit(&rules, &Method::GET, &url.parse().unwrap()).map(|permit| permit.uri.to_string())
    }

    #[test]
    fn scheme_host_port_and_whole_segments_count() {
        for (allowed, url) in [
            ("https://a.example/v1/", "https://a.example/v1/"),
            ("https://a.example/v1/", "https://a.example/v1/x?y=/../z"),
            ("https://a.example/v1", "https://a.example/v1"),
            ("https://a.example/v1", "https://a.example/v1/x"),
            ("https://a.example", "https://a.example/anything"),
            ("https://a.example:443/", "https://a.example/"),
            ("http://a.example/", "http://a.example:80/"),
            ("https://A.Example/", "https://a.eXAMPLE/"),
            ("https://a.example:8443/", "https://a.example:8443/"),
            ("http://[::1]:8080/", "http://[::1]:8080/x"),
            ("https://a.example/v1/", "https://a.example/v1/a%20b;c=1/..."),
        ] {
            assert!(asked(&[allowed], url).is_ok(), "{allowed} allows {url}");
        }
        for (allowed, url) in [
            ("https://a.example/v1/", "https://a.example/v1"),
            ("https://a.example/v1", "https://a.example/v10"),
            ("https://a.example/v1/", "https://a.example/V1/"),
            ("https://a.example/v1/", "https://a.example/"),
            ("https://a.example/", "http://a.example/"),
            ("https://a.example/", "http://a.example:443/"),
            ("https://a.example/", "https://a.example:8443/"),
            ("https://a.example/", "https://b.a.example/"),
            ("https://a.example/", "https://a.example.evil.test/"),
            ("https://a.example/v1/", "https://a.example/%76%31/"),
        ] {
            assert!(matches!(asked(&[allowed], url), Err(Denied::Address { .. })), "{allowed} does not allow {url}");
        }
    }

    #[test]
    fn an_address_that_can_be_read_in_two_ways_is_refused() {
        for url in [
            "https://a.example/v1/../admin",
            "https://a.example/v1/.",
            "https://a.example/v1/..",
            "https://a.example/v1/..;x/admin",
            "https://a.example/v1/%2e%2e/admin",
            "https://a.example/v1/%2E./admin",
            "https://a.example/v1/..%2fadmin",
            "https://a.example/v1/..%5Cadmin",
            "https://a.example/v1//admin",
            "https://a.example//v1/",
            "https://a.example/v1/;/admin",
            "https://a.example/v1/%0d%0aHost:evil",
            "https://a.example/v1/%00",
            "https://a.example/v1/%7f",
            "https://a.example/v1/%zz",
            "https://a.example/v1/%2",
            "https://a.example./v1/",
            "https://user@a.example/v1/",
            "https://user:word@a.example/v1/",
            "https://a.example:0/v1/",
        ] {
            assert!(matches!(asked(&["https://a.example/"], url), Err(Denied::Ambiguous(_))), "{url}");
        }
    }

    #[test]
    fn the_compared_request_is_sent() {
        let sent = asked(&["https://a.example/"], "https://A.EXAMPLE:443/X?q=1").unwrap();
        assert_eq!(sent, "https://a.example/X?q=1");
    }

    #[test]
    fn a_refusal_says_what_would_allow_it() {
        let rules = [rule("https://a.example/v1/", &["GET"]).unwrap()];
        let denied = |method, url: &str| permit(&rules, &method, &url.parse().unwrap()).unwrap_err().to_string();
        let text = denied(Method::GET, "https://b.example:8443/x");
        assert!(text.contains(r#"{ url = "https://b.example:8443/", methods = ["GET"] }"#), "{text}");
        let text = denied(Method::POST, "https://a.example/v1/x");
        assert!(text.contains(r#"add "POST""#) && text.contains("https://a.example/v1/"), "{text}");
    }

    #[test]
    fn private_addresses_need_a_rule_of_that_very_request() {
        let mut inner = rule("http://a.example/inner/", &["GET"]).unwrap();
        inner.private = true;
        let rules = [rule("http://a.example/", &["GET", "POST"]).unwrap(), inner];
        let private = |method, url: &str| permit(&rules, &method, &url.parse().unwrap()).unwrap().private;
        assert!(private(Method::GET, "http://a.example/inner/x"));
        assert!(!private(Method::GET, "http://a.example/x"));
        assert!(!private(Method::POST, "http://a.example/inner/x"));
    }

    #[test]
    fn malformed_entries_are_faults() {
        for url in [
            "",
            "a.example",
            "/v1",
            "ftp://a.example/",
            "https:///v1",
            "https://user@a.example/",
            "https://a.example/?q=1",
            "https://a.example/#top",
            "https://*.example/",
            "https://a.example./",
            "https://a.example:0/",
            "https://a.example:x/",
            "https://a.example/v1/../",
            "https://b\u{fc}cher.example/",
        ] {
            assert!(matches!(rule(url, &["GET"]), Err(Fault::Url(..))), "{url}");
        }
        assert!(matches!(rule("https://a.example/", &[]), Err(Fault::NoMethods(_))));
        for method in ["", "get", "GET ", "G\u{c9}T", "CONNECT", "TRACE", &"A".repeat(33)] {
            assert!(matches!(rule("https://a.example/", &[method]), Err(Fault::Method(..))), "{method}");
        }
    }
}
