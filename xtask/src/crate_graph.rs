//! Who may depend on whom (ARCHITECTURE.md): a service knows contracts and the shared ground, never another service.

use crate::violation::Violation;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::Path;
use std::process::Command;

const VOCABULARY: &str = "ondol-vocabulary";
const WIRE: &str = "ondol-wire";
const RUNTIME: &str = "ondol-runtime";
const TRANSFORM: &str = "ondol-transform";
const TESTKIT: &str = "ondol-testkit";
const CLUSTER: &str = "ondol-cluster";
const JOBS: &str = "ondol-jobs";
const SERVICES: [&str; 4] = ["ondol-ingest", "ondol-feature-store", JOBS, "ondol-model-gateway"];
const CONTRACTS: [&str; 4] = [
    "ondol-feature-store-api",
    "ondol-ingest-api",
    "ondol-model-gateway-api",
    "ondol-pipelines-api",
];

/// What of `cargo metadata` is needed.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// A crate of the workspace.
#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

/// One of its dependencies.
#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// Absent for a normal one, else `dev` or `build`.
    kind: Option<String>,
}

pub(crate) fn check(root: &Path) -> Result<Vec<Violation>> {
    Ok(metadata(root)?.packages.iter().flat_map(violations_of).collect())
}

fn metadata(root: &Path) -> Result<Metadata> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .context("can't run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata printed something else than its JSON")
}

/// What of the project a crate may depend on.
enum Sight {
    /// These crates.
    Only(Vec<&'static str>),
    /// Every crate: the composition, the benchmarks and the fuzz targets.
    All,
    /// The crate has no place in the graph yet.
    Unknown,
}

fn sight_of(name: &str) -> Sight {
    let ground = || {
        [VOCABULARY, WIRE, RUNTIME, TRANSFORM]
            .into_iter()
            .chain(CONTRACTS)
            .collect::<Vec<&'static str>>()
    };
    match name {
        VOCABULARY | RUNTIME => Sight::Only(vec![]),
        WIRE | TRANSFORM => Sight::Only(vec![VOCABULARY]),
        _ if CONTRACTS.contains(&name) => Sight::Only(vec![VOCABULARY, WIRE]),
        // The testkit fakes contracts for the tests of any service: so it may know no service itself.
        _ if name == TESTKIT || SERVICES.contains(&name) => Sight::Only(ground()),
        // The engine of many machines runs the very joins of the jobs; the jobs know it as a trait of their own.
        CLUSTER => Sight::Only(ground().into_iter().chain([JOBS]).collect::<Vec<_>>()),
        // It drives whole processes from outside; its oracle must share nothing with what it judges.
        "ondol-faults" => Sight::Only([VOCABULARY, RUNTIME, TESTKIT].into_iter().chain(CONTRACTS).collect()),
        // It only writes the contracts' documents.
        "xtask" => Sight::Only(CONTRACTS.to_vec()),
        "ondol" | "ondol-benches" | "ondol-fuzz" => Sight::All,
        _ => Sight::Unknown,
    }
}

/// The query engine of many machines costs minutes to build and megabytes to carry: one crate has it.
fn has_the_engine(dependency: &str) -> bool {
    matches!(dependency, "datafusion" | "datafusion-datasource" | "datafusion-proto")
        || dependency.starts_with("ballista")
}

fn engine_violations(package: &Package) -> impl Iterator<Item = Violation> {
    let engines = package.dependencies.iter().filter(|dependency| {
        package.name != CLUSTER && package.name.starts_with("ondol") && has_the_engine(&dependency.name)
    });
    engines.map(|dependency| {
        let what = format!("depends on {}", dependency.name);
        let remedy =
            "only ondol-cluster sees the query engine: put what needs it there, behind a trait of the caller's";
        Violation::new("crate-graph", package.name.as_str(), what, remedy)
    })
}

fn violations_of(package: &Package) -> Vec<Violation> {
    let mut violations = place_violations(package);
    violations.extend(engine_violations(package));
    violations
}

fn place_violations(package: &Package) -> Vec<Violation> {
    let allowed = match sight_of(&package.name) {
        Sight::Only(allowed) => allowed,
        Sight::All => return Vec::new(),
        Sight::Unknown => {
            let what = "has no place in the crate graph";
            let remedy = "give it one in xtask/src/crate_graph.rs: what may it depend on?";
            return vec![Violation::new("crate-graph", package.name.as_str(), what, remedy)];
        }
    };
    let ours = package
        .dependencies
        .iter()
        .filter(|dependency| dependency.name.starts_with("ondol"));
    let forbidden = ours.filter(|dependency| {
        let is_test = dependency.kind.as_deref() == Some("dev");
        let testkit = is_test && dependency.name == TESTKIT;
        !testkit && !allowed.contains(&dependency.name.as_str())
    });
    let remedy = format!(
        "reach it through its contract, or move what both need to a crate below; {} may depend on: {}",
        package.name,
        if allowed.is_empty() {
            "no other crate of the project".to_owned()
        } else {
            allowed.join(", ")
        }
    );
    forbidden
        .map(|dependency| {
            let what = format!("depends on {}", dependency.name);
            Violation::new("crate-graph", package.name.as_str(), what, remedy.as_str())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, dependency: &str, kind: Option<&str>, expected: usize) {
        let dependencies = vec![Dependency {
            name: dependency.to_owned(),
            kind: kind.map(str::to_owned),
        }];
        let package = Package {
            name: name.to_owned(),
            dependencies,
        };
        assert_eq!(
            violations_of(&package).len(),
            expected,
            "{name} -> {dependency} ({kind:?})"
        );
    }

    #[test]
    fn a_service_reaches_another_only_through_its_contract() {
        check("ondol-ingest", "ondol-feature-store", None, 1);
        check("ondol-ingest", "ondol-feature-store", Some("dev"), 1);
        check("ondol-ingest", "ondol-feature-store-api", None, 0);
        check("ondol-ingest", "serde", None, 0);
        check("ondol", "ondol-feature-store", None, 0);
    }

    #[test]
    fn the_query_engine_is_in_one_crate() {
        check("ondol-jobs", "datafusion", None, 1);
        check("ondol-jobs", "datafusion-expr", None, 0);
        check("ondol", "ballista-core", None, 1);
        check("ondol-cluster", "ballista-scheduler", None, 0);
        check("ondol-cluster", "ondol-jobs", None, 0);
        check("ondol-jobs", "ondol-cluster", None, 1);
    }

    #[test]
    fn a_new_crate_must_be_given_its_place() {
        check("ondol-sidecar", "serde", None, 1);
    }

    #[test]
    fn the_testkit_is_for_tests() {
        check("ondol-jobs", "ondol-testkit", Some("dev"), 0);
        check("ondol-jobs", "ondol-testkit", None, 1);
        check("ondol-testkit", "ondol-jobs", None, 1);
    }

    #[test]
    fn the_ground_depends_on_nothing_above_it() {
        check("ondol-vocabulary", "ondol-wire", None, 1);
        check("ondol-wire", "ondol-vocabulary", None, 0);
        check("ondol-runtime", "ondol-vocabulary", None, 1);
        check("ondol-ingest-api", "ondol-feature-store-api", None, 1);
    }
}
