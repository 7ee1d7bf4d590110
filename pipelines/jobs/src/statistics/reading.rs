//! Rows into profiles, by event date.
//!
//! Memory is bounded by the number of dates that are held at a time: when rows of more dates turn up, the latest dates are
//! let go and read in a further pass.

use super::DAY_US;
use crate::error::JobError;
use crate::progress::Progress;
use crate::table::{Scan, Unit};
use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::TimestampMicrosecondType;
use ondol_transform::profile::ColumnProfile;
use ondol_vocabulary::{DataType, Field, SourceDefinition};
use std::collections::{BTreeMap, BTreeSet};

/// Most that the texts of one column and date take while they are counted.
const MIB_A_TEXT: u64 = 2;

/// The profiles of one date.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DayProfile {
    /// Rows on it.
    pub rows: u64,
    /// By column.
    pub columns: Vec<(Field, ColumnProfile)>,
}

/// How to read.
pub(super) struct Reading {
    scan: Scan,
    columns: Vec<Field>,
    time: String,
    /// The days that are wanted; all, if none are given.
    wanted: Option<BTreeSet<i64>>,
    days_at_once: usize,
}

/// What one pass came to.
#[derive(Default)]
pub(super) struct Part {
    pub days: BTreeMap<i64, DayProfile>,
    /// The first day that was let go.
    pub next: Option<i64>,
}

impl Part {
    pub(super) fn rows(&self) -> u64 {
        self.days.values().map(|day| day.rows).sum()
    }
}

impl DayProfile {
    pub(crate) fn new(columns: &[Field]) -> Self {
        let profiles = columns
            .iter()
            .map(|field| (field.clone(), ColumnProfile::new(field.data_type)));
        Self {
            rows: 0,
            columns: profiles.collect(),
        }
    }

    /// Takes in the rows `chosen` of `batch`; all of them, if none are chosen.
    pub(crate) fn add(&mut self, batch: &RecordBatch, chosen: Option<&UInt32Array>) -> Result<(), JobError> {
        self.rows += chosen.map_or(batch.num_rows(), |chosen| chosen.values().len()) as u64;
        for (field, profile) in &mut self.columns {
            let column = batch
                .column_by_name(&field.name)
                .ok_or_else(|| JobError::internal(format!("column `{}` was not read", field.name)))?;
            let added = match chosen {
                None => profile.add(column),
                Some(chosen) => profile.add(&take(column, chosen, None)?),
            };
            added.map_err(JobError::internal)?;
        }
        Ok(())
    }

    fn seal(&mut self) {
        self.columns.iter_mut().for_each(|(_, profile)| profile.seal());
    }
}

impl Reading {
    pub(super) fn new(scan: Scan, source: &SourceDefinition, wanted: Option<BTreeSet<i64>>, memory_mib: u64) -> Self {
        let texts = source
            .schema
            .iter()
            .filter(|field| field.data_type == DataType::String)
            .count() as u64;
        let days = memory_mib / (texts * MIB_A_TEXT).max(1);
        Self {
            scan,
            columns: source.schema.clone(),
            time: source.time.clone(),
            wanted,
            days_at_once: usize::try_from(days.clamp(8, 400)).unwrap_or(8),
        }
    }

    pub(super) fn scan(&self) -> &Scan {
        &self.scan
    }

    /// Profiles the days from `from` on, as many as are held at a time. Blocks.
    pub(super) fn read(
        &self,
        units: &[Unit],
        from: i64,
        io: &tokio::runtime::Handle,
        progress: &Progress,
    ) -> Result<Part, JobError> {
        let mut part = Part::default();
        for unit in units {
            for batch in self.scan.read(unit, io)? {
                progress.checkpoint()?;
                let batch = batch?;
                self.add(&mut part, &batch, from)?;
                progress.add(batch.num_rows() as u64);
            }
        }
        part.days.values_mut().for_each(DayProfile::seal);
        Ok(part)
    }

    fn add(&self, part: &mut Part, batch: &RecordBatch, from: i64) -> Result<(), JobError> {
        let times = batch
            .column_by_name(&self.time)
            .and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>())
            .ok_or_else(|| JobError::internal("rows without their time"))?;
        let mut days: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for (row, time) in (0..).zip(times.values()) {
            days.entry(time.div_euclid(DAY_US)).or_default().push(row);
        }
        for (day, rows) in days {
            let is_wanted = self.wanted.as_ref().is_none_or(|wanted| wanted.contains(&day));
            if !is_wanted || day < from || part.next.is_some_and(|next| day >= next) {
                continue;
            }
            let chosen = (rows.len() < batch.num_rows()).then(|| UInt32Array::from(rows));
            let profile = part.days.entry(day).or_insert_with(|| DayProfile::new(&self.columns));
            profile.add(batch, chosen.as_ref())?;
            while part.days.len() > self.days_at_once {
                part.next = part.days.pop_last().map(|(day, _)| day);
            }
        }
        Ok(())
    }
}
