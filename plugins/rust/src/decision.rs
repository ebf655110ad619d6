//! Decides about a payload. Does not depend on WebAssembly, so neither do the tests.

use serde::{Deserialize, Serialize};

/// The largest amount that is accepted.
const AMOUNT_MAX: i64 = 500;

/// Longest name of a customer, in bytes. The host limits the size of values and outputs.
const CUSTOMER_BYTES_MAX: usize = 1000;

/// A payload such as `{"amount": 100, "customer": "Zoë"}`, and the record that is stored.
#[derive(Deserialize, Serialize)]
struct Request {
    amount: i64,
    #[serde(default)]
    customer: String,
}

/// The line to print, and the record to store or the reason of a rejection.
pub struct Decision {
    pub line: String,
    pub record: Result<String, &'static str>,
}

pub fn decide(payload: &str) -> Decision {
    let Some(request) = read(payload) else {
        return Decision { line: "try: invalid request".into(), record: Err("invalid request") };
    };
    let Request { amount, customer } = &request;
    if *amount > AMOUNT_MAX {
        return Decision { line: format!("try amount={amount}: simulated failure"), record: Err("simulated failure") };
    }
    let record = serde_json::to_string(&request).map_err(|_| "invalid request");
    Decision { line: format!("try amount={amount} customer={customer}"), record }
}

/// The request of a valid payload. The amount must not be negative.
fn read(payload: &str) -> Option<Request> {
    // serde also reads an array as a struct, its elements as the fields in order.
    let is_object = payload.trim_start().starts_with('{');
    let request: Request = serde_json::from_str(payload).ok()?;
    let is_valid = is_object && request.amount >= 0 && request.customer.len() <= CUSTOMER_BYTES_MAX;
    is_valid.then_some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_request_is_recorded() {
        let Decision { line, record } = decide(r#"{"amount": 100, "customer": "Zoë 😀", "note": [1]}"#);
        assert_eq!(line, "try amount=100 customer=Zoë 😀");
        assert_eq!(record.as_deref(), Ok(r#"{"amount":100,"customer":"Zoë 😀"}"#));
        assert_eq!(decide(r#"{"amount": 0}"#).record.as_deref(), Ok(r#"{"amount":0,"customer":""}"#));
    }

    #[test]
    fn a_customer_has_up_to_1000_bytes() {
        let payload = |length| format!(r#"{{"amount": 1, "customer": "{}"}}"#, "é".repeat(length));
        assert!(decide(&payload(500)).record.is_ok());
        assert_eq!(decide(&payload(501)).record, Err("invalid request"));
    }

    #[test]
    fn only_amounts_up_to_500_are_accepted() {
        assert!(decide(r#"{"amount": 500}"#).record.is_ok());
        let Decision { line, record } = decide(r#"{"amount": 501}"#);
        assert_eq!((line.as_str(), record), ("try amount=501: simulated failure", Err("simulated failure")));
    }

    #[test]
    fn anything_else_is_invalid() {
        for payload in [
            "",
            "nonsense",
            "3",
            "[]",
            r#"[100, "Zoë"]"#,
            "{}",
            r#"{"amount": true}"#,
            r#"{"amount": -1}"#,
            r#"{"amount": 1.5}"#,
            r#"{"amount": 9223372036854775808}"#,
            r#"{"amount": 1, "customer": null}"#,
            r#"{"amount": 1, "customer": "\ud800"}"#,
        ] {
            assert_eq!(decide(payload).record, Err("invalid request"), "{payload}");
        }
    }
}
