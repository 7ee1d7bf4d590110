//! Whether a version keeps the limits, by what was measured; and how a routing looks after it was promoted or withdrawn.

use crate::route::measurements::Measurements;
use crate::shadow::compare::Comparison;
use ondol_model_gateway_api::wire::{Limits, Quantiles, Routing, Share, Target};

/// Requests after which a canary may be withdrawn, where `min_requests` does not say.
const ENOUGH: u64 = 100;

/// Which limits `version`, tried beside `champion`, does not keep, a line each.
pub fn unmet(limits: &Limits, measured: &Measurements, champion: u32, version: u32) -> Vec<String> {
    let live = measured.live(version).map(|part| part.report(version));
    let comparison = measured.shadow(champion, version);
    let shadow = comparison.map(|part| part.report(champion, version, None));
    let requests = live.as_ref().map_or(0, |live| live.requests);
    let requests = requests.max(shadow.as_ref().map_or(0, |shadow| shadow.compared + shadow.errors));
    let mut unmet = Vec::new();
    let wanted = limits.min_requests.unwrap_or(u64::from(has_limits(limits)));
    if requests < wanted {
        unmet.push(format!(
            "{requests} requests were measured, `min_requests` asks for {wanted}"
        ));
    }
    let rates = [
        (
            "as a canary",
            live.as_ref().map(|live| (live.error_rate, live.latency_ms)),
        ),
        (
            "as a shadow",
            shadow.as_ref().map(|shadow| (shadow.error_rate, shadow.latency_ms)),
        ),
    ];
    for (how, rates) in rates {
        let Some((error_rate, latency_ms)) = rates else {
            continue;
        };
        unmet.extend(over("max_error_rate", error_rate, limits.max_error_rate, how));
        unmet.extend(over("max_p99_ms", latency_ms.p99, limits.max_p99_ms, how));
    }
    let compared = comparison.filter(|comparison| comparison.compared > 0);
    let unshadowed = |name: &str| {
        format!("`{name}` needs version {version} to be a shadow beside the champion {champion}: add it to `shadow`")
    };
    if let Some(limit) = limits.max_flip_rate {
        unmet.extend(match compared.map(Comparison::flip_rate) {
            None => Some(unshadowed("max_flip_rate")),
            Some(None) => Some(format!(
                "`max_flip_rate` has nothing to hold: nobody said at which score a decision turns; give version {version} \
                 its `flip_at` in `shadow`"
            )),
            Some(Some(rate)) => over("max_flip_rate", rate, Some(limit), "as a shadow"),
        });
    }
    if let Some(limit) = limits.max_mean_difference {
        unmet.extend(match compared.map(Comparison::mean_difference) {
            None => Some(unshadowed("max_mean_difference")),
            Some(None) => Some(format!(
                "`max_mean_difference` has nothing to hold: what versions {champion} and {version} say are no numbers to \
                 subtract; limit the flips instead (`max_flip_rate`)"
            )),
            Some(Some(mean)) => over("max_mean_difference", mean, Some(limit), "as a shadow"),
        });
    }
    unmet
}

fn over(name: &str, found: f64, limit: Option<f64>, how: &str) -> Option<String> {
    let limit = limit.filter(|limit| found > *limit)?;
    Some(format!("{found:.4} was measured {how}, `{name}` is {limit}"))
}

fn has_limits(limits: &Limits) -> bool {
    let Limits {
        min_requests: _,
        max_error_rate,
        max_p99_ms,
        max_flip_rate,
        max_mean_difference,
        withdraw_canary: _,
    } = limits;
    [max_error_rate, max_p99_ms, max_flip_rate, max_mean_difference]
        .iter()
        .any(|limit| limit.is_some())
}

/// Why `version`, a canary, must go; none while it may stay.
pub fn must_go(limits: &Limits, measured: &Measurements, version: u32) -> Option<String> {
    let live = measured.live(version)?.report(version);
    if !limits.withdraw_canary || live.requests < limits.min_requests.unwrap_or(ENOUGH) {
        return None;
    }
    let Quantiles { p99, .. } = live.latency_ms;
    let broken = over("max_error_rate", live.error_rate, limits.max_error_rate, "as a canary");
    let broken = broken.or_else(|| over("max_p99_ms", p99, limits.max_p99_ms, "as a canary"))?;
    Some(format!("version {version} was taken out of the split: {broken}"))
}

