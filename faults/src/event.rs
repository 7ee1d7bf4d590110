//! What is produced: payments of known content, most of them good, some bad in one of the ways that ingest names.
//!
//! Each message carries two headers that ingest does not read: what must become of it, and its number. So the topic
//! alone, read again, says what every store must hold.

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Map, Value, json};

/// The header that says what must become of a message: [`GOOD`], or the reason of its dead letter.
pub(crate) const VERDICT: &str = "verdict";
/// The header that numbers the messages in the order in which they were made.
pub(crate) const NUMBER: &str = "number";
/// The verdict of a good event.
pub(crate) const GOOD: &str = "good";

/// Events larger than this are dead letters; the workers are configured so.
pub(crate) const MAX_EVENT_BYTES: usize = 4_096;

const CARDS: usize = 150;
const MERCHANTS: usize = 30;
/// Share of bad events, in a thousand.
const BAD: u32 = 30;
/// Share of events that repeat the one before, byte for byte, in a thousand.
const REPEATED: u32 = 10;
const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;

/// A message to be produced.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) number: u64,
    pub(crate) key: String,
    /// None is a tombstone.
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) verdict: &'static str,
}

/// Makes messages, the same ones for the same seed and times.
pub(crate) struct Generator {
    dice: StdRng,
    number: u64,
    last: Option<Message>,
}

impl Generator {
    pub(crate) fn new(dice: StdRng) -> Self {
        Self {
            dice,
            number: 0,
            last: None,
        }
    }

    /// The next message, of an event around `event_us`; the clock of the wall shows `wall_us`.
    pub(crate) fn next(&mut self, event_us: i64, wall_us: i64) -> Message {
        let number = self.number;
        self.number += 1;
        if self.dice.random_range(0..1_000) < REPEATED
            && let Some(last) = &self.last
        {
            return Message { number, ..last.clone() };
        }
        let (key, mut event) = self.event(number, event_us, wall_us);
        let verdict = if self.dice.random_range(0..1_000) < BAD {
            self.spoil(&mut event, wall_us)
        } else {
            GOOD
        };
        let payload = match verdict {
            "tombstone" => None,
            "malformed" => Some(self.mangled(&event)),
            _ => Some(Value::Object(event).to_string().into_bytes()),
        };
        let message = Message {
            number,
            key,
            payload,
            verdict,
        };
        self.last = Some(message.clone());
        message
    }

    fn event(&mut self, number: u64, event_us: i64, wall_us: i64) -> (String, Map<String, Value>) {
        let dice = &mut self.dice;
        // Squared: the first cards are busy, the last ones have few events.
        let card = (dice.random::<f64>().powi(2) * CARDS as f64) as usize % CARDS;
        // A tenth of the cards have clocks that run ahead, at merchants of their own: an event ahead moves a row's
        // windows, and the other rows shall keep full ones.
        let ahead = card % 10 == 9;
        let merchant = if ahead {
            dice.random_range(MERCHANTS - 3..MERCHANTS)
        } else {
            dice.random_range(0..MERCHANTS - 3)
        };
        let mut time = match dice.random_range(0..1_000) {
            0..700 => event_us - dice.random_range(0..60 * SECOND),
            700..900 => event_us - dice.random_range(0..HOUR / 2),
            900..990 => event_us - dice.random_range(0..12 * HOUR),
            _ => event_us - dice.random_range(0..96 * HOUR),
        };
        if ahead && dice.random_range(0..1_000) < 5 {
            time = wall_us + dice.random_range(SECOND..300 * SECOND);
        }
        if dice.random_range(0..10) == 0 {
            // Whole seconds: ties in time.
            time = time.div_euclid(SECOND) * SECOND;
        }
        let amount: f64 = dice.random_range(0.01..1_000.0);
        let amount = match dice.random_range(0..100) {
            0..2 => Value::Null,
            2..5 => json!(-amount),
            5..25 => json!(amount.round()),
            _ => json!(amount),
        };
        let country = match dice.random_range(0..10) {
            0 => Value::Null,
            known => json!(["KR", "DE", "BR", "NZ", "CA", "IN", "ES", "ZA", "JP"][known - 1]),
        };
        let time = if dice.random() {
            json!(time)
        } else {
            json!(rfc3339(time))
        };
        let key = format!("c{card:03}");
        let event = json!({
            "card_id": key,
            "merchant_id": format!("m{merchant:02}"),
            "amount": amount,
            "cents": dice.random_range(-100i64..100_000),
            "declined": dice.random_range(0..5) == 0,
            "country": country,
            "number": number,
            "ts": time,
            "note": "not in the schema",
        });
        let Value::Object(event) = event else {
            return (key, Map::new());
        };
        (key, event)
    }

    /// Spoils a good event in one way; the reason that its dead letter must give.
    fn spoil(&mut self, event: &mut Map<String, Value>, wall_us: i64) -> &'static str {
        let mut set = |name: &str, value: Value| drop(event.insert(name.to_owned(), value));
        match self.dice.random_range(0..10) {
            0 => "tombstone",
            1 | 2 => "malformed",
            3 => {
                set("amount", json!("12,50"));
                "wrong-type"
            }
            4 => {
                set("ts", json!("yesterday"));
                "wrong-type"
            }
            5 => {
                set("ts", Value::Null);
                "missing-time"
            }
            6 => {
                set("card_id", Value::Null);
                "missing-key"
            }
            7 => {
                event.remove("merchant_id");
                "missing-key"
            }
            8 => {
                set("note", json!("x".repeat(MAX_EVENT_BYTES)));
                "too-large"
            }
            _ => {
                set("ts", json!(wall_us + 48 * HOUR));
                "future"
            }
        }
    }

    /// No JSON object any more.
    fn mangled(&mut self, event: &Map<String, Value>) -> Vec<u8> {
        let mut bytes = Value::Object(event.clone()).to_string().into_bytes();
        match self.dice.random_range(0..3) {
            0 => bytes.truncate(bytes.len() / 2),
            1 => bytes = b"[1, 2]".to_vec(),
            _ => bytes = vec![0xff, 0xfe, 0x00, b'{'],
        }
        bytes
    }
}

/// Microseconds as RFC 3339 text.
fn rfc3339(micros: i64) -> String {
    chrono::DateTime::from_timestamp_micros(micros).map_or_else(String::new, |time| {
        time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn one_seed_makes_one_stream() {
        let messages = |seed| {
            let mut generator = Generator::new(StdRng::seed_from_u64(seed));
            (0..500)
                .map(|_| generator.next(HOUR * 1_000, HOUR * 1_000).payload)
                .collect::<Vec<_>>()
        };
        assert_eq!(messages(1), messages(1));
        assert_ne!(messages(1), messages(2));
    }
}
