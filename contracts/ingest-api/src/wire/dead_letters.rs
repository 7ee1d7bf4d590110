//! Events that could not be taken, and what operators did about them.

use ondol_vocabulary::{EventTime, SourcePosition};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// An event that could not be taken. This is also the JSON value of each message of the dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct DeadLetter {
    /// The source's name.
    pub source: String,
    /// Where the event stands in the source's topic.
    pub position: SourcePosition,
    /// A stable name in kebab case: `malformed`, `wrong-type`, `missing-key`, `missing-time`, `too-large`, …
    pub reason: String,
    /// The field, the value and the remedy.
    pub detail: String,
    /// When ingest gave it up.
    pub at: EventTime,
    /// The original bytes, base64 (standard alphabet, padded).
    pub payload_base64: String,
    /// Whether `payload_base64` holds only the start of them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
    /// The message's key, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// The message's headers, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<MessageHeader>,
    /// The message's timestamp in the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<EventTime>,
    /// The letter that this event was a replay of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<SourcePosition>,
}

/// A header of a message.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct MessageHeader {
    /// Its name.
    pub name: String,
    /// Its bytes, base64.
    pub value_base64: String,
}

/// What has become of a dead letter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LetterState {
    /// Nothing yet.
    #[default]
    Open,
    /// Its payload was corrected, and waits to be replayed.
    Fixed,
    /// A replay was begun and is not known to have ended: the event may or may not be in the topic again.
    Replaying,
    /// The event was appended to the source's topic again.
    Replayed,
    /// It was given up on purpose.
    Discarded,
}

impl LetterState {
    /// Whether nothing is left to do.
    pub const fn is_handled(self) -> bool {
        matches!(self, Self::Replayed | Self::Discarded)
    }

    /// The stable name, in kebab case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Fixed => "fixed",
            Self::Replaying => "replaying",
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        }
    }
}

/// A dead letter and what has become of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct DeadLetterEntry {
    /// The letter.
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// What has become of it.
    pub state: LetterState,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_since: Option<EventTime>,
    /// The corrected payload, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_base64: Option<String>,
}

/// Which dead letters to list. Each condition that is given must hold.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeadLetterQuery {
    /// At most this many (default 100, at most 1,000).
    #[serde(default = "default_limit")]
    pub limit: u32,
    /// The page after the one whose `next` this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Only those of this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Only those of this partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// Only those given up at or after this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<EventTime>,
    /// Only the one at this position, `partition:offset`, whatever has become of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub position: Option<LetterPosition>,
    /// Also those that were replayed or discarded.
    #[serde(default)]
    pub all: bool,
}

const fn default_limit() -> u32 {
    100
}

impl Default for DeadLetterQuery {
    fn default() -> Self {
        Self {
            limit: default_limit(),
            after: None,
            reason: None,
            partition: None,
            since: None,
            position: None,
            all: false,
        }
    }
}

/// A position written as people write it: `partition:offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "0:17")]
pub struct LetterPosition(pub SourcePosition);

impl fmt::Display for LetterPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.partition, self.0.offset)
    }
}

impl FromStr for LetterPosition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split_once(':')
            .and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
        match numbers {
            Some((partition, offset)) if partition >= 0 && offset >= 0 => {
                Ok(Self(SourcePosition { partition, offset }))
            }
            _ => Err(format!(
                "`{text}` is no position: write PARTITION:OFFSET, for example 0:17"
            )),
        }
    }
}

impl TryFrom<String> for LetterPosition {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<LetterPosition> for String {
    fn from(position: LetterPosition) -> Self {
        position.to_string()
    }
}

/// Dead letters, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct DeadLetterPage {
    /// The letters.
    pub letters: Vec<DeadLetterEntry>,
    /// What to give as `after` for the page that follows; none on the last page.
    pub next: Option<String>,
}

/// How many dead letters there are, of which kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct DeadLetterSummary {
    /// The source's name.
    pub source: String,
    /// How many wait to be handled, by reason.
    pub open: BTreeMap<String, u64>,
    /// How many are in each state, by its name.
    pub states: BTreeMap<String, u64>,
    /// How many more there are, older than those that are counted here.
    pub not_counted: u64,
    /// Ranges of the topic that were left out on purpose, oldest first.
    pub skipped: Vec<SkippedRange>,
}

/// A range of the topic that was left out on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct SkippedRange {
    /// The partition.
    pub partition: i32,
    /// First offset left out.
    pub from: i64,
    /// First offset read again.
    pub to: i64,
    /// When it was asked for.
    pub at: EventTime,
    /// Why, in the words of whoever asked.
    pub reason: String,
}

/// Corrects a dead letter's payload, to be replayed later.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct FixRequest {
    /// Which letter.
    pub position: LetterPosition,
    /// The corrected message, base64.
    pub payload_base64: String,
}

/// What ingest thinks of a corrected payload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct FixReceipt {
    /// Why it would be refused again by the definitions in force; none when it would be taken.
    pub still_bad: Option<LetterRefusal>,
}

/// Appends dead letters' events, as corrected, to the source's topic again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ReplayRequest {
    /// Which letters, at most 1,000.
    pub positions: Vec<LetterPosition>,
    /// Also those that were replayed or discarded, or whose replay was interrupted.
    #[serde(default)]
    pub again: bool,
    /// Also those that would be refused again; each becomes a new dead letter that names its origin.
    #[serde(default)]
    pub unchecked: bool,
    /// Only tell what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Gives dead letters up on purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct DiscardRequest {
    /// Which letters, at most 1,000.
    pub positions: Vec<LetterPosition>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of the letters of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct HandledReceipt {
    /// Those that were handled, or would be.
    pub handled: Vec<LetterPosition>,
    /// Those that were not.
    pub refused: Vec<LetterRefusal>,
}

/// Why a letter was not handled.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct LetterRefusal {
    /// Which letter.
    pub position: LetterPosition,
    /// A stable name in kebab case: `unknown`, `handled`, `in-progress`, `gone`, or the reason why the event would be
    /// refused again.
    pub code: String,
    /// What is wrong, and what to do.
    pub detail: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(value: &bool) -> bool {
    !*value
}
