//! Keeps out web pages that are open in a browser which reaches the host.
//!
//! A browser sends requests for any page that it shows, also to addresses that only its own machine reaches. Two marks
//! tell them from those of other clients, and a page can set neither of them:
//!
//! - **`Origin` and `Sec-Fetch-Site`** ([Fetch](https://fetch.spec.whatwg.org/#origin-header), [Fetch Metadata]) say which
//!   page has sent the request. Clients that are no browsers send neither.
//! - **`Host`** has the name by which the page was called, if the page's name means the host's address by now (DNS
//!   rebinding): to the browser both are one origin then. No page has an address of IP or `localhost` for its name
//!   unless it comes from there.
//!
//! Invariants:
//!
//! 1. A request that names the host by a name which is not configured changes nothing and reads nothing.
//! 2. Nor does one that a browser has sent for a page of another origin, unless the origin is configured.
//! 3. The exceptions show nothing of a saga: the paths of [`OPEN_PATHS`], and opening the pages of the host itself.
//!
//! A request without `Host` passes, as HTTP/1.0 allows: every browser sends it. The gRPC port has no such rules: it takes
//! HTTP/2 without TLS only, which no browser speaks.
//!
//! [Fetch Metadata]: https://www.w3.org/TR/fetch-metadata/

mod refusal;
mod settings;

use std::sync::Arc;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request,
    header::{HOST, ORIGIN},
};

pub(super) use self::refusal::Refusal;
use self::refusal::Told;
pub use self::settings::{HostName, Origin, SettingError};
use super::authority::{Authority, Host};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Open to all, since they reveal nothing and change nothing, and supervisors ask them by names of their own.
const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// Which requests a listener takes. Clones share what was logged.
#[derive(Clone, Debug)]
pub struct Rules(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    host_names: Vec<HostName>,
    origins: Vec<Origin>,
    told: Told,
}

impl Rules {
    /// Takes requests that call the host by one of these names, and those of pages of these origins.
    #[must_use]
    pub fn new(host_names: Vec<HostName>, origins: Vec<Origin>) -> Self {
        Self(Arc::new(Shared { host_names, origins, told: Told::default() }))
    }

    /// Why a request is refused, which is logged once for each reason.
    pub(super) fn refuse<B>(&self, request: &Request<B>) -> Option<Refusal> {
        let refusal = self.check(request).err()?;
        self.0.told.tell(&refusal);
        Some(refusal)
    }

    fn check<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let (path, headers) = (request.uri().path(), request.headers());
        if OPEN_PATHS.contains(&path) {
            return Ok(());
        }
        let authority = named(request)?;
        if opens_a_page(request.method(), path, headers) {
            return Ok(());
        }
        // An absolute address takes precedence over `Host` (RFC 9112, section 3.2.2), so both must be right.
        let absolute = request.uri().authority().map(|authority| Authority::read(authority.as_str()));
        let absolute = absolute.map(|read| read.ok_or(Refusal::Host)).transpose()?;
        for authority in [authority, absolute].into_iter().flatten() {
            self.check_host(authority.host)?;
        }
        self.check_origin(authority, headers)
    }

    fn check_host(&self, host: Host<'_>) -> Result<(), Refusal> {
        match host {
            Host::Name(name) if !self.0.host_names.iter().any(|known| known.is(name)) => Err(Refusal::name(name)),
            _ => Ok(()),
        }
    }

    fn check_origin(&self, authority: Option<Authority<'_>>, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut is_listed = false;
        for origin in headers.get_all(ORIGIN) {
            is_listed = self.0.origins.iter().any(|known| known.is(origin.as_bytes()));
            if !is_listed && !is_same(origin, authority) {
                return Err(Refusal::origin(origin));
            }
        }
        let sites = headers.get_all(SEC_FETCH_SITE);
        let is_of_a_page = |site: &HeaderValue| !["same-origin", "none"].iter().any(|own| site == own);
        match sites.iter().find(|site| is_of_a_page(site)) {
            Some(_) if !is_listed => Err(Refusal::Site),
            _ => Ok(()),
        }
    }
}

/// What `Host` says, if there is one and it says anything.
fn named<B>(request: &Request<B>) -> Result<Option<Authority<'_>>, Refusal> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let first = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::Hosts);
    }
    match first.map(HeaderValue::as_bytes) {
        None | Some([]) => Ok(None),
        Some(host) => str::from_utf8(host).ok().and_then(Authority::read).map(Some).ok_or(Refusal::Host),
    }
}

/// Whether a browser opens one of the host's own pages, perhaps by a link of another page. Not in a frame, in which a
/// page could lay something over it.
fn opens_a_page(method: &Method, path: &str, headers: &HeaderMap) -> bool {
    let says = |name: HeaderName, word: &str| headers.get(name).is_some_and(|value| value == word);
    method == Method::GET
        && (path == "/" || path.starts_with("/ui/"))
        && says(SEC_FETCH_MODE, "navigate")
        && (says(SEC_FETCH_DEST, "document") || !headers.contains_key(SEC_FETCH_DEST))
}

/// Whether an origin is that of the host, as the request calls it. A proxy may have ended TLS, so the scheme makes no
/// difference but for its port.
fn is_same(origin: &HeaderValue, authority: Option<Authority<'_>>) -> bool {
    let read = |origin: &HeaderValue| {
        let (scheme, rest) = str::from_utf8(origin.as_bytes()).ok()?.split_once("://")?;
        let default_port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let (ours, theirs) = (authority?, Authority::read(rest)?);
        let is_same_host = match (ours.host, theirs.host) {
            (Host::Name(ours), Host::Name(theirs)) => ours.eq_ignore_ascii_case(theirs),
            (ours, theirs) => ours == theirs,
        };
        Some(is_same_host && ours.port.unwrap_or(default_port) == theirs.port.unwrap_or(default_port))
    };
    read(origin).unwrap_or(false)
}

#[cfg(test)]
mod tests;
