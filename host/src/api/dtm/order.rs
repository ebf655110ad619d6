//! `custom_data` of a saga: JSON in a string. `concurrent` and `orders` say in which order the actions may start. Wasaga
//! adds `any_2xx_succeeds` and `rejects_5xx_after`, rules for the responses of HTTP branches: DTM ignores them, and DTM's
//! clients can set them, since they let the program choose `custom_data`.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::lenient::{Fields, Object, Text, Whole, set, within};
use crate::saga::{Order, Results};

/// Decodes `custom_data`. An empty text, `null`, `{}` and `[]` (PHP's empty map) mean one step after the other.
pub fn decode(custom_data: &str) -> Result<(Order, Results), serde_json::Error> {
    match custom_data.trim_ascii() {
        "" | "null" | "[]" => Ok(Default::default()),
        json => serde_json::from_str(json).map(|Object(Custom { order, results })| (order, results)),
    }
}

#[derive(Default)]
struct Custom {
    order: Order,
    results: Results,
}

impl<'de> Fields<'de> for Custom {
    const NAMES: &'static [&'static str] = &["concurrent", "orders", "any_2xx_succeeds", "rejects_5xx_after"];

    fn read<A: MapAccess<'de>>(&mut self, name: &'static str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "concurrent" => set::<bool, _>(&mut self.order.concurrent, map),
            "orders" => set::<Orders, _>(&mut self.order.after, map),
            "any_2xx_succeeds" => set::<bool, _>(&mut self.results.any_2xx_succeeds, map),
            _ => set::<Whole, _>(&mut self.results.rejects_5xx_after, map),
        }
    }
}

/// For each step, by its index as text, the indexes of the steps that it waits for.
struct Orders(BTreeMap<usize, Vec<usize>>);

impl From<Orders> for BTreeMap<usize, Vec<usize>> {
    fn from(orders: Orders) -> Self {
        orders.0
    }
}

impl<'de> Deserialize<'de> for Orders {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Orders;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object like {\"1\":[0]}: step 1 after step 0")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Orders, A::Error> {
                let mut orders = BTreeMap::new();
                while let Some(Text(key)) = map.next_key()? {
                    let step = key.parse::<usize>().map_err(|_| {
                        A::Error::custom(format_args!("{key:?} is not the number of a step, counted from 0"))
                    })?;
                    let befores = map.next_value::<Option<Vec<Index>>>().map_err(within(&key))?;
                    orders.insert(step, befores.unwrap_or_default().into_iter().map(|Index(index)| index).collect());
                }
                Ok(Orders(orders))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Orders, A::Error> {
                match seq.next_element::<IgnoredAny>()? {
                    None => Ok(Orders(BTreeMap::new())),
                    Some(_) => Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self)),
                }
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

struct Index(usize);

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let index = u64::from(Whole::deserialize(deserializer)?);
        // An index that does not fit is not that of a step, and is refused as such.
        Ok(Self(usize::try_from(index).unwrap_or(usize::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(concurrent: bool, after: &[(usize, &[usize])]) -> Order {
        Order { concurrent, after: after.iter().map(|(step, befores)| (*step, befores.to_vec())).collect() }
    }

    #[test]
    fn orders_of_clients_are_decoded() {
        for empty in ["", " ", "null", "{}", "[]", r#"{"orders":null,"concurrent":null}"#, r#"{"orders":[]}"#] {
            assert_eq!(decode(empty).unwrap(), (Order::default(), Results::default()), "{empty}");
        }
        let go = r#"{"concurrent":true,"orders":{"1":[0],"2":[0,1]}}"#;
        assert_eq!(decode(go).unwrap().0, order(true, &[(1, &[0]), (2, &[0, 1])]));
        let odd = r#"{"CONCURRENT":true,"delay":3,"orders":{"01":[1],"01":null,"2":[0],"2":[1]}}"#;
        assert_eq!(decode(odd).unwrap().0, order(true, &[(1, &[]), (2, &[1])]));
    }

    #[test]
    fn rules_for_responses_are_decoded() {
        let results = |json| decode(json).unwrap().1;
        let given = Results { any_2xx_succeeds: Some(true), rejects_5xx_after: Some(3) };
        assert_eq!(results(r#"{"any_2xx_succeeds":true,"rejects_5xx_after":3}"#), given);
        let absent = Results { any_2xx_succeeds: Some(false), rejects_5xx_after: None };
        assert_eq!(results(r#"{"any_2xx_succeeds":false,"rejects_5xx_after":null}"#), absent);
        assert!(decode(r#"{"rejects_5xx_after":-1}"#).is_err() && decode(r#"{"any_2xx_succeeds":1}"#).is_err());
    }

    #[test]
    fn mistakes_are_refused_with_their_place() {
        for (custom_data, message) in [
            ("concurrent", "expected value at line 1 column 1"),
            ("[1]", "invalid type: sequence, expected a JSON object at line 1 column 0"),
            ("7", "invalid type: integer `7`, expected a JSON object at line 1 column 1"),
            (
                r#"{"concurrent":"yes"}"#,
                r#"concurrent: invalid type: string "yes", expected a boolean at line 1 column 19"#,
            ),
            (
                r#"{"orders":[[0]]}"#,
                "orders: invalid type: sequence, expected an object like {\"1\":[0]}: step 1 after step 0 at line 1 column 15",
            ),
            (
                r#"{"orders":{"x":[0]}}"#,
                "orders: \"x\" is not the number of a step, counted from 0 at line 1 column 14",
            ),
            (
                r#"{"orders":{"1":[-1]}}"#,
                "orders: 1: invalid value: integer `-1`, expected a whole number, 0 or more at line 1 column 18",
            ),
            (r#"{"orders":{"1":0}}"#, "orders: 1: invalid type: integer `0`, expected a sequence at line 1 column 16"),
        ] {
            assert_eq!(decode(custom_data).unwrap_err().to_string(), message, "{custom_data}");
        }
    }
}
