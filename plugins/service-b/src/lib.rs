//! The tutorial's second service: it rejects amounts over 500, which rolls the whole saga back.

wit_bindgen::generate!({ world: "plugin", path: "../../wit", generate_all });

use exports::wasaga::saga::branch::{Call, Failure, Guest};

/// The largest amount that is accepted.
const AMOUNT_MAX: i128 = 500;

struct ServiceB;

impl Guest for ServiceB {
    fn try_(call: Call) -> Result<Option<String>, Failure> {
        match amount(&call.payload) {
            None => {
                println!("[Service B] try: invalid request");
                Err(Failure::Rejected("invalid request".into()))
            }
            Some(amount) if amount > AMOUNT_MAX => {
                println!("[Service B] try amount={amount}: simulated failure");
                Err(Failure::Rejected("simulated failure".into()))
            }
            Some(amount) => {
                println!("[Service B] try amount={amount}");
                Ok(None)
            }
        }
    }

    fn cancel(_call: Call, _tried: Option<String>) -> Result<(), Failure> {
        println!("[Service B] cancel: rolling back");
        Ok(())
    }
}

/// The integer `amount` of a payload that is a JSON object.
fn amount(payload: &str) -> Option<i128> {
    let payload: serde_json::Value = serde_json::from_str(payload).ok()?;
    payload.get("amount")?.as_number()?.as_i128()
}

export!(ServiceB);
