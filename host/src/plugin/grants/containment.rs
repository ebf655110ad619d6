//! Whether effects of a plugin can leave the host: decided when it is loaded, from its imports and its grants.
//!
//! The only import with such effects is outgoing HTTP, and only for addresses that the grants allow. Nearly every component
//! imports sockets (Rust's standard library does), and the host refuses every connection of theirs.

use super::entry::{Grants, header};
use crate::branch::Containment;

/// The import by which effects leave the host, without its version.
pub const OUTGOING_HANDLER: &str = "wasi:http/outgoing-handler";

/// The containment of a plugin, and the reason for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classification {
    /// [`Containment::Contained`], or [`Containment::Gated`].
    pub containment: Containment,
    /// Completes "the plugin ...".
    pub reason: String,
}

/// Classifies the plugin `name` whose component has these imports.
pub fn classify<'a>(name: &str, mut imports: impl Iterator<Item = &'a str>, grants: &Grants) -> Classification {
    let is_outgoing = |import: &str| import.split('@').next() == Some(OUTGOING_HANDLER);
    if !imports.any(is_outgoing) {
        return Classification {
            containment: Containment::Contained,
            reason: "imports nothing that leaves the host".to_owned(),
        };
    }
    let rules: Vec<String> = grants.http_rules().iter().map(ToString::to_string).collect();
    if rules.is_empty() {
        let reason = format!("imports {OUTGOING_HANDLER} but is granted no address: {} http", header(name));
        return Classification { containment: Containment::Contained, reason };
    }
    let reason = format!("imports {OUTGOING_HANDLER} and is granted {}", rules.join(", "));
    Classification { containment: Containment::Gated, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::grants::{entry::Settings, rule::Allowed};

    #[test]
    fn imports_and_grants_decide_together() {
        let allowed = Allowed { url: "https://a.example/v1/".into(), methods: vec!["POST".into()], private: false };
        let granted = Grants::new("p", &Settings { http: vec![allowed], ..Default::default() }).unwrap();
        let judged = |imports: &[&str], grants: &Grants| {
            let Classification { containment, reason } = classify("p", imports.iter().copied(), grants);
            (containment, reason)
        };
        let others = ["wasi:sockets/tcp@0.2.3", "wasi:http/types@0.2.3", "wasi:http/outgoing-handler-of-others@1.0.0"];
        let with = [&others[..], &["wasi:http/outgoing-handler@0.2.3"]].concat();
        let nothing = "imports nothing that leaves the host".to_owned();
        assert_eq!(judged(&others, &granted), (Containment::Contained, nothing.clone()));
        assert_eq!(judged(&[], &Grants::default()), (Containment::Contained, nothing));
        let reason = "imports wasi:http/outgoing-handler and is granted https://a.example/v1/ (POST)";
        assert_eq!(judged(&with, &granted), (Containment::Gated, reason.to_owned()));
        let reason = "imports wasi:http/outgoing-handler but is granted no address: [plugins.grants.p] http";
        assert_eq!(judged(&with, &Grants::default()), (Containment::Contained, reason.to_owned()));
    }
}
