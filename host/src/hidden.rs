//! Secrets of a saga: they are sent to its branches and stored, and people see `[hidden]` in their place.
//!
//! Secrets are the values of the `branch_headers` whose names [`Headers`] has, and the userinfo of addresses
//! (`http://user:password@host`). They are hidden where a saga is shown ([`header`], [`address`]) and in the texts of its
//! branches ([`Secrets::text`]): a service may repeat in an error what it was sent. Payloads and outputs' fields are the
//! client's to choose: a secret that is in a payload is shown there.
//!
//! Texts are searched for whole values, for the credentials in them, and for what follows from them (a password, basic
//! authorization in base64), in the spellings that [`redact`] reads. What a branch encodes in another way is not found.

use std::{borrow::Cow, ops::Range};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use crate::{
    redact::{self, Case, Mark, REDACTED_BYTES_MIN},
    saga::{BranchOp, Definition, Op},
};

pub use crate::redact::HIDDEN;

/// Headers whose values are always hidden.
const ALWAYS: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// Shortest part of a header's value that texts are searched for, in bytes: shorter ones are words such as `Bearer`.
const PART_BYTES_MIN: usize = 8;

/// The end of a text that was cut.
const CUT: &str = "…";

/// Most texts that reveal the secrets of one step. With more, its branch's texts are hidden as a whole: the work of showing
/// a saga grows with each.
const TRACES_MAX: usize = 128;

/// A setting: names of headers whose values are hidden, besides `Authorization`, `Cookie` and `Proxy-Authorization`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Headers(Vec<String>);

impl Headers {
    /// These names, in any case of letters.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().collect())
    }

    /// Whether the values of a header are hidden.
    pub fn has(&self, name: &str) -> bool {
        let mut names = ALWAYS.into_iter().chain(self.0.iter().map(String::as_str));
        names.any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// The value of a header as people may see it.
pub fn header<'a>(headers: &Headers, name: &str, value: &'a str) -> &'a str {
    if !value.is_empty() && headers.has(name) { HIDDEN } else { value }
}

/// An address as people may see it: without its userinfo.
pub fn address(address: &str) -> Cow<'_, str> {
    match userinfo(address) {
        Some(place) => {
            let mut shown = address.to_owned();
            shown.replace_range(place, HIDDEN);
            shown.into()
        }
        None => address.into(),
    }
}

/// A text as people may see it: no address in it has a userinfo.
pub fn addresses(text: &str) -> Cow<'_, str> {
    const SCHEME_END: &str = "://";
    const WASM: &str = "wasm://";
    if !text.contains('@') {
        return text.into();
    }
    let mut shown = String::new();
    let mut done = 0;
    for (at, _) in text.match_indices(SCHEME_END) {
        let (before, after) = text.split_at(at + SCHEME_END.len());
        let end = |c: char| c.is_whitespace() || matches!(c, '/' | '\\' | '?' | '#' | '"' | '\'' | '<' | '>' | '`');
        let authority = after.split(end).next().unwrap_or_default();
        let is_version =
            before.get(before.len().saturating_sub(WASM.len())..).is_some_and(|end| end.eq_ignore_ascii_case(WASM));
        if let Some((userinfo, _)) =
            authority.rsplit_once('@').filter(|(userinfo, _)| !is_empty(userinfo) && !is_version)
        {
            shown.push_str(text.get(done..before.len()).unwrap_or_default());
            shown.push_str(HIDDEN);
            done = before.len() + userinfo.len();
        }
    }
    if done == 0 {
        return text.into();
    }
    shown.push_str(text.get(done..).unwrap_or_default());
    shown.into()
}

/// The text with each trace of a secret replaced by `[hidden]`, in every spelling that [`redact`] reads. No trace of
/// [`REDACTED_BYTES_MIN`] bytes or more is in the result, unless it is a part of `[hidden]` itself.
pub fn hide<'t>(traces: &[impl AsRef<str>], text: &'t str) -> Cow<'t, str> {
    let traces = || traces.iter().map(AsRef::as_ref).filter(|trace| trace.len() >= REDACTED_BYTES_MIN);
    let whole = text;
    // What a cut has left of a secret is found at the end only.
    let (text, end) = match text.strip_suffix(CUT) {
        Some(start) if !start.is_empty() && traces().next().is_some() => (start, CUT),
        _ => (text, ""),
    };
    if text.is_empty() || traces().next().is_none() {
        return text.into();
    }
    let mut shown = redact::redact(traces().map(|trace| (Mark::Hidden, trace)), text, usize::MAX, Case::Matters);
    if shown == text {
        return whole.into();
    }
    shown.push_str(end);
    // What stands around a mark could be a secret together with it.
    if traces().any(|trace| !HIDDEN.contains(trace) && shown.contains(trace)) {
        return HIDDEN.into();
    }
    shown.into()
}

