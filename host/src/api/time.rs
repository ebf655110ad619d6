//! Moments, as the APIs show them.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::saga::Timestamp;

/// A moment in RFC 3339, UTC, with milliseconds.
pub struct Time(pub Timestamp);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Years after 9999 have no RFC 3339; a client can ask for such a timeout all the same.
        let moment = i64::try_from(self.0.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        write!(f, "{:.3}", moment.unwrap_or(jiff::Timestamp::MAX))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_beyond_the_calendar_are_shown_as_its_end() {
        assert_eq!(Time(Timestamp(0)).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Time(Timestamp(u64::MAX)).to_string(), "9999-12-30T22:00:00.999Z");
    }
}
