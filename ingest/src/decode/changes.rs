//! Debezium's envelope: what became of a database's row, told as `before`, `after` and `op`.
//!
//! | `op` | what it is |
//! |---|---|
//! | `c`, `r`, `u` | the row as `after` has it (created, read by the first snapshot, updated) |
//! | `d` | the row of `before`, or of the record's key when there is no `before`, is deleted |
//!
//! Anything else (`t`, a table was emptied; `m`, a message of the database's log) has no row: a dead letter.

use super::value::Value;
use super::{Reason, Rejection};

/// What a text column holds when the database did not send an unchanged long value.
const NOT_SENT: &str = "__debezium_unavailable_value";

/// A change, its parts borrowed from the message's tree.
#[derive(Debug)]
pub(super) struct Change<'v, 'a> {
    /// The envelope: `payload` of the message, or the whole.
    pub(super) envelope: &'v Value<'a>,
    /// The row; none when only the record's key tells it.
    pub(super) row: Option<&'v Value<'a>>,
    /// Whether the row is gone.
    pub(super) deleted: bool,
}

/// The change that `message` tells.
///
/// # Errors
/// [`Reason::Malformed`] or [`Reason::UnsupportedChange`].
pub(super) fn change<'v, 'a>(message: &'v Value<'a>) -> Result<Change<'v, 'a>, Rejection> {
    // The JSON converter wraps what it writes with its schema.
    let envelope = match message.field("payload") {
        Some(payload) if matches!(payload.bare(), Value::Object(_)) && message.field("op").is_none() => payload,
        _ => message,
    };
    let Some(Value::Text(op)) = envelope.field("op").map(Value::bare) else {
        let detail = "the message is no Debezium change: it has no `op`. Remove changes = \"debezium\" from the source, \
            or check that the connector does not unwrap its changes";
        return Err(Rejection::new(Reason::Malformed, detail));
    };
    let row = |name: &str| {
        envelope
            .field(name)
            .filter(|row| matches!(row.bare(), Value::Object(_)))
    };
    match op.as_ref() {
        "c" | "r" | "u" => match row("after") {
            Some(after) => Ok(Change {
                envelope,
                row: Some(after),
                deleted: false,
            }),
            None => {
                let detail = format!("the change has op `{op}`, but its `after` is no row");
                Err(Rejection::new(Reason::Malformed, detail))
            }
        },
        "d" => Ok(Change {
            envelope,
            row: row("before"),
            deleted: true,
        }),
        "t" => {
            let detail = "the table was emptied (op `t`), which names no row: the rows keep their features until each is \
                deleted or written anew";
            Err(Rejection::new(Reason::UnsupportedChange, detail))
        }
        other => {
            let detail = format!(
                "the change has op `{}`, which is no change of a row: only c, r, u and d are",
                super::excerpt(other)
            );
            Err(Rejection::new(Reason::UnsupportedChange, detail))
        }
    }
}

/// Refuses the placeholder of a value that the database left out: it is not the row's value.
pub(super) fn check_sent(value: &Value<'_>, place: &dyn std::fmt::Display) -> Result<(), Rejection> {
    if matches!(value.bare(), Value::Text(text) if text == NOT_SENT) {
        let detail = format!(
            "{place} was not sent, because the update left its long value as it was: give the table REPLICA IDENTITY \
             FULL, or leave the column out of the source"
        );
        return Err(Rejection::new(Reason::UnsupportedChange, detail));
    }
    Ok(())
}