/// The secrets of one saga.
#[derive(Debug)]
pub struct Secrets<'a> {
    definition: &'a Definition,
    /// What reveals the values of its headers.
    traces: Vec<String>,
}

impl<'a> Secrets<'a> {
    /// Those of a saga.
    pub fn of(definition: &'a Definition, headers: &Headers) -> Self {
        let mut traces = Vec::new();
        for (_, value) in definition.options().branch_headers.iter().filter(|(name, _)| headers.has(name)) {
            header_traces(value, &mut traces);
        }
        Self { definition, traces }
    }

    /// A text as people may see it that comes from the branch of this step, or is none of a branch's.
    pub fn text<'t>(&self, step: Option<usize>, text: &'t str) -> Cow<'t, str> {
        let traces = self.traces(step);
        if traces.len() > TRACES_MAX && !text.is_empty() {
            return HIDDEN.into();
        }
        match hide(&traces, text) {
            Cow::Borrowed(text) => addresses(text),
            Cow::Owned(text) => addresses(&text).into_owned().into(),
        }
    }

    /// The output of the branch of this step as people may see it. An output is data, of which as little as may be is changed:
    /// neither short secrets nor addresses of others are hidden.
    pub fn output<'t>(&self, step: usize, output: &'t str) -> Cow<'t, str> {
        let mut traces = self.traces(Some(step));
        traces.retain(|trace| trace.len() >= PART_BYTES_MIN);
        if traces.is_empty() {
            return output.into();
        }
        // With something behind it, its end is not taken for a secret that was cut off.
        let whole = format!("{output}\n");
        match hide(&traces, &whole) {
            Cow::Borrowed(_) => output.into(),
            Cow::Owned(shown) => shown.strip_suffix('\n').unwrap_or(&shown).to_owned().into(),
        }
    }

    /// What reveals a secret that the branch of this step has been sent.
    fn traces(&self, step: Option<usize>) -> Vec<Cow<'_, str>> {
        let mut traces: Vec<Cow<'_, str>> = self.traces.iter().map(Into::into).collect();
        for op in [Op::Action, Op::Compensate] {
            let target = step.map_or("", |step| self.definition.target(BranchOp { step, op }));
            if let Some(userinfo) = userinfo(target).and_then(|place| target.get(place)) {
                userinfo_traces(userinfo, &mut traces);
            }
        }
        traces
    }
}

/// A submission repeats what was shown in place of a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place} has {HIDDEN}, which is shown in place of a secret: send the secret itself")]
pub struct Placeholder {
    place: String,
}

/// Refuses a saga with `[hidden]` where a secret stands: its branches would be sent that.
pub fn check(definition: &Definition, headers: &Headers) -> Result<(), Placeholder> {
    let has_mark = |text: &str| text.contains(HIDDEN) || redact::percent_decoded(text).contains(HIDDEN);
    let in_address = |target: &str| userinfo(target).and_then(|place| target.get(place)).is_some_and(has_mark);
    let options = definition.options();
    if let Some((name, _)) =
        options.branch_headers.iter().find(|(name, value)| value.contains(HIDDEN) && headers.has(name))
    {
        return Err(Placeholder { place: format!("branch_headers: the value of {name}") });
    }
    for (number, step) in definition.steps().iter().enumerate() {
        for op in [Op::Action, Op::Compensate] {
            if in_address(step.target(op)) {
                let place = format!("the address of the {} of step {number} (counted from 0)", op.as_str());
                return Err(Placeholder { place });
            }
        }
    }
    if in_address(&options.query_prepared) {
        return Err(Placeholder { place: "query_prepared".to_owned() });
    }
    Ok(())
}

/// Where the userinfo of an address is: from the authority's beginning to its last `@`. `host:port/...`, the form of gRPC,
/// has an authority too. In `wasm://NAME@VERSION/...` there is none.
fn userinfo(address: &str) -> Option<Range<usize>> {
    let is_scheme = |scheme: &str| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme.trim_start()) => (scheme.trim_start(), rest),
        _ => ("", address),
    };
    let authority = rest.split(['/', '\\', '?', '#']).next().unwrap_or_default();
    let (userinfo, _) = authority.rsplit_once('@')?;
    let start = address.len() - rest.len();
    (!is_empty(userinfo) && !scheme.eq_ignore_ascii_case("wasm")).then(|| start..start + userinfo.len())
}

