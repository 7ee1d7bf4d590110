//! Repository rules as code: `cargo run -p xtask -- check` (in CI), `cargo run -p xtask -- openapi` and `cargo run -p xtask
//! -- proto` (after a contract has changed).

mod crate_graph;
mod documents;
mod files;
mod lock;
mod markdown;
mod metric_names;
mod proto;
mod violation;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::{Path, PathBuf};
use violation::Violation;

#[derive(Parser)]
#[command(about = "Repository rules as code")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check the repository's rules; print each violation with its remedy.
    Check,
    /// Write the OpenAPI documents of the contracts to contracts/openapi/.
    Openapi,
    /// Write the gateway's gRPC code from contracts/proto/.
    Proto,
}

fn main() -> Result<()> {
    let root = root()?;
    let mut out = std::io::stdout().lock();
    match Arguments::parse().task {
        Task::Openapi => {
            for path in documents::write(&root)? {
                writeln!(out, "wrote {}", path.display())?;
            }
            Ok(())
        }
        Task::Proto => {
            writeln!(out, "wrote {}", proto::write(&root)?.display())?;
            Ok(())
        }
        Task::Check => {
            let violations = check(&root)?;
            for violation in &violations {
                writeln!(out, "{violation}")?;
            }
            if violations.is_empty() {
                writeln!(out, "all rules hold")?;
                return Ok(());
            }
            bail!("{} violation(s)", violations.len())
        }
    }
}

/// Every rule, in the order a reader meets them.
fn check(root: &Path) -> Result<Vec<Violation>> {
    let mut violations = documents::check(root)?;
    violations.extend(proto::check(root)?);
    violations.extend(crate_graph::check(root)?);
    violations.extend(lock::check(root)?);
    violations.extend(files::check(root)?);
    violations.extend(markdown::check(root)?);
    violations.extend(metric_names::check(root)?);
    Ok(violations)
}

/// The workspace's folder: this crate's parent.
fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(Path::to_owned).context("xtask has no parent folder")
}
