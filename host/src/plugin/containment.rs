//! Whether anything that a plugin does can leave the host: decided when it is loaded, from its imports and its grants.
//!
//! The one import that leads out is outgoing HTTP, and only to what the grants allow. Sockets are imported by nearly
//! every component (Rust's standard library brings them along), and every connection by them is refused.

use super::grants::Grants;
use crate::branch::Containment;

/// The import that leads out, without its version.
pub const WAY_OUT: &str = "wasi:http/outgoing-handler";

/// What was decided, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classification {
    /// [`Containment::Contained`], or [`Containment::Gated`].
    pub containment: Containment,
    /// For listings; completes "the plugin ...".
    pub reason: String,
}

/// Decides it for the plugin `name` whose component has these imports.
pub fn classify<'a>(name: &str, mut imports: impl Iterator<Item = &'a str>, grants: &Grants) -> Classification {
    let is_way_out = |import: &str| import.split('@').next() == Some(WAY_OUT);
    if !imports.any(is_way_out) {
        return Classification {
            containment: Containment::Contained,
            reason: "imports nothing that leaves the host".to_owned(),
        };
    }
    let rules: Vec<String> = grants.http_rules().iter().map(ToString::to_string).collect();
    if rules.is_empty() {
        let reason = format!("imports {WAY_OUT} but is granted no address: [plugins.grants.{name}] http");
        return Classification { containment: Containment::Contained, reason };
    }
    let reason = format!("imports {WAY_OUT} and is granted {}", rules.join(", "));
    Classification { containment: Containment::Gated, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{grants, http::rule::Allowed};

    #[test]
    fn imports_and_grants_decide_together() {
        let allowed = Allowed { url: "https://a.example/v1/".into(), methods: vec!["POST".into()], private: false };
        let granted = Grants::new("p", &grants::Settings { http: vec![allowed], ..Default::default() }).unwrap();
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
