//! The command line, and the one-process composition: the only place that sees every service.

mod cli;
mod commands;
mod compose;
mod config;
mod connect;
mod demo;
mod failure;
mod frames;
mod heap;
mod print;
mod server;

use anyhow::Context as _;
use clap::Parser as _;
use cli::{Cli, Command, ModelCommand};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    heap::give_back_soon();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error),
    };
    let output = cli.output;
    let ran = ondol_runtime::threads::runtime()
        .context("threads can't be started")
        .and_then(|runtime| runtime.block_on(Box::pin(run(cli))));
    match ran {
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
        Command::Model(command) => model(command, output).await,
        Command::Key(command) => commands::key::run(&command, output).await,
        Command::Audit(args) => commands::key::audit(&args, output).await,
        Command::Predict(args) => commands::model::predict(&args, output).await,
        Command::Replay(args) => commands::decisions::replay(&args, output).await,
        Command::Outcome(args) => commands::decisions::outcome(&args, output).await,
    }
}

async fn model(command: ModelCommand, output: cli::Output) -> anyhow::Result<()> {
    match command {
        ModelCommand::Register(args) => commands::model::register(&args, output).await,
        ModelCommand::Ls(connect) => commands::model::list(&connect, output).await,
        ModelCommand::Routing(args) => commands::model_routing::routing(&args, output).await,
        ModelCommand::Route(args) => commands::model_routing::route(&args, output).await,
        ModelCommand::Shadow(args) => commands::model_routing::shadow(&args, output).await,
        ModelCommand::Promote(args) => commands::model_routing::promote(&args, output).await,
        ModelCommand::Rollback(args) => commands::model_routing::rollback(&args, output).await,
    }
}
