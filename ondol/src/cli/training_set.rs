//! What can be typed to build a training set.

use super::ConnectArgs;
use crate::frames::Form;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct TrainingSetArgs {
    /// The model whose feature vector is built.
    #[arg(required_unless_present_any = ["from_manifest", "job"], conflicts_with_all = ["from_manifest", "job"])]
    pub(crate) model: Option<String>,
    /// Parquet, CSV or Arrow with the model's inputs, a time column and any extra columns such as the label: a path,
    /// file:///… or s3://bucket/…. With --from-manifest: where the spine is now, if not where it was.
    #[arg(long, value_name = "FILE|URL", required_unless_present_any = ["from_manifest", "job", "from_decisions"], conflicts_with = "job")]
    pub(crate) spine: Option<PathBuf>,
    /// Make the training set of this manifest again: the same definitions, the same versions of the tables, the same
    /// bytes. A path, file:///… or s3://bucket/….
    #[arg(long, value_name = "FILE|URL", conflicts_with = "job")]
    pub(crate) from_manifest: Option<PathBuf>,
    /// Take the vectors that were really scored, with the latest outcome of each: no spine, nothing is joined as of
    /// anything.
    #[arg(long, conflicts_with_all = ["spine", "from_manifest", "job"])]
    pub(crate) from_decisions: bool,
    /// Only decisions at or after this moment (RFC 3339).
    #[arg(long, value_name = "MOMENT", requires = "from_decisions")]
    pub(crate) start: Option<String>,
    /// Only decisions before this moment (RFC 3339).
    #[arg(long, value_name = "MOMENT", requires = "from_decisions")]
    pub(crate) end: Option<String>,
    /// Fetch what an earlier job makes or has made, after a lost connection or in another form.
    #[arg(long, value_name = "ID")]
    pub(crate) job: Option<String>,
    /// Where to write: .parquet, .csv or .arrow, or a folder with --partition-by or --rows-per-file; the manifest goes
    /// beside it. A path, file:///… or s3://bucket/….
    #[arg(short, long = "out", value_name = "FILE|FOLDER|URL")]
    pub(crate) out: PathBuf,
    /// The configuration whose `[s3]` says how a bucket is reached; the AWS_… variables say it too.
    #[arg(long, env = "ONDOL_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Cut into folders `column=value/`. `event_date` is the day of the row's moment, in UTC. May be given several times.
    #[arg(long, value_name = "event_date|COLUMN")]
    pub(crate) partition_by: Vec<String>,
    /// Cut into files of at most this many rows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rows_per_file: Option<u64>,
    /// The format of a folder's files; a file's ending tells its own.
    #[arg(long, value_enum)]
    pub(crate) format: Option<Form>,
    /// The spine's time column, if its name does not say so.
    #[arg(long, value_name = "COLUMN", conflicts_with_all = ["from_manifest", "job"])]
    pub(crate) time_column: Option<String>,
    /// What a row may see.
    #[arg(long, value_enum, default_value_t = AsOfArg::KnownAt, conflicts_with_all = ["from_manifest", "job"])]
    pub(crate) as_of: AsOfArg,
    /// Read old events too, that change no value but tell for every row whether its entity is missing, stale or merely
    /// without news.
    #[arg(long, conflicts_with_all = ["from_decisions", "job"])]
    pub(crate) exact_status: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// What a training row at `t` may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AsOfArg {
    /// Events before `t` that had arrived by `t`: what would have been served.
    KnownAt,
    /// Events before `t`, whenever they arrived.
    EventTime,
}
