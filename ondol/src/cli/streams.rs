//! What can be typed about streams: `ondol ingest …` and `ondol dead-letters …`.

use super::ConnectArgs;
use clap::{Args, Subcommand};
use ondol_ingest_api::wire::LetterPosition;
use ondol_vocabulary::EventTime;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum IngestCommand {
    /// Show how far each partition has come, how fast, who reads it, and what is wrong.
    Status(IngestStatusArgs),
    /// Stop fetching a source until it is resumed; what was taken in is delivered.
    Pause(PauseArgs),
    /// End a pause.
    Resume(ResumeArgs),
    /// Skip events on purpose: reading goes on further ahead, and the gap is on record.
    Seek(SeekArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct IngestStatusArgs {
    /// Only these sources.
    pub(crate) sources: Vec<String>,
    /// Show it again every two seconds, on a terminal.
    #[arg(long)]
    pub(crate) watch: bool,
    /// Fail when something is wrong: an error, a partition that nobody reads, or more lag than `--max-lag`.
    #[arg(long)]
    pub(crate) check: bool,
    /// How far behind a source may be for `--check`, in seconds.
    #[arg(long, value_name = "SECONDS", requires = "check")]
    pub(crate) max_lag: Option<f64>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// The stream source.
    pub(crate) source: String,
    /// Why, for whoever reads the status.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Return at once instead of when what was taken in is durable.
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// The stream source.
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["to", "skip"]))]
pub(crate) struct SeekArgs {
    /// The stream source.
    pub(crate) source: String,
    /// `end`, `beginning`, `offset PARTITION:OFFSET` or `timestamp TIME` (RFC 3339).
    #[arg(long, num_args = 1..=2, value_names = ["WHERE", "PLACE"])]
    pub(crate) to: Vec<String>,
    /// Leave out one range of one partition, `PARTITION:FROM..TO`, or one event, `PARTITION:OFFSET`.
    #[arg(long, value_name = "RANGE")]
    pub(crate) skip: Option<String>,
    /// Why: kept with the record of what was skipped.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Only show what would be skipped.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Skip without asking.
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List them, newest first, each with its place and reason.
    List(ListLettersArgs),
    /// Count them by reason and by what has become of them; list what was skipped.
    Summary(LetterSourceArgs),
    /// Show one: its message, what is wrong, what has become of it.
    Show(ShowLetterArgs),
    /// Correct one's message, to be replayed.
    Fix(FixLetterArgs),
    /// Append their events, as corrected, to the source's topic again.
    Replay(ReplayArgs),
    /// Give them up on purpose.
    Discard(DiscardArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LetterSourceArgs {
    /// The stream source.
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Which letters.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LetterFilter {
    /// Only those of this reason, for example `wrong-type`.
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Only those of this partition.
    #[arg(long)]
    pub(crate) partition: Option<i32>,
    /// Only those given up at or after this moment (RFC 3339).
    #[arg(long, value_name = "TIME", value_parser = EventTime::parse)]
    pub(crate) since: Option<EventTime>,
}

#[derive(Debug, Args)]
pub(crate) struct ListLettersArgs {
    /// The stream source.
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) filter: LetterFilter,
    /// At most this many; 0 lists all.
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: u64,
    /// Also those that were replayed or discarded.
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShowLetterArgs {
    /// The stream source.
    pub(crate) source: String,
    /// The letter, `PARTITION:OFFSET`.
    pub(crate) position: LetterPosition,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("correction").required(true).args(["set", "payload_file", "edit"]))]
pub(crate) struct FixLetterArgs {
    /// The stream source.
    pub(crate) source: String,
    /// The letter, `PARTITION:OFFSET`.
    pub(crate) position: LetterPosition,
    /// Set a field of a JSON message: `amount=12.5`, `card.id=c1`; a value that is no JSON is text.
    #[arg(long, value_name = "FIELD=VALUE")]
    pub(crate) set: Vec<String>,
    /// Take the whole message from a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) payload_file: Option<PathBuf>,
    /// Edit the message with `$VISUAL` or `$EDITOR`.
    #[arg(long)]
    pub(crate) edit: bool,
    /// Replay it at once if it would be taken.
    #[arg(long)]
    pub(crate) replay: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Letters named one by one, or by what they have in common.
#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("letters").required(true).multiple(true)
    .args(["positions", "reason", "partition", "since", "everything"]))]
pub(crate) struct LetterChoice {
    /// The letters, each `PARTITION:OFFSET`.
    #[arg(conflicts_with_all = ["reason", "partition", "since", "everything"])]
    pub(crate) positions: Vec<LetterPosition>,
    #[command(flatten)]
    pub(crate) filter: LetterFilter,
    /// All that are open or corrected.
    #[arg(long)]
    pub(crate) everything: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The stream source.
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) choice: LetterChoice,
    /// Only show what would happen.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Also letters that were replayed or discarded, or whose replay was interrupted: name them one by one.
    #[arg(long, requires = "positions")]
    pub(crate) again: bool,
    /// Also events that would be refused again; each becomes a new dead letter.
    #[arg(long)]
    pub(crate) unchecked: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DiscardArgs {
    /// The stream source.
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) choice: LetterChoice,
    /// Why.
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}
