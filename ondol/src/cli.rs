//! The command line: what can be typed, and its help.

mod access;
mod decisions;
mod jobs;
mod routing;
mod sql;
mod statistics;
mod streams;
mod training_set;

pub(crate) use access::*;
pub(crate) use decisions::*;
pub(crate) use jobs::*;
pub(crate) use routing::*;
pub(crate) use sql::*;
pub(crate) use statistics::*;
pub(crate) use streams::*;
pub(crate) use training_set::*;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ondol_model_gateway_api::wire::ArtifactKind;
use std::path::PathBuf;
use url::Url;

/// Features kept warm: a feature store and model gateway.
#[derive(Debug, Parser)]
#[command(name = "ondol", version, arg_required_else_help = true, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = Output::Text, env = "ONDOL_OUTPUT")]
    pub(crate) output: Output,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs: one JSON document on standard output.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a first definition file to start from.
    Init(InitArgs),
    /// Run every service in one process with embedded, durable stores; no set-up.
    Dev(DevArgs),
    /// The main job on a small built-in stream: events to a prediction, each step shown.
    Demo(DemoArgs),
    /// Run one service (or all of them) as configured.
    Serve(ServeArgs),
    /// Show what applying the definitions would change.
    Plan(DefinitionArgs),
    /// Make the definitions the ones in force.
    Apply(ApplyArgs),
    /// List sources, views and models.
    Ls(ConnectArgs),
    /// Show every version of a source, view or model.
    Show(ShowArgs),
    /// Append events (JSON, one a line) to a stream source.
    Push(PushArgs),
    /// Show how far ingest has come.
    Status(IngestStatusArgs),
    /// See and steer how streams are read.
    #[command(subcommand)]
    Ingest(IngestCommand),
    /// Events that could not be taken: list, correct, replay, give up.
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Build a training set: the feature vector as of each row of a spine.
    TrainingSet(Box<TrainingSetArgs>),
    /// Bring a batch source's latest rows online.
    Materialize(MaterializeArgs),
    /// Let the online rows of a new view version be built, and follow that; after it was cancelled, say.
    Backfill(BackfillArgs),
    /// Query offline tables: every stream's event log and every batch source, by name.
    Sql(SqlArgs),
    /// Show what the columns of a source come to: nulls, extremes, quantiles, distinct and frequent values.
    Statistics(StatisticsArgs),
    /// Build online rows anew from the log, while they serve: after the online store has lost some.
    Rebuild(RebuildArgs),
    /// Merge the small files of a stream's log into large ones.
    Compact(CompactArgs),
    /// Delete what the retention of a stream's log no longer needs.
    Vacuum(VacuumArgs),
    /// List, show, follow, cancel and repeat jobs.
    Jobs(Box<JobsArgs>),
    /// Jobs that are submitted again and again.
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Register and list models.
    #[command(subcommand)]
    Model(ModelCommand),
    /// API keys of the model gateway: make, list, end.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Show what was changed in the model gateway, by whom, and what came of it.
    Audit(AuditArgs),
    /// Ask a model for one prediction.
    Predict(PredictArgs),
    /// Score a recorded decision's vector anew: the same bits, or by another version and the difference.
    Replay(ReplayDecisionArgs),
    /// Record what became of a prediction.
    Outcome(OutcomeArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Register an artifact as a model's next version: ONNX, LightGBM, XGBoost, an upstream or a graph.
    Register(RegisterArgs),
    /// List models and their versions.
    Ls(ConnectArgs),
    /// Show which version serves whom, or how that came to be.
    Routing(RoutingArgs),
    /// Change which version serves whom: aliases, shares, shadows.
    Route(Box<RouteArgs>),
    /// Show what was measured: of versions that serve, and of shadows beside them.
    Shadow(ShadowArgs),
    /// Make a version the champion, if it was measured to keep the limits.
    Promote(PromoteArgs),
    /// Bring an earlier routing back, at once.
    Rollback(RollbackArgs),
}