/// The version that a promotion means when it names none: the alias `canary`, or the only one that the split or the
/// shadows try.
pub fn candidate(routing: &Routing, champion: u32) -> Option<u32> {
    if let Some(canary) = routing.aliases.get(Routing::CANARY) {
        return Some(*canary);
    }
    let tried = routing.split.iter().map(|share| &share.to);
    let tried = tried.chain(routing.shadow.iter().map(|shadow| &shadow.version));
    let mut tried = tried
        .filter_map(|target| routing.resolve(target))
        .filter(|version| *version != champion);
    let first = tried.next()?;
    tried.all(|other| other == first).then_some(first)
}

/// `routing` with `version` as its champion: no split, and no shadow of what serves.
pub fn promoted(routing: &Routing, version: u32) -> Routing {
    let mut next = routing.clone();
    next.aliases.insert(Routing::CHAMPION.to_owned(), version);
    next.split.clear();
    next.shadow
        .retain(|shadow| routing.resolve(&shadow.version) != Some(version));
    next
}

/// `routing` whose split has no `version`: its share goes to the champion.
pub fn withdrawn(routing: &Routing, version: u32) -> Routing {
    let mut next = routing.clone();
    let is_gone = |share: &Share| routing.resolve(&share.to) == Some(version);
    let freed: f64 = routing
        .split
        .iter()
        .filter(|share| is_gone(share))
        .map(|share| share.percent)
        .sum();
    next.split.retain(|share| !is_gone(share));
    let champion = routing.aliases.get(Routing::CHAMPION).copied();
    match next
        .split
        .iter_mut()
        .find(|share| routing.resolve(&share.to) == champion)
    {
        Some(share) => share.percent = ((share.percent + freed) * 100.0).round() / 100.0,
        None => next.split.push(Share {
            to: Target::Alias(Routing::CHAMPION.to_owned()),
            percent: freed,
        }),
    }
    if next.split.len() == 1 {
        next.split.clear();
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn routing() -> Routing {
        let share = |to: Target, percent| Share { to, percent };
        Routing {
            aliases: BTreeMap::from([("champion".to_owned(), 3), ("old".to_owned(), 2)]),
            split: vec![
                share(Target::Alias("champion".to_owned()), 89.9),
                share(Target::Version(4), 5.1),
                share(Target::Alias("old".to_owned()), 5.0),
            ],
            ..Routing::default()
        }
    }

    #[test]
    fn a_canary_that_is_withdrawn_leaves_its_share_to_the_champion() {
        let once = withdrawn(&routing(), 4);
        let shares: Vec<f64> = once.split.iter().map(|share| share.percent).collect();
        assert_eq!(shares, [95.0, 5.0]);
        assert!(withdrawn(&once, 2).split.is_empty());
    }

    #[test]
    fn a_promotion_means_the_canary_or_the_only_one_that_is_tried() {
        let mut routing = routing();
        assert_eq!(candidate(&routing, 3), None);
        routing.split.pop();
        assert_eq!(candidate(&routing, 3), Some(4));
        routing.aliases.insert("canary".to_owned(), 2);
        assert_eq!(candidate(&routing, 3), Some(2));
        let next = promoted(&routing, 2);
        assert_eq!((next.aliases["champion"], next.split.len()), (2, 0));
    }

    #[test]
    fn limits_without_measurements_are_not_met() {
        let limits = Limits {
            max_flip_rate: Some(0.1),
            max_error_rate: Some(0.1),
            ..Limits::default()
        };
        let unmet = unmet(&limits, &Measurements::default(), 3, 4);
        assert_eq!(unmet.len(), 2, "{unmet:?}");
        assert!(super::unmet(&Limits::default(), &Measurements::default(), 3, 4).is_empty());
    }
}

#[cfg(test)]
mod oracle;
