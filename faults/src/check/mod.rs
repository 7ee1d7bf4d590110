//! The comparison of every store with the topic, element by element.

pub(crate) mod dead_letters;
pub(crate) mod offline;
pub(crate) mod online;

use crate::event::GOOD;
use crate::oracle::Event;
use crate::producer::Produced;
use crate::topic::Record;
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;

/// Differences that are described; beyond that they are only counted.
const DESCRIBED: usize = 200;

/// What the topic says.
pub(crate) struct Truth {
    pub(crate) records: Vec<Record>,
    /// The good ones, parsed.
    pub(crate) events: Vec<Event>,
    /// First offset of each partition beyond the topic.
    pub(crate) ends: BTreeMap<i32, i64>,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Difference {
    pub(crate) area: &'static str,
    pub(crate) what: String,
    /// When the event concerned was produced, where one is: milliseconds since 1970.
    pub(crate) produced_ms: Option<i64>,
    /// The faults that lasted around that time, by number.
    pub(crate) faults: Vec<usize>,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Findings {
    pub(crate) differences: usize,
    /// By area.
    pub(crate) differences_by_area: BTreeMap<&'static str, usize>,
    /// Elements that were compared, by area.
    pub(crate) compared: BTreeMap<&'static str, u64>,
    /// The first of the differences.
    pub(crate) described: Vec<Difference>,
}

impl Truth {
    /// From the records of the topic.
    pub(crate) fn of(records: Vec<Record>) -> Result<Self> {
        let good = records.iter().filter(|record| record.verdict == GOOD);
        let events = good.map(Event::of).collect::<Result<Vec<_>>>()?;
        let mut ends = BTreeMap::new();
        for record in &records {
            ends.insert(record.partition, record.offset + 1);
        }
        Ok(Self { records, events, ends })
    }

    /// When the record at a position was produced.
    pub(crate) fn produced_ms(&self, partition: i32, offset: i64) -> Option<i64> {
        let place = (partition, offset);
        let found = self
            .records
            .binary_search_by_key(&place, |record| (record.partition, record.offset));
        Some(self.records.get(found.ok()?)?.timestamp_ms)
    }
}

impl Findings {
    /// Notes how many elements of `area` were compared.
    pub(crate) fn compared(&mut self, area: &'static str, elements: usize) {
        *self.compared.entry(area).or_default() += elements as u64;
    }

    /// Notes a difference.
    pub(crate) fn differ(&mut self, area: &'static str, what: String, produced_ms: Option<i64>) {
        self.differences += 1;
        *self.differences_by_area.entry(area).or_default() += 1;
        if self.described.len() < DESCRIBED {
            self.described.push(Difference {
                area,
                what,
                produced_ms,
                faults: Vec::new(),
            });
        }
    }
}

/// Whether Kafka kept what it acknowledged, and no partition has a hole: only then is the topic the truth.
pub(crate) fn kafka(truth: &Truth, produced: &Produced, findings: &mut Findings) {
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    for record in &truth.records {
        let expected = next.insert(record.partition, record.offset + 1).unwrap_or(0);
        if record.offset != expected {
            let what = format!(
                "partition {} goes from {expected} to {}",
                record.partition, record.offset
            );
            findings.differ("kafka", what, Some(record.timestamp_ms));
        }
    }
    let standing: BTreeMap<(i32, i64), Option<u64>> = truth
        .records
        .iter()
        .map(|record| ((record.partition, record.offset), record.number))
        .collect();
    for (place, number) in &produced.acknowledged {
        if standing.get(place) != Some(&Some(*number)) {
            let what = format!("message {number} was acknowledged at {place:?} and does not stand there");
            findings.differ("kafka", what, None);
        }
    }
    findings.compared("kafka acknowledgements", produced.acknowledged.len());
}
