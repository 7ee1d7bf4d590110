//! Since which revision each version is measured in its role.
//!
//! A version that begins to serve, or to be a shadow, begins with nothing measured; one that goes on does not, also when
//! its share changes. The revision at which it began is its epoch: stored with every later revision, so that all
//! replicas agree on what belongs together, whichever revisions they have seen.

use ondol_model_gateway_api::wire::Routing;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The epoch of every version of a routing, by role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epochs {
    /// Versions that requests can reach.
    pub live: BTreeMap<u32, u64>,
    /// Shadows.
    pub shadow: BTreeMap<u32, u64>,
}

impl Epochs {
    /// Those of `routing` as revision `revision`, after a revision that had these.
    #[must_use]
    pub fn next(&self, routing: &Routing, revision: u64) -> Self {
        let targets = routing.rules.iter().map(|rule| &rule.to);
        let targets = targets.chain(routing.split.iter().map(|share| &share.to));
        let live = targets.filter_map(|target| routing.resolve(target));
        let live = live.chain(routing.aliases.values().copied());
        let shadow = routing
            .shadow
            .iter()
            .filter_map(|shadow| routing.resolve(&shadow.version));
        let kept = |known: &BTreeMap<u32, u64>, version| (version, known.get(&version).copied().unwrap_or(revision));
        Self {
            live: live.map(|version| kept(&self.live, version)).collect(),
            shadow: shadow.map(|version| kept(&self.shadow, version)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ondol_model_gateway_api::wire::{Share, Target};

    fn routing(canary: Option<f64>) -> Routing {
        let split = canary.map(|percent| {
            vec![
                Share {
                    to: Target::Alias("champion".to_owned()),
                    percent: 100.0 - percent,
                },
                Share {
                    to: Target::Version(4),
                    percent,
                },
            ]
        });
        Routing {
            aliases: BTreeMap::from([("champion".to_owned(), 3)]),
            split: split.unwrap_or_default(),
            ..Routing::default()
        }
    }

    #[test]
    fn a_canary_is_measured_from_its_first_share_on_and_anew_when_it_comes_back() {
        let first = Epochs::default().next(&routing(None), 1);
        let five = first.next(&routing(Some(5.0)), 2);
        let ten = five.next(&routing(Some(10.0)), 3);
        assert_eq!(ten.live, BTreeMap::from([(3, 1), (4, 2)]));
        let gone = ten.next(&routing(None), 4);
        assert_eq!(gone.next(&routing(Some(5.0)), 5).live, BTreeMap::from([(3, 1), (4, 5)]));
    }
}
