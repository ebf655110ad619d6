//! Parts that several responses of `/api/v1` have in common.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::saga::Pin;

/// The code of a plugin.
#[derive(Serialize)]
pub struct Component<'a> {
    plugin: &'a str,
    sha256: String,
}

impl<'a> Component<'a> {
    /// The component that an operation is pinned to.
    pub fn new(pin: &'a Pin) -> Self {
        Self { plugin: &pin.plugin, sha256: pin.digest.to_string() }
    }
}

/// The output of an action: JSON unchanged, anything else as a JSON string.
pub struct Output<'a>(pub Cow<'a, str>);

impl Serialize for Output<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_str::<&RawValue>(&self.0) {
            Ok(json) => json.serialize(serializer),
            Err(_) => serializer.serialize_str(&self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_shown_as_it_is() {
        // Numbers are not parsed: a double could not hold the first one.
        for (output, shown) in [
            (r#"{"a":9007199254740993.10}"#, r#"{"a":9007199254740993.10}"#),
            ("null", "null"),
            ("seat 7", r#""seat 7""#),
            ("1 2", r#""1 2""#),
        ] {
            assert_eq!(serde_json::to_string(&Output(output.into())).unwrap(), shown);
        }
    }
}