/// Where the services are.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Where the services answer, when one address serves all of them.
    #[arg(
        long,
        env = "ONDOL_SERVER",
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    pub(crate) server: Url,
    /// Where the feature store answers, if elsewhere.
    #[arg(long, env = "ONDOL_FEATURE_STORE_URL", value_name = "URL")]
    pub(crate) feature_store: Option<Url>,
    /// Where ingest answers, if elsewhere.
    #[arg(long, env = "ONDOL_INGEST_URL", value_name = "URL")]
    pub(crate) ingest: Option<Url>,
    /// Where the pipelines answer, if elsewhere.
    #[arg(long, env = "ONDOL_PIPELINES_URL", value_name = "URL")]
    pub(crate) pipelines: Option<Url>,
    /// Where the model gateway answers, if elsewhere.
    #[arg(long, env = "ONDOL_MODEL_GATEWAY_URL", value_name = "URL")]
    pub(crate) model_gateway: Option<Url>,
    /// An API key or a JWT for the model gateway. Better as a variable: other users of the machine see arguments.
    #[arg(long, env = "ONDOL_TOKEN", hide_env_values = true, value_name = "KEY")]
    pub(crate) token: Option<String>,
    /// The token that the other services ask for (`peers.token`), where they do.
    #[arg(long, env = "ONDOL_SERVICE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) service_token: Option<String>,
    /// Certificates (PEM) of authorities to trust besides the system's.
    #[arg(long, env = "ONDOL_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// A client certificate and its key in one file (PEM), for servers that ask for one.
    #[arg(long, env = "ONDOL_IDENTITY", value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The folder to write to.
    #[arg(default_value = ".")]
    pub(crate) folder: PathBuf,
}

/// How a server process is configured: defaults < file < environment (`ONDOL_…`) < these flags.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServerArgs {
    /// The configuration file.
    #[arg(long, env = "ONDOL_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The address to serve on (port 0 takes a free one).
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// The folder that holds everything the process stores.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data: Option<PathBuf>,
}

impl ServerArgs {
    /// Those of a command that only reads the configuration.
    pub(crate) fn of(config: Option<&std::path::Path>) -> Self {
        Self {
            config: config.map(std::path::Path::to_owned),
            listen: None,
            data: None,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// How many transactions to stream.
    #[arg(long, default_value_t = 5_000)]
    pub(crate) events: u32,
    /// Stop after the last step instead of serving on.
    #[arg(long)]
    pub(crate) exit: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Which service.
    #[arg(value_enum)]
    pub(crate) service: ServiceName,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// The services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ServiceName {
    /// Streams in, decoded and validated events out.
    Ingest,
    /// Registry, online rows, event log.
    FeatureStore,
    /// Training sets and other jobs.
    Pipelines,
    /// One API for all models.
    ModelGateway,
    /// All of them in one process.
    All,
}

#[derive(Debug, Args)]
pub(crate) struct DefinitionArgs {
    /// Definition files, or folders of them.
    #[arg(default_value = "features.toml")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(crate) definitions: DefinitionArgs,
    /// Return at once instead of when new view versions serve.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Apply also what live models do not survive. It is recorded, and their answers say so.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The source, view or model.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The stream source.
    pub(crate) source: String,
    /// A file of JSON objects, one a line; `-` reads standard input.
    pub(crate) file: PathBuf,
    /// Each line is a message with a key, headers and a time of its own: {"key", "headers", "timestamp", "value"}, each
    /// of which may be left out; without a value it is a deletion marker.
    #[arg(long)]
    pub(crate) records: bool,
    /// Return when the events are durable in the stream, not only when they are visible to online reads.
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// Views, or sources for all views over them; every view when none is named.
    #[arg(value_name = "VIEW|SOURCE")]
    pub(crate) names: Vec<String>,
    /// Return at once instead of when the new rows serve.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Only show how rebuilds stand, and which views need one.
    #[arg(long, conflicts_with_all = ["names", "no_wait"])]
    pub(crate) status: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RegisterArgs {
    /// The model, as named in the definitions.
    pub(crate) model: String,
    /// The artifact: an ONNX file, a LightGBM or XGBoost model, or the description of an upstream or a graph.
    pub(crate) artifact: PathBuf,
    /// What the artifact is: `onnx`, `lightgbm`, `xgboost`, `upstream` or `graph`. Recognised from its bytes if not given.
    #[arg(long)]
    pub(crate) kind: Option<ArtifactKind>,
    /// The training set it was trained on: its manifest's names, order, types and versions are checked.
    #[arg(long, value_name = "FILE")]
    pub(crate) training_set: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PredictArgs {
    /// The model, `fraud` or `fraud@3`.
    pub(crate) model: String,
    /// Inputs as `name=value`.
    #[arg(required = true)]
    pub(crate) inputs: Vec<String>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}
