//! Why a request was refused or has failed, for people: the guest learns an error code, and many languages drop that.

use std::{error::Error as StdError, sync::Arc};

use hyper_util::client::legacy;
use rustls::CertificateError;
use wasmtime_wasi_http::Error;

use crate::{
    branch::http::ANSWER_HEADERS_MAX,
    causes,
    egress::tls::tls_error,
    plugin::{
        grants::entry::Grants,
        imports::{output_gate::OutputGate, stdio::Stdio},
    },
    saga::text::escape,
};

/// Bytes of the head of an answer, and of the part of its body that is read ahead.
pub const READ_BYTES_MAX: usize = 64 << 10;

/// Bytes of a reason: enough for the rule that would allow a request.
const WHY_BYTES_MAX: usize = 1024;

/// Why no connection is made to an address that the rule does not allow.
pub const NOT_PUBLIC: &str = "its address is not public, and the entry of http does not say private = true";

/// Says of one request why it was refused or has failed: in the log, from the guest's budget, and in the attempt's error.
#[derive(Clone)]
pub struct Failures {
    /// The request as people may see it.
    what: Arc<str>,
    grants: Arc<Grants>,
    gate: OutputGate,
    stdio: Stdio,
}

impl Failures {
    /// For the request that `what` names, without secrets.
    pub fn new(what: &str, grants: Arc<Grants>, gate: OutputGate, stdio: Stdio) -> Self {
        Self { what: what.into(), grants, gate, stdio }
    }

    /// The request as people may see it.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The host has refused the request.
    pub fn refused(&self, why: &str) {
        let (what, why) = (&self.what, self.shown(why));
        self.stdio.warn(&format!("{what} is refused: {why}"));
        self.gate.refused(&format!("{what}: {why}"));
    }

    /// The request has failed.
    pub fn failed(&self, why: &str) {
        let text = format!("{} failed: {}", self.what, self.shown(why));
        self.stdio.warn(&text);
        self.gate.failed(text);
    }

    fn shown(&self, why: &str) -> String {
        escape(&self.grants.shown_with_host(why, WHY_BYTES_MAX)).into_owned()
    }
}

/// Why a request has failed that was sent, or was to be sent. `code` is the error code of the failure. `None`: it has been
/// said already.
pub fn why(error: &legacy::Error, code: &Error) -> Option<String> {
    let causes = || error.source().into_iter().flat_map(causes::chain);
    let innermost = || causes().last().map(ToString::to_string).unwrap_or_default();
    let of_hyper = |is: fn(&hyper::Error) -> bool| causes().any(|cause| cause.downcast_ref().is_some_and(is));
    Some(match code {
        // By the meter of the body.
        Error::HttpRequestBodySize(_) => return None,
        Error::DestinationIpProhibited => NOT_PUBLIC.to_owned(),
        Error::ConnectionRefused => "the connection was refused: does the server run, on this port?".to_owned(),
        Error::DnsError { .. } => format!("its name cannot be resolved: {}", innermost()),
        Error::DestinationUnavailable => format!("it cannot be connected to: {}", innermost()),
        Error::TlsCertificateError => {
            format!("its certificate is not trusted: {}", causes().find_map(of_tls).unwrap_or(INVALID))
        }
        Error::TlsProtocolError => {
            "it does not speak TLS, or not in a version and with ciphers of this host".to_owned()
        }
        Error::HttpProtocolError if of_hyper(hyper::Error::is_parse_too_large) => {
            format!("the head of its answer has more than {READ_BYTES_MAX} bytes or {ANSWER_HEADERS_MAX} headers")
        }
        Error::HttpProtocolError if of_hyper(hyper::Error::is_parse) => "its answer is not HTTP/1.1".to_owned(),
        Error::HttpProtocolError => "its body has another length than its headers say".to_owned(),
        _ if of_hyper(hyper::Error::is_incomplete_message) => {
            "the connection was closed before an answer came".to_owned()
        }
        _ => format!("the connection broke off: {}", innermost()),
    })
}

const INVALID: &str = "it is not valid";

/// What is wrong with a certificate, with the mend.
fn of_tls(cause: &(dyn StdError + 'static)) -> Option<&'static str> {
    let rustls::Error::InvalidCertificate(error) = tls_error(cause)? else { return None };
    Some(match error {
        CertificateError::UnknownIssuer => {
            "its issuer is none that this machine trusts: install the issuer's certificate, or name it in ca_file under [http]"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet: is the clock of this machine right?"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => "it is for another name",
        CertificateError::Revoked => "it has been revoked",
        _ => INVALID,
    })
}
