//! `policy` and `decisions` of a model: what to do about features that are not fresh, and what is kept of its decisions.

use super::report::{Reports, choose};
use super::tree::{Node, Section, Text, Word};
use ondol_vocabulary::{Audit, DecisionPolicy, ModelPolicy, Remedy};

const TROUBLES: [&str; 5] = ["stale", "missing", "unavailable", "changed", "lookup"];
const KEPT: [&str; 2] = ["sample", "audit"];
/// The longest a lookup can be told to take: ten minutes, like the longest deadline.
const LONGEST_LOOKUP_MS: u64 = 600_000;

/// The policy under `word` of model `model`.
pub(super) fn policy(model: &str, word: &Word<'_>, node: &Node<'_>, reports: &mut Reports<'_>) -> Option<ModelPolicy> {
    let table = node.section(word, &format!("model.{model}.policy"), reports)?;
    table.only(&TROUBLES, reports);
    let mut policy = ModelPolicy::default();
    let troubles = [
        ("stale", &mut policy.stale),
        ("missing", &mut policy.missing),
        ("unavailable", &mut policy.unavailable),
        ("changed", &mut policy.changed),
    ];
    for (name, place) in troubles {
        if let Some(text) = table.text(name, reports) {
            *place = remedy(model, name, text, reports)?;
        }
    }
    if let Some(text) = table.text("lookup", reports) {
        policy.lookup_ms = Some(lookup(text, reports)?);
    }
    Some(policy)
}

/// What is kept of the decisions, under `word` of model `model`.
pub(super) fn decisions(
    model: &str,
    word: &Word<'_>,
    node: &Node<'_>,
    reports: &mut Reports<'_>,
) -> Option<DecisionPolicy> {
    let table = node.section(word, &format!("model.{model}.decisions"), reports)?;
    table.only(&KEPT, reports);
    let mut decisions = DecisionPolicy::default();
    if let Some(text) = table.text("sample", reports) {
        decisions.sample_ppm = sample(text, reports)?;
    }
    if let Some(text) = table.text("audit", reports) {
        decisions.audit = audit(&table, text, decisions.sample_ppm, reports)?;
    }
    Some(decisions)
}

fn remedy(model: &str, trouble: &str, text: Text<'_>, reports: &mut Reports<'_>) -> Option<Remedy> {
    let parsed = match text.value.split_once('@') {
        Some((name, version)) if name == model => format!("@{version}").parse(),
        // Another model takes other inputs.
        Some(_) => Err(String::new()),
        None => text.value.parse::<Remedy>(),
    };
    let words = ["serve", "default", "reject"];
    match parsed {
        // What is another definition's has no default that would undo it.
        Ok(Remedy::Default) if trouble == "changed" => {
            let help = "use serve, reject or an earlier version".to_owned();
            reports.add(
                &text.place(),
                "bad-policy",
                "a changed feature has no default",
                Some(help),
            );
            None
        }
        Ok(remedy) => Some(remedy),
        Err(_) => {
            let message = format!("`{}` is no remedy for a feature that is {trouble}", text.value);
            let help = match choose(text.value, "remedies", words.into_iter()) {
                Some(help) => format!("{help}; or an earlier version of this model: {model}@1"),
                None => format!("use serve, default, reject or an earlier version of this model: {model}@1"),
            };
            reports.add(&text.place(), "bad-policy", message, Some(help));
            None
        }
    }
}

/// Milliseconds of `20ms` or `2s`.
fn lookup(text: Text<'_>, reports: &mut Reports<'_>) -> Option<u64> {
    let value = text.value.trim();
    let millis = match (value.strip_suffix("ms"), value.strip_suffix('s')) {
        (Some(number), _) => number.trim().parse::<u64>().ok(),
        (None, Some(number)) => number.trim().parse::<u64>().ok().and_then(|s| s.checked_mul(1_000)),
        (None, None) => None,
    };
    let found = millis.filter(|millis| (1..=LONGEST_LOOKUP_MS).contains(millis));
    if found.is_none() {
        let message = format!("`{}` is no time for a lookup", text.value);
        let help = "write milliseconds or seconds, 10 minutes at most: 20ms, 2s".to_owned();
        reports.add(&text.place(), "bad-policy", message, Some(help));
    }
    found
}

/// Parts of a million of `10%`.
fn sample(text: Text<'_>, reports: &mut Reports<'_>) -> Option<u32> {
    let percent = text.value.trim().strip_suffix('%');
    let percent = percent.and_then(|number| number.trim().parse::<f64>().ok());
    let ppm = percent
        .filter(|percent| (0.0..=100.0).contains(percent))
        .map(|percent| (percent * 10_000.0).round());
    let Some(ppm) = ppm else {
        let message = format!("`{}` is no share of the decisions", text.value);
        let help = "write a percentage between 0% and 100%, such as 10% or 0.5%".to_owned();
        reports.add(&text.place(), "bad-policy", message, Some(help));
        return None;
    };
    Some(ppm as u32)
}

fn audit(table: &Section<'_>, text: Text<'_>, sample_ppm: u32, reports: &mut Reports<'_>) -> Option<Audit> {
    match text.value {
        "best-effort" => Some(Audit::BestEffort),
        "required" if sample_ppm < DecisionPolicy::EVERY => {
            let place = table
                .get("sample")
                .map_or_else(|| text.place(), |(_, node)| node.place());
            let help = "remove `sample`: what must be recorded is recorded of every request".to_owned();
            reports.add(&place, "bad-policy", "an audit leaves nothing out", Some(help));
            None
        }
        "required" => Some(Audit::Required),
        other => {
            let message = format!("`{other}` is no audit");
            let help = choose(other, "audits", ["required", "best-effort"].into_iter());
            reports.add(&text.place(), "bad-policy", message, help);
            None
        }
    }
}
