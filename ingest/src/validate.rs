//! What an event must have beyond its columns' types: a time not ahead of its arrival, and the keys of its views.
//! Lateness is not checked here: a late event is kept, and what it still changes is the store's to say.

use crate::decode::{Cell, Reason, Rejection};
use crate::plan::SourcePlan;
use ondol_vocabulary::{Arrival, EventTime};

/// How far an event's time may lie after its arrival: clocks of producers differ, but not by more.
pub const MAX_AHEAD_US: i64 = 3_600_000_000;

/// The two times of a valid event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When it happened.
    pub event_time: EventTime,
    /// When it counts as known.
    pub ingested_at: EventTime,
}

/// Checks an event that was accepted at `now`.
///
/// # Errors
/// [`Reason::MissingTime`], [`Reason::MissingKey`] or [`Reason::Future`].
pub fn validate(plan: &SourcePlan, cells: &[Cell<'_>], now: EventTime) -> Result<Times, Rejection> {
    let Some(Cell::Micros(micros)) = cells.get(plan.time) else {
        let name = plan.fields.get(plan.time).map_or("", |field| field.name.as_str());
        let detail = format!("the event has no time: field `{name}` is null or absent");
        return Err(Rejection::new(Reason::MissingTime, detail));
    };
    if let Some(key) = plan
        .keys
        .iter()
        .find(|key| matches!(cells.get(key.column), None | Some(Cell::Null)))
    {
        let name = plan.fields.get(key.column).map_or("", |field| field.name.as_str());
        let detail = format!(
            "field `{name}` is null or absent, and view `{}` has it as a key",
            key.view
        );
        return Err(Rejection::new(Reason::MissingKey, detail));
    }
    let event_time = EventTime::from_micros(*micros);
    let ingested_at = match plan.arrival {
        Arrival::Ingest => now,
        Arrival::EventTime { delay_us } => event_time.plus_micros(delay_us),
    };
    if event_time.since(ingested_at) > MAX_AHEAD_US {
        let detail = format!(
            "the event's time {event_time} lies more than an hour after its arrival at {ingested_at}: check the \
             producer's clock, and that numbers count microseconds"
        );
        return Err(Rejection::new(Reason::Future, detail));
    }
    Ok(Times {
        event_time,
        ingested_at,
    })
}

/// Refuses a message larger than `limit_bytes`.
///
/// # Errors
/// [`Reason::TooLarge`].
pub fn check_size(message: &[u8], limit_bytes: usize) -> Result<(), Rejection> {
    if message.len() <= limit_bytes {
        return Ok(());
    }
    let detail = format!(
        "the message has {} bytes, the limit is {limit_bytes}: send less, or raise `max_event_bytes`",
        message.len()
    );
    Err(Rejection::new(Reason::TooLarge, detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::json_tree::JsonFormat;
    use crate::decode::place::Reading;
    use crate::plan::{KeyColumn, delivery_schema};
    use ondol_vocabulary::{DataType, Field, MessageShape, StreamFormat};
    use std::sync::Arc;

    fn plan(arrival: Arrival) -> SourcePlan {
        let field = |name: &str, data_type| Field {
            name: name.to_owned(),
            data_type,
        };
        let fields = vec![field("card_id", DataType::String), field("ts", DataType::Timestamp)];
        SourcePlan {
            name: "transactions".to_owned(),
            version: 1,
            topic: "transactions".to_owned(),
            reading: Reading::new(
                &StreamFormat::Json,
                &MessageShape::default(),
                &fields,
                Arc::new(JsonFormat),
            ),
            schema: delivery_schema(&fields),
            fields,
            time: 1,
            keys: vec![KeyColumn {
                column: 0,
                view: "card".to_owned(),
            }],
            arrival,
        }
    }

    fn reason(arrival: Arrival, cells: &[Cell<'_>]) -> Result<Times, Reason> {
        validate(&plan(arrival), cells, EventTime::from_micros(10)).map_err(|rejection| rejection.reason)
    }

    #[test]
    fn an_event_needs_a_time() {
        assert_eq!(
            reason(Arrival::Ingest, &[Cell::Text("c".into()), Cell::Null]),
            Err(Reason::MissingTime)
        );
    }

    #[test]
    fn a_null_key_is_refused_and_the_view_named() {
        let rejection = validate(&plan(Arrival::Ingest), &[Cell::Null, Cell::Micros(1)], EventTime::MIN).unwrap_err();
        assert_eq!(rejection.reason, Reason::MissingKey);
        assert_eq!(
            rejection.detail,
            "field `card_id` is null or absent, and view `card` has it as a key"
        );
    }

    #[test]
    fn an_event_may_be_an_hour_ahead_and_no_more() {
        let at = |micros| [Cell::Text("c".into()), Cell::Micros(micros)];
        assert!(reason(Arrival::Ingest, &at(10 + MAX_AHEAD_US)).is_ok());
        assert_eq!(reason(Arrival::Ingest, &at(11 + MAX_AHEAD_US)), Err(Reason::Future));
    }

    #[test]
    fn replayed_history_counts_as_known_at_its_event_time_plus_the_delay() {
        let times = reason(
            Arrival::EventTime { delay_us: 5 },
            &[Cell::Text("c".into()), Cell::Micros(1 << 50)],
        );
        let event_time = EventTime::from_micros(1 << 50);
        assert_eq!(
            times,
            Ok(Times {
                event_time,
                ingested_at: event_time.plus_micros(5)
            })
        );
    }

    #[test]
    fn a_message_at_the_limit_is_taken() {
        assert!(check_size(b"1234", 4).is_ok());
        assert_eq!(check_size(b"12345", 4).unwrap_err().reason, Reason::TooLarge);
    }
}
