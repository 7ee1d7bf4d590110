//! What operators have asked of each source, as data: pauses, and ranges of the topic that are left out.
//!
//! A skip is a range, not an act: a worker that reaches any offset of it goes on at its end. So a redelivery, a
//! restart or another worker leaves out exactly the same events, however often it happens. The same holds for a source
//! that starts elsewhere than at the beginning: it skips what lies before.

use ondol_feature_store_api::wire::PartitionPosition;
use ondol_ingest_api::wire::Pause;
use ondol_vocabulary::EventTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most skips of a source that are kept: the oldest are far behind every reader.
const MAX_SKIPS: usize = 10_000;

/// One order, as a message of the control topic. Of those with the same [`Directive::key`] the newest holds, but for
/// starts, of which the first does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "directive", rename_all = "kebab-case")]
pub enum Directive {
    /// The source rests.
    Pause {
        /// Which one.
        source: String,
        /// When it was asked for.
        at: EventTime,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The source goes on.
    Resume {
        /// Which one.
        source: String,
        /// When it was asked for.
        at: EventTime,
    },
    /// A range is left out.
    Skip {
        /// Of which source.
        source: String,
        /// The range.
        #[serde(flatten)]
        skip: Skip,
    },
    /// Where a source begins that was never read.
    Start {
        /// Which one.
        source: String,
        /// The topic's life that the offsets belong to.
        generation: String,
        /// When the first worker looked.
        at: EventTime,
        /// What was configured.
        reason: String,
        /// The first offset of each partition that is read.
        positions: Vec<PartitionPosition>,
    },
}

/// A range of one partition that is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// The topic's life that the offsets belong to.
    pub generation: String,
    /// The partition.
    pub partition: i32,
    /// First offset left out.
    pub from: i64,
    /// First offset read again.
    pub to: i64,
    /// When it was asked for.
    pub at: EventTime,
    /// Why.
    pub reason: String,
    /// Whether the partition's reader has settled where the range begins: not before what it had delivered.
    #[serde(default)]
    pub settled: bool,
}

impl Directive {
    /// The key of its message.
    pub fn key(&self) -> String {
        match self {
            Self::Pause { source, .. } | Self::Resume { source, .. } => format!("pause/{source}"),
            Self::Skip { source, skip } => {
                let Skip {
                    generation,
                    partition,
                    to,
                    ..
                } = skip;
                format!("skip/{source}/{generation}/{partition}/{to}")
            }
            // Each its own key: compaction must not take the first, which holds.
            Self::Start {
                source, generation, at, ..
            } => format!("start/{source}/{generation}/{}", at.micros()),
        }
    }
}

/// Everything in force.
#[derive(Clone, Debug, Default)]
pub struct Directives {
    /// Whether the control topic was read: before, nobody may assume that a source is not paused.
    pub known: bool,
    sources: BTreeMap<String, Arc<Orders>>,
}

/// What is in force for one source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Orders {
    /// Since when and why it rests.
    pub paused: Option<Pause>,
    /// By generation, partition and end.
    skips: BTreeMap<(String, i32, i64), Skip>,
    /// Generations whose start was settled.
    starts: Vec<String>,
}

impl Directives {
    /// What is in force for `source`.
    pub fn of(&self, source: &str) -> Arc<Orders> {
        self.sources.get(source).cloned().unwrap_or_default()
    }

    /// Takes the next message of the control topic.
    pub fn fold(&mut self, directive: Directive) {
        match directive {
            Directive::Pause { source, at, reason } => {
                self.orders(source).paused = Some(Pause { since: at, reason });
            }
            Directive::Resume { source, .. } => self.orders(source).paused = None,
            Directive::Skip { source, skip } => self.orders(source).skip(skip),
            Directive::Start {
                source,
                generation,
                at,
                reason,
                positions,
            } => {
                let orders = self.orders(source);
                if orders.starts.contains(&generation) {
                    return;
                }
                for position in positions.iter().filter(|position| position.next_offset > 0) {
                    orders.skip(Skip {
                        generation: generation.clone(),
                        partition: position.partition,
                        from: 0,
                        to: position.next_offset,
                        at,
                        reason: reason.clone(),
                        settled: true,
                    });
                }
                orders.starts.push(generation);
            }
        }
    }

    fn orders(&mut self, source: String) -> &mut Orders {
        Arc::make_mut(self.sources.entry(source).or_default())
    }
}

impl Orders {
    fn skip(&mut self, skip: Skip) {
        let key = (skip.generation.clone(), skip.partition, skip.to);
        self.skips.insert(key, skip);
        while self.skips.len() > MAX_SKIPS {
            let oldest = self
                .skips
                .iter()
                .min_by_key(|(_, skip)| skip.at)
                .map(|(key, _)| key.clone());
            match oldest {
                Some(key) => drop(self.skips.remove(&key)),
                None => return,
            }
        }
    }

