//! The command line, and the one-process composition: the only place that sees every service.

mod cli;
mod commands;
mod compose;
mod config;
mod connect;
mod demo;
mod failure;
mod frames;
mod print;
mod server;

use clap::Parser as _;
use cli::{Cli, Command, ModelCommand};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error),
    };
    let output = cli.output;
    match Box::pin(run(cli)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, output),
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let output = cli.output;
    match cli.command {
        Command::Init(args) => commands::init::run(&args, output),
        Command::Dev(args) => server::dev(&args, output).await,
        Command::Demo(args) => demo::run(&args).await,
        Command::Serve(args) => server::serve(&args).await,
        Command::Plan(args) => commands::definitions::plan(&args, output).await,
        Command::Apply(args) => commands::definitions::apply(&args, output).await,
        Command::Ls(connect) => commands::definitions::ls(&connect, output).await,
        Command::Show(args) => commands::definitions::show(&args, output).await,
        Command::Push(args) => commands::stream::push(&args, output).await,
        Command::DeadLetters(command) => commands::dead_letters::run(&command, output).await,
        Command::Status(args) => commands::ingest::status(&args, output).await,
        Command::Ingest(command) => commands::ingest::run(&command, output).await,
        Command::TrainingSet(args) => commands::training_set::run(&args, output).await,
        Command::Materialize(args) => commands::jobs::materialize(&args, output).await,
        Command::Backfill(args) => commands::backfill::run(&args, output).await,
        Command::Sql(args) => commands::sql::run(&args, output).await,
        Command::Statistics(args) => commands::statistics::run(&args, output).await,
        Command::Rebuild(args) => commands::rebuild::run(&args, output).await,
        Command::Compact(args) => commands::jobs::compact(&args, output).await,
        Command::Vacuum(args) => commands::jobs::vacuum(&args, output).await,
        Command::Jobs(args) => commands::jobs::run(&args, output).await,
        Command::Schedule(command) => commands::schedule::run(&command, output).await,
        Command::Model(ModelCommand::Register(args)) => commands::model::register(&args, output).await,
        Command::Model(ModelCommand::Ls(connect)) => commands::model::list(&connect, output).await,
        Command::Predict(args) => commands::model::predict(&args, output).await,
    }
}
