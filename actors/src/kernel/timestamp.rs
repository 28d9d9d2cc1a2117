//! Points in time for operators. Actors measure with the monotonic clock, which a person cannot read.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A point in time. Its text is RFC 3339 in UTC, with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub(crate) SystemTime);

impl Timestamp {
    /// The present.
    pub fn now() -> Self {
        Clock::now().timestamp()
    }

    /// The time `since` the begin of 1970.
    pub fn from_unix(since: Duration) -> Self {
        Self(UNIX_EPOCH + since)
    }

    /// A point in time so far from now.
    pub(crate) fn in_future(time: Duration) -> Self {
        let now = Self::now();
        now.0.checked_add(time).map_or(now, Self)
    }

    /// Seconds since 1970.
    pub fn unix_seconds(&self) -> f64 {
        let since = self.0.duration_since(UNIX_EPOCH);
        since.unwrap_or_default().as_secs_f64()
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_millis(self.0))
    }
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .description(Some("A point in time (RFC 3339, UTC, with milliseconds)."))
            .examples(["2026-03-01T12:00:00.000Z"])
            .into()
    }
}

impl ToSchema for Timestamp {}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let time = humantime::parse_rfc3339(&text).map_err(D::Error::custom)?;
        Ok(Self(time))
    }
}

/// Both clocks at one moment. All points in time of one report follow from one value of this type, so
/// that their differences are exact.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    instant: Instant,
    time: SystemTime,
}

impl Clock {
    /// Both clocks now.
    pub fn now() -> Self {
        Self {
            instant: Instant::now(),
            time: SystemTime::now(),
        }
    }

    /// The moment of this value.
    pub fn timestamp(&self) -> Timestamp {
        self.time_of(self.instant)
    }

    /// The point in time of `instant`, by the present setting of the system's clock. Not before 1970,
    /// which the text could not express.
    pub fn time_of(&self, instant: Instant) -> Timestamp {
        let before = self.instant.saturating_duration_since(instant);
        let after = instant.saturating_duration_since(self.instant);
        let time = self.time.checked_sub(before);
        let time = time.and_then(|time| time.checked_add(after));
        Timestamp(time.unwrap_or(UNIX_EPOCH).max(UNIX_EPOCH))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_instant_becomes_text_in_utc() {
        let clock = Clock {
            instant: Instant::now(),
            time: UNIX_EPOCH + Duration::from_millis(86_400_123),
        };
        let text = |timestamp| serde_json::to_value(timestamp).unwrap();
        let second = Duration::from_secs(1);
        assert_eq!(text(clock.timestamp()), "1970-01-02T00:00:00.123Z");
        let later = clock.time_of(clock.instant + second);
        assert_eq!(text(later), "1970-01-02T00:00:01.123Z");
        if let Some(earlier) = clock.instant.checked_sub(second) {
            let earlier = text(clock.time_of(earlier));
            assert_eq!(earlier, "1970-01-01T23:59:59.123Z");
        }
    }

    #[test]
    fn a_text_becomes_the_point_in_time_that_it_was_made_of() {
        let text = serde_json::json!("1970-01-02T00:00:00.123Z");
        let timestamp: Timestamp = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(timestamp).unwrap(), text);
        serde_json::from_str::<Timestamp>("\"yesterday\"").unwrap_err();
    }

    #[test]
    fn a_clock_before_1970_has_a_text() {
        let clock = Clock {
            instant: Instant::now(),
            time: UNIX_EPOCH - Duration::from_secs(5),
        };
        let text = serde_json::to_value(clock.timestamp()).unwrap();
        assert_eq!(text, "1970-01-01T00:00:00.000Z");
    }
}
