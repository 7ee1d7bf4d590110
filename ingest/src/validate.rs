//! What an event must have beyond its columns' types: a time not ahead of its arrival, and the keys of its views.
//!
//! A late event is valid: it is kept and marked. What makes it late is its record alone, never a clock of ours, so that
//! a backlog which is read late is not late, and a second reading says the same.

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
    /// Whether it reached its stream later than the source allows: no view counts it.
    pub late: bool,
}

/// Checks an event that reached its stream at `written` and was accepted at `now`.
///
/// # Errors
/// [`Reason::MissingTime`], [`Reason::MissingKey`] or [`Reason::Future`].
pub fn validate(plan: &SourcePlan, cells: &[Cell<'_>], written: EventTime, now: EventTime) -> Result<Times, Rejection> {
    let Some(Cell::Micros(micros)) = cells.get(plan.time) else {
        let detail = format!(
            "the event has no time: {} is null or absent",
            plan.reading.place(plan.time)
        );
        return Err(Rejection::new(Reason::MissingTime, detail));
    };
    if let Some(key) = plan
        .keys
        .iter()
        .find(|key| matches!(cells.get(key.column), None | Some(Cell::Null)))
    {
        let detail = format!(
            "{} is null or absent, and view `{}` has it as a key",
            plan.reading.place(key.column),
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
        late: plan.late_us.is_some_and(|late_us| written.since(event_time) > late_us),
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
    use crate::decode::formats::Formats;
    use ondol_vocabulary::{
        DataType, Field, MessageShape, Snapshot, SourceDefinition, SourceOrigin, SourceVersion, StreamFormat,
        ViewDefinition, ViewState, ViewVersion,
    };

    fn plan(arrival: Arrival, late_us: i64) -> SourcePlan {
        let field = |name: &str, data_type| Field {
            name: name.to_owned(),
            data_type,
        };
        let definition = SourceDefinition {
            name: "transactions".to_owned(),
            origin: SourceOrigin::Stream {
                topic: "transactions".to_owned(),
                format: StreamFormat::Json,
                shape: MessageShape::default(),
            },
            time: "ts".to_owned(),
            late_us,
            arrival,
            schema: vec![field("card_id", DataType::String), field("ts", DataType::Timestamp)],
        };
        let view = ViewDefinition {
            name: "card".to_owned(),
            source: "transactions".to_owned(),
            key: vec![field("card_id", DataType::String)],
            filter: None,
            ttl_us: None,
            features: Vec::new(),
        };
        let source = SourceVersion { version: 1, definition };
        let snapshot = Snapshot {
            version: 1,
            sources: vec![source.clone()],
            views: vec![ViewVersion {
                id: 1,
                version: 1,
                state: ViewState::Active,
                definition: view,
            }],
            models: Vec::new(),
        };
        let compiled = SourcePlan::compile(&snapshot, &source, &Formats::default());
        compiled.unwrap().unwrap()
    }

    fn reason(arrival: Arrival, cells: &[Cell<'_>]) -> Result<Times, Reason> {
        let now = EventTime::from_micros(10);
        validate(&plan(arrival, 0), cells, now, now).map_err(|rejection| rejection.reason)
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
        let (plan, now) = (plan(Arrival::Ingest, 0), EventTime::MIN);
        let rejection = validate(&plan, &[Cell::Null, Cell::Micros(1)], now, now).unwrap_err();
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
    fn an_event_is_late_by_its_record_and_not_by_the_clock() {
        let cells = [Cell::Text("c".into()), Cell::Micros(100)];
        let late = |late_us, written, now| {
            let (written, now) = (EventTime::from_micros(written), EventTime::from_micros(now));
            let times = validate(&plan(Arrival::Ingest, late_us), &cells, written, now);
            times.unwrap().late
        };
        assert!(!late(50, 150, 1_000_000), "a backlog is read late, and is not late");
        assert!(late(50, 151, 151));
        assert!(!late(0, 1_000_000, 1_000_000), "without a bound nothing is late");
        assert!(!late(50, 90, 90), "ahead of its stream");
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
                ingested_at: event_time.plus_micros(5),
                late: false,
            })
        );
    }

    #[test]
    fn a_message_at_the_limit_is_taken() {
        assert!(check_size(b"1234", 4).is_ok());
        assert_eq!(check_size(b"12345", 4).unwrap_err().reason, Reason::TooLarge);
    }
}
