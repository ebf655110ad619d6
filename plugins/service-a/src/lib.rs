//! The tutorial's first service: it logs every call and always succeeds.

wit_bindgen::generate!({ world: "plugin", path: "../../wit", generate_all });

use exports::wasaga::saga::branch::{Call, Failure, Guest};

struct ServiceA;

impl Guest for ServiceA {
    fn try_(call: Call) -> Result<Option<String>, Failure> {
        println!("[Service A] try amount={}", amount(&call));
        Ok(None)
    }

    fn cancel(_call: Call, _tried: Option<String>) -> Result<(), Failure> {
        println!("[Service A] cancel: rolling back");
        Ok(())
    }
}

/// For the log only: this service accepts any payload.
fn amount(call: &Call) -> String {
    let payload: serde_json::Value = serde_json::from_str(&call.payload).unwrap_or_default();
    payload["amount"].to_string()
}

export!(ServiceA);
