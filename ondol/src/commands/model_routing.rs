//! `model routing`, `route`, `shadow`, `promote` and `rollback`: which version serves whom.

use crate::cli::{Output, PromoteArgs, RollbackArgs, RouteArgs, RoutingArgs, ShadowArgs};
use crate::print;
use anyhow::{Context as _, Result};
use ondol_model_gateway_api::wire::{
    PromoteRequest, Quantiles, RollbackRequest, Routing, RoutingChange, RoutingReport, RoutingRevision,
};
use std::fmt::Write as _;
use std::path::Path;

/// `ondol model routing`.
pub(crate) async fn routing(args: &RoutingArgs, output: Output) -> Result<()> {
    let gateway = args.connect.model_gateway()?;
    if args.history {
        let history = gateway.routing_history(&args.model).await?;
        return print::result(output, &history, |history: &Vec<RoutingRevision>| {
            let rows = history.iter().map(|revision| {
                let remark = &revision.remark;
                [
                    revision.revision.to_string(),
                    revision.action.to_string(),
                    revision.changed_at.map(|time| time.to_string()).unwrap_or_default(),
                    remark.by.clone().unwrap_or_default(),
                    shares(revision),
                    remark.note.clone().unwrap_or_default(),
                ]
            });
            print::table(["REVISION", "ACTION", "AT", "BY", "SERVES", "NOTE"], rows)
        });
    }
    let revision = gateway.routing(&args.model).await?;
    print::result(output, &revision, |revision: &RoutingRevision| describe(revision))
}

/// `ondol model route`.
pub(crate) async fn route(args: &RouteArgs, output: Output) -> Result<()> {
    let gateway = args.connect.model_gateway()?;
    let current = gateway.routing(&args.model).await?;
    let routing = match &args.file {
        Some(file) => read(file)?,
        None => edited(current.routing, args),
    };
    let change = RoutingChange {
        routing,
        expected_revision: Some(current.revision),
        remark: args.remark.remark(),
    };
    let revision = gateway.set_routing(&args.model, change).await?;
    print::result(output, &revision, |revision: &RoutingRevision| describe(revision))
}

fn edited(mut routing: Routing, args: &RouteArgs) -> Routing {
    for (name, version) in &args.aliases {
        match version {
            Some(version) => _ = routing.aliases.insert(name.clone(), *version),
            None => _ = routing.aliases.remove(name),
        }
    }
    if args.no_split || !args.split.is_empty() {
        routing.split.clone_from(&args.split);
    }
    if args.no_shadow || !args.shadows.is_empty() {
        routing.shadow.clone_from(&args.shadows);
    }
    routing
}

fn read(file: &Path) -> Result<Routing> {
    let text = std::fs::read_to_string(file).with_context(|| format!("can't read `{}`", file.display()))?;
    let wrong = || format!("`{}` is no routing", file.display());
    if text.trim_start().starts_with('{') {
        serde_json::from_str(&text).with_context(wrong)
    } else {
        toml::from_str(&text).with_context(wrong)
    }
}

/// `ondol model promote`.
pub(crate) async fn promote(args: &PromoteArgs, output: Output) -> Result<()> {
    let remark = args.remark.remark();
    let request = PromoteRequest {
        version: args.version.clone(),
        force: args.force,
        expected_revision: None,
        by: remark.by,
        note: remark.note,
    };
    let revision = args.connect.model_gateway()?.promote(&args.model, request).await?;
    print::result(output, &revision, |revision: &RoutingRevision| describe(revision))
}

/// `ondol model rollback`.
pub(crate) async fn rollback(args: &RollbackArgs, output: Output) -> Result<()> {
    let remark = args.remark.remark();
    let request = RollbackRequest {
        to_revision: args.to,
        by: remark.by,
        note: remark.note,
    };
    let revision = args.connect.model_gateway()?.rollback(&args.model, request).await?;
    print::result(output, &revision, |revision: &RoutingRevision| describe(revision))
}

/// `ondol model shadow`.
pub(crate) async fn shadow(args: &ShadowArgs, output: Output) -> Result<()> {
    let report = args.connect.model_gateway()?.routing_report(&args.model).await?;
    print::result(output, &report, measured)
}

fn shares(revision: &RoutingRevision) -> String {
    let shares = revision
        .effective
        .iter()
        .map(|(version, percent)| format!("{version}: {percent} %"));
    shares.collect::<Vec<_>>().join(", ")
}

/// Writing to a string can't fail, so what it returns is let go of below.
fn describe(revision: &RoutingRevision) -> String {
    let RoutingRevision { model, routing, .. } = revision;
    let mut text = format!("{model}: revision {} ({})\n", revision.revision, revision.action);
    for (place, rule) in routing.rules.iter().enumerate() {
        let name = rule.name.clone().unwrap_or_else(|| (place + 1).to_string());
        let mut conditions: Vec<String> = rule.when.iter().cloned().collect();
        conditions.extend(
            rule.header
                .iter()
                .map(|header| format!("{}: {}", header.name, header.equals)),
        );
        let _ = writeln!(text, "  rule {name}: {} -> {}", conditions.join(" and "), rule.to);
    }
    let _ = writeln!(text, "  serves {}", shares(revision));
    for (alias, version) in &routing.aliases {
        let _ = writeln!(text, "  {model}@{alias} = {model}@{version}");
    }
    for shadow in &routing.shadow {
        let _ = writeln!(text, "  shadow {}", shadow.version);
    }
    for unmet in &revision.forced_past {
        let _ = writeln!(text, "  forced past: {unmet}");
    }
    text
}

fn measured(report: &RoutingReport) -> String {
    let ms = |quantiles: &Quantiles| format!("{:.2} / {:.2} ms", quantiles.p50, quantiles.p99);
    let live = report.live.iter().map(|live| {
        [
            format!("{}@{}", report.model, live.version),
            live.requests.to_string(),
            percent(live.error_rate),
            ms(&live.latency_ms),
            live.since.to_string(),
        ]
    });
    let mut text = print::table(["SERVED BY", "REQUESTS", "ERRORS", "P50 / P99", "SINCE"], live);
    if report.shadows.is_empty() {
        return text;
    }
    let rows = report.shadows.iter().map(|shadow| {
        [
            format!("{} beside {}", shadow.shadow, shadow.served),
            shadow.compared.to_string(),
            percent(shadow.flip_rate),
            format!("{:.4} / {:.4}", shadow.mean_difference, shadow.max_difference),
            percent(shadow.error_rate),
            ms(&shadow.latency_ms),
            format!("{} / {}", shadow.dropped, shadow.skipped),
        ]
    });
    let header = [
        "SHADOW",
        "COMPARED",
        "FLIPS",
        "DIFFERENCE MEAN / MAX",
        "ERRORS",
        "P50 / P99",
        "DROPPED / SKIPPED",
    ];
    let _ = write!(text, "\n\n{}", print::table(header, rows));
    for shadow in &report.shadows {
        if let Some(reason) = &shadow.skipped_because {
            let _ = write!(text, "\n{} was skipped: {reason}", shadow.shadow);
        }
    }
    text
}

fn percent(rate: f64) -> String {
    format!("{:.2} %", rate * 100.0)
}
