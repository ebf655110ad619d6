//! JSON with the leniency of Go's decoder, on which DTM's clients depend.
//!
//! `null` means that a field is absent, unknown keys are ignored, the last of several equal keys counts, and the case of
//! keys is ignored. Values are borrowed from the body where possible.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor},
};

/// JSON that cannot be read, in words for the author of the client. Of the decoder's own words, those about escapes are
/// replaced: they do not say which character is at fault.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        let text = error.to_string();
        let half = ["unexpected end of hex escape", "lone leading surrogate in hex escape"];
        Self(half.iter().fold(text, |text, word| text.replace(word, HALF_A_PAIR)))
    }
}

/// What half of a surrogate pair usually comes from.
const HALF_A_PAIR: &str = "half a surrogate pair (was the text cut within a character?)";

/// The words of an error about JSON inside other JSON, without its place, which is not one in the outer text.
pub fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or_else(|| text.clone(), |(words, _)| words.to_owned())
}

/// A JSON object with known fields.
pub trait Fields<'de>: Default {
    /// The names of its fields.
    const NAMES: &'static [&'static str];

    /// Reads the value of the field `name`.
    fn read<A: MapAccess<'de>>(&mut self, name: &'static str, map: &mut A) -> Result<(), A::Error>;
}

/// Reads the value of the current key into `field`; `null` leaves it unchanged.
pub fn set<'de, T, A>(field: &mut impl From<T>, map: &mut A) -> Result<(), A::Error>
where
    T: Deserialize<'de>,
    A: MapAccess<'de>,
{
    if let Some(value) = map.next_value::<Option<T>>()? {
        *field = value.into();
    }
    Ok(())
}

/// Adds to an error the part of the value that it concerns.
pub fn within<E: Error>(part: impl fmt::Display) -> impl FnOnce(E) -> E {
    move |error| E::custom(format_args!("{part}: {error}"))
}

/// A value that is read from the entries of a JSON object.
pub trait Entries<'de>: Sized {
    /// The expected form of the object, for errors.
    const EXPECTED: &'static str;

    /// The value of `[]`, which is how PHP writes an empty map; `None`: it is refused.
    const EMPTY: Option<fn() -> Self> = None;

    /// Reads all entries.
    fn read<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error>;
}

/// Deserializes a value by its [`Entries`].
pub fn deserialize_entries<'de, T: Entries<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Reader<T>(PhantomData<T>);

    impl<'de, T: Entries<'de>> Visitor<'de> for Reader<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::EXPECTED)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::read(map)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
            match T::EMPTY {
                Some(empty) if seq.next_element::<IgnoredAny>()?.is_none() => Ok(empty()),
                _ => Err(A::Error::invalid_type(Unexpected::Seq, &self)),
            }
        }
    }

    let reader = Reader(PhantomData);
    if T::EMPTY.is_some() { deserializer.deserialize_any(reader) } else { deserializer.deserialize_map(reader) }
}

/// Deserializes a JSON object by its [`Fields`].
pub struct Object<T>(pub T);

impl<'de, T: Fields<'de>> Entries<'de> for Object<T> {
    const EXPECTED: &'static str = "a JSON object";

    fn read<A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut object = T::default();
        while let Some(Text(key)) = map.next_key()? {
            match T::NAMES.iter().find(|name| name.eq_ignore_ascii_case(&key)) {
                Some(name) => object.read(name, &mut map).map_err(within(name))?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Self(object))
    }
}

impl<'de, T: Fields<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_entries(deserializer)
    }
}

/// A string, borrowed from the body unless it holds escapes.
#[derive(Debug, Default)]
pub struct Text<'a>(pub Cow<'a, str>);

impl<'a> From<Text<'a>> for Cow<'a, str> {
    fn from(text: Text<'a>) -> Self {
        text.0
    }
}

impl From<Text<'_>> for String {
    fn from(text: Text<'_>) -> Self {
        text.0.into_owned()
    }
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Reader)
    }
}

/// A whole number, 0 or more, that fits Go's `int64`.
pub struct Whole(u64);

impl From<Whole> for u64 {
    fn from(whole: Whole) -> Self {
        whole.0
    }
}

impl From<Whole> for Option<u64> {
    fn from(whole: Whole) -> Self {
        Some(whole.0)
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl Visitor<'_> for Reader {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, 0 or more")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Whole, E> {
                match i64::try_from(number) {
                    Ok(_) => Ok(Whole(number)),
                    Err(_) => Err(E::invalid_value(Unexpected::Unsigned(number), &"a number below 2^63")),
                }
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Whole, E> {
                u64::try_from(number).map(Whole).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
            }
        }

        deserializer.deserialize_u64(Reader)
    }
}

/// An array of which the first `MAX` elements are kept and all are counted. `null` elements become defaults.
pub struct Items<T, const MAX: usize> {
    pub kept: Vec<T>,
    /// The number of all elements.
    pub count: usize,
}

impl<T, const MAX: usize> Default for Items<T, MAX> {
    fn default() -> Self {
        Self { kept: Vec::new(), count: 0 }
    }
}

impl<'de, T: Deserialize<'de> + Default, const MAX: usize> Deserialize<'de> for Items<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de> + Default, const MAX: usize> Visitor<'de> for Reader<T, MAX> {
            type Value = Items<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Items::default();
                while items.count < MAX {
                    let element = seq.next_element::<Option<T>>();
                    let Some(item) = element.map_err(within(format_args!("element {}", items.count)))? else { break };
                    items.kept.push(item.unwrap_or_default());
                    items.count += 1;
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    items.count += 1;
                }
                Ok(items)
            }
        }

        deserializer.deserialize_seq(Reader(PhantomData))
    }
}