    /// The skip that covers `offset`.
    pub fn covering(&self, generation: &str, partition: i32, offset: i64) -> Option<&Skip> {
        let mut skips = self.of_partition(generation, partition, offset);
        skips.find(|skip| (skip.from..skip.to).contains(&offset))
    }

    /// Where the first skip begins that lies within `(from, to)`.
    pub fn next_within(&self, generation: &str, partition: i32, from: i64, to: i64) -> Option<i64> {
        let skips = self.of_partition(generation, partition, from);
        let starts = skips
            .map(|skip| skip.from)
            .filter(|start| (from.saturating_add(1)..to).contains(start));
        starts.min()
    }

    /// Whether it is settled where `generation` starts.
    pub fn is_started(&self, generation: &str) -> bool {
        self.starts.iter().any(|started| started == generation)
    }

    /// Skips of the partition that end past `offset`.
    fn of_partition(&self, generation: &str, partition: i32, offset: i64) -> impl Iterator<Item = &Skip> {
        let first = (generation.to_owned(), partition, offset.saturating_add(1));
        let last = (generation.to_owned(), partition, i64::MAX);
        self.skips.range(first..=last).map(|(_, skip)| skip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(from: i64, to: i64) -> Directive {
        Directive::Skip {
            source: "s".to_owned(),
            skip: Skip {
                generation: "g".to_owned(),
                partition: 0,
                from,
                to,
                at: EventTime::from_micros(0),
                reason: "poison".to_owned(),
                settled: false,
            },
        }
    }

    fn start(at: i64) -> Directive {
        Directive::Start {
            source: "s".to_owned(),
            generation: "g".to_owned(),
            at: EventTime::from_micros(0),
            reason: "start = end".to_owned(),
            positions: vec![PartitionPosition {
                partition: 0,
                next_offset: at,
            }],
        }
    }

    fn folded(directives: impl IntoIterator<Item = Directive>) -> Arc<Orders> {
        let mut all = Directives::default();
        directives.into_iter().for_each(|directive| all.fold(directive));
        all.of("s")
    }

    #[test]
    fn any_offset_of_a_skip_leads_to_its_end() {
        let orders = folded([skip(10, 20), skip(30, 40)]);
        let lands = |offset| orders.covering("g", 0, offset).map(|skip| skip.to);
        assert_eq!(
            [9, 10, 19, 20, 35].map(lands),
            [None, Some(20), Some(20), None, Some(40)]
        );
        assert_eq!(orders.covering("h", 0, 15), None, "another life of the topic");
        assert_eq!(orders.covering("g", 1, 15), None, "another partition");
    }

    #[test]
    fn a_run_is_cut_where_the_next_skip_begins() {
        let orders = folded([skip(10, 20), skip(30, 40)]);
        assert_eq!(orders.next_within("g", 0, 0, 10), None);
        assert_eq!(orders.next_within("g", 0, 0, 11), Some(10));
        assert_eq!(orders.next_within("g", 0, 20, 100), Some(30));
    }

    #[test]
    fn a_skip_is_settled_in_place() {
        let orders = folded([skip(10, 20), skip(13, 20)]);
        assert_eq!(orders.covering("g", 0, 12), None);
        assert!(orders.covering("g", 0, 13).is_some());
    }

    #[test]
    fn the_first_start_holds() {
        let orders = folded([start(7), start(9)]);
        assert!(orders.is_started("g") && !orders.is_started("h"));
        assert_eq!(orders.covering("g", 0, 0).map(|skip| skip.to), Some(7));
        assert_eq!(orders.covering("g", 0, 8), None);
    }

    #[test]
    fn a_pause_ends_with_a_resume() {
        let pause = Directive::Pause {
            source: "s".to_owned(),
            at: EventTime::from_micros(5),
            reason: None,
        };
        let resume = Directive::Resume {
            source: "s".to_owned(),
            at: EventTime::from_micros(6),
        };
        assert!(folded([pause.clone()]).paused.is_some());
        assert_eq!(folded([pause.clone(), resume.clone()]).paused, None);
        assert_eq!(pause.key(), resume.key());
    }

    #[test]
    fn the_json_of_directives_stays_as_it_is() {
        let text = |directive: &Directive| serde_json::to_string(directive).unwrap();
        assert_eq!(
            text(&skip(10, 20)),
            r#"{"directive":"skip","source":"s","generation":"g","partition":0,"from":10,"to":20,"at":"1970-01-01T00:00:00Z","reason":"poison","settled":false}"#
        );
        assert_eq!(
            text(&start(7)),
            r#"{"directive":"start","source":"s","generation":"g","at":"1970-01-01T00:00:00Z","reason":"start = end","positions":[{"partition":0,"next_offset":7}]}"#
        );
        for directive in [skip(1, 2), start(3)] {
            assert_eq!(serde_json::from_str::<Directive>(&text(&directive)).unwrap(), directive);
        }
    }
}