/// Whether a userinfo names nobody.
fn is_empty(userinfo: &str) -> bool {
    ["", ":"].contains(&userinfo)
}

/// The value, its parts that look like credentials, and the password of basic authorization.
fn header_traces(value: &str, traces: &mut Vec<String>) {
    let whole = value.trim();
    traces.push(whole.to_owned());
    for part in whole.split([' ', '\t', ',', ';']) {
        // `name=value` of a cookie or a digest, but not the end of base64.
        let part = match part.split_once('=') {
            Some((_, value)) if !value.trim_matches('=').is_empty() => value,
            _ => part,
        };
        let part = part.trim_matches('"');
        if part.len() >= PART_BYTES_MIN && part != whole {
            traces.push(part.to_owned());
        }
    }
    let basic = whole.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
    let decoded = basic.and_then(|(_, encoded)| BASE64_STANDARD.decode(encoded.trim()).ok());
    if let Some(Ok(credentials)) = decoded.map(String::from_utf8) {
        traces.extend(credentials.split_once(':').map(|(_, password)| password.to_owned()));
        traces.push(credentials);
    }
    traces.retain(|trace| trace.len() >= REDACTED_BYTES_MIN);
}

/// The userinfo as it stands and decoded, its password, its user if that could be a token, and the basic authorization that
/// it is sent as.
fn userinfo_traces<'a>(userinfo: &'a str, traces: &mut Vec<Cow<'a, str>>) {
    let decoded = redact::percent_decoded(userinfo);
    for spelled in [Cow::Borrowed(userinfo), Cow::Owned(decoded.clone())] {
        let (user, password) = spelled.split_once(':').unwrap_or((&spelled, ""));
        let is_token = password.is_empty() || user.len() >= PART_BYTES_MIN;
        traces.extend(is_token.then(|| user.to_owned().into()));
        traces.extend((!password.is_empty()).then(|| password.to_owned().into()));
        traces.push(spelled);
    }
    let credentials = if decoded.contains(':') { decoded } else { decoded + ":" };
    traces.push(BASE64_STANDARD.encode(credentials).into());
    traces.sort_unstable();
    traces.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::{Gid, Options, Order, Step, Timestamp};

    fn saga(action: &str, compensation: &str, headers: &[(&str, &str)]) -> Definition {
        let step = Step { action: action.into(), compensation: compensation.into(), payload: "".into() };
        let branch_headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let options = Options { branch_headers, ..Options::default() };
        Definition::new(Gid::new("g").unwrap(), vec![step], Order::default(), options, Timestamp(0)).unwrap()
    }

    #[test]
    fn userinfo_is_hidden_and_nothing_else_of_an_address() {
        for (given, shown) in [
            ("http://user:pw@host:80/x?a=b@c", "http://[hidden]@host:80/x?a=b@c"),
            ("HTTPS://user@host", "HTTPS://[hidden]@host"),
            ("http://a@b@host/x", "http://[hidden]@host/x"),
            ("http://u:p w\"@host/x", "http://[hidden]@host/x"),
            ("user:pw@host:80/pkg.Service/Method", "[hidden]@host:80/pkg.Service/Method"),
            ("http://host/x?to=http://u:p@h", "http://host/x?to=http://u:p@h"),
            ("http://@host/x", "http://@host/x"),
            ("http://host/a@b", "http://host/a@b"),
            ("wasm://bank@sha256:12/try", "wasm://bank@sha256:12/try"),
            ("", ""),
        ] {
            assert_eq!(address(given), shown, "{given}");
        }
    }

    #[test]
    fn addresses_in_texts_lose_their_userinfo() {
        for (given, shown) in [
            ("error for url (http://u:p@h/x): refused", "error for url (http://[hidden]@h/x): refused"),
            ("\"http://u:p@h\" and https://v@i?x", "\"http://[hidden]@h\" and https://[hidden]@i?x"),
            ("write to me@example.com about http://h", "write to me@example.com about http://h"),
            ("wasm://bank@sha256:12/try", "wasm://bank@sha256:12/try"),
        ] {
            assert_eq!(addresses(given), shown, "{given}");
        }
    }

    #[test]
    fn names_of_headers_ignore_case_and_a_setting_adds_some() {
        let headers = Headers::new(["X-Api-Key".to_owned()]);
        for name in ["AUTHORIZATION", "cookie", "Proxy-authorization", "x-api-KEY"] {
            assert_eq!(header(&headers, name, "v"), HIDDEN, "{name}");
        }
        assert_eq!(header(&headers, "X-Request-Id", "v"), "v");
        assert_eq!(header(&headers, "Cookie", ""), "");
    }

    #[test]
    fn what_a_branch_repeats_is_hidden_in_every_spelling() {
        let given = [("Authorization", "Bearer TOP/SECRET+1=="), ("cookie", "a=1; session=\"s3ss1on-id\"; b=2")];
        let saga = saga("http://user%40x:hunter%232@h/x", "", &given);
        let secrets = Secrets::of(&saga, &Headers::default());
        for (text, shown) in [
            ("got Bearer TOP/SECRET+1==", "got [hidden]"),
            ("bad token TOP/SECRET+1==!", "bad token [hidden]!"),
            (r#"{"authorization":"Bearer TOP\/SECRET+1=="}"#, r#"{"authorization":"[hidden]"}"#),
            ("?token=TOP%2FSECRET%2B1%3D%3D&x", "?token=[hidden]&x"),
            ("session s3ss1on-id is over", "session [hidden] is over"),
            ("a=1; session=\"s3ss1on-id\"; b=2", "[hidden]"),
            ("hunter#2 is wrong for user@x!", "[hidden] is wrong for user@x!"),
            ("user%40x:hunter%232", "[hidden]"),
            ("cut off in TOP/SE", "cut off in [hidden]"),
            ("cut off in TOP/SE…", "cut off in [hidden]…"),
            ("nothing to hide…", "nothing to hide…"),
            ("Basic dXNlckB4Omh1bnRlciMy", "Basic [hidden]"),
            ("Bearer is the scheme", "Bearer is the scheme"),
            ("", ""),
        ] {
            assert_eq!(secrets.text(Some(0), text), shown, "{text}");
        }
        assert_eq!(secrets.text(None, "hunter#2"), "hunter#2", "not the secret of this step");
    }

    #[test]
    fn basic_authorization_is_hidden_decoded_too() {
        let saga = saga("http://h", "", &[("authorization", "Basic dXNlcjpodW50ZXIy")]);
        let secrets = Secrets::of(&saga, &Headers::default());
        assert_eq!(secrets.text(None, "no user has the password hunter2"), "no user has the password [hidden]");
    }

    #[test]
    fn no_secret_is_left_whatever_stands_around_it() {
        for (secrets, text) in [
            (&["x[hidden]y", "secret"][..], "xsecrety"),
            (&["en]a", "secret"], "secreta"),
            (&["aaaa"], "aaaaaaaaa"),
            (&["abcd", "cdef"], "abcdef"),
        ] {
            let shown = hide(secrets, text);
            assert!(secrets.iter().all(|secret| !shown.contains(secret)), "{shown}");
        }
        assert_eq!(hide(&["hidden", "abc"], "hidden abc"), "[hidden] abc");
    }

    #[test]
    fn a_saga_with_many_secrets_shows_no_text() {
        let cookie: Vec<String> = (0..40).map(|number| format!("c{number}=cookie-{number:04}")).collect();
        let saga = saga("http://h", "", &[("cookie", &cookie.join("; "))]);
        let secrets = Secrets::of(&saga, &Headers::default());
        assert_eq!((secrets.text(None, "cookie-0039"), secrets.text(None, "")), (HIDDEN.into(), "".into()));
    }

    #[test]
    fn a_placeholder_is_refused_where_a_secret_stands() {
        let check = |saga: &Definition| check(saga, &Headers::default()).map_err(|refused| refused.to_string());
        let mend = "has [hidden], which is shown in place of a secret: send the secret itself";
        let refused = |place: &str| Err(format!("{place} {mend}"));
        let headers = [("Authorization", "Bearer [hidden]")];
        assert_eq!(check(&saga("a", "b", &headers)), refused("branch_headers: the value of Authorization"));
        let place = "the address of the compensate of step 0 (counted from 0)";
        assert_eq!(check(&saga("http://a", "http://[hidden]@b/x", &[])), refused(place));
        assert_eq!(check(&saga("http://a", "http://%5Bhidden%5D@b/x", &[])), refused(place));
        assert_eq!(check(&saga("http://a/[hidden]", "", &[("x-note", "[hidden]")])), Ok(()));
    }
}
