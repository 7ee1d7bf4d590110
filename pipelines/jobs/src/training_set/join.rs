//! The join of one view to the spine: its source read, cut down to what the rows may see, and the view's features as of
//! each row.

mod timeline;

use super::Limits;
use super::plan::ViewPlan;
use super::spine::Spine;
use super::statuses::Joined;
use crate::error::JobError;
use crate::point_in_time::{
    Account, Assembled, Assembly, Beyond, Entities, JoinView, KeyedRows, Latest, Layout, Shuffle,
};
use crate::pool::Pool;
use crate::progress::Progress;
use crate::table::{Marks, Positions, Scan, Table, TimeRange, Unit};
use arrow::array::{ArrayRef, RecordBatch};
use ondol_pipelines_api::wire::AsOf;
use ondol_vocabulary::Field;
use std::sync::mpsc::{Receiver, sync_channel};
use timeline::Rows;

/// Which events are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// What rows may see.
    pub as_of: AsOf,
    /// Whether events are read that change no value, but tell what is stale or empty from what is missing.
    pub is_exact: bool,
}

/// One join, and what it may take.
struct Join<'a> {
    view: &'a JoinView,
    name: String,
    table: &'a Table,
    reading: Reading,
    limits: &'a Limits,
    pool: &'a Pool,
    progress: &'a Progress,
}

/// The features of each of `views` for every row of the spine.
pub(super) fn views<'a>(
    spine: &Spine,
    views: impl Iterator<Item = Result<(&'a ViewPlan, &'a Table), JobError>>,
    reading: Reading,
    limits: &Limits,
    pool: &Pool,
    progress: &Progress,
) -> Result<Vec<Joined>, JobError> {
    let views = views.collect::<Result<Vec<_>, _>>()?;
    std::thread::scope(|scope| {
        // Whose rows they are is found out on one thread: of the next view's while this one's are joined.
        let (to_join, keyed) = sync_channel(0);
        let plans: Vec<&ViewPlan> = views.iter().map(|(plan, _)| *plan).collect();
        scope.spawn(move || {
            for plan in plans {
                // Whoever does not listen any more has failed.
                if to_join.send(keyed_rows(spine, plan)).is_err() {
                    return;
                }
            }
        });
        let joined = views.into_iter().map(|(plan, table)| {
            let compiled = JoinView::compile(plan.engine.definition(), &plan.source)?;
            let join = Join {
                view: &compiled,
                name: plan.name.name.clone(),
                table,
                reading,
                limits,
                pool,
                progress,
            };
            let assembled = join.assembled(spine, &keyed)?;
            Ok(Joined::new(compiled, assembled))
        });
        joined.collect()
    })
}

/// The spine's rows by the key of the view.
fn keyed_rows(spine: &Spine, plan: &ViewPlan) -> Result<KeyedRows, JobError> {
    let input = |inputs: &'_ RecordBatch, name: &str| {
        let column = inputs.column_by_name(name).cloned();
        column.ok_or_else(|| JobError::internal(format!("key `{name}` is no input of the model")))
    };
    let keys = spine.inputs.iter().map(|inputs| {
        let key = &plan.engine.definition().key;
        let columns = key.iter().map(|field| input(inputs, &field.name));
        columns.collect::<Result<Vec<_>, _>>()
    });
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    let keys: Vec<Vec<&ArrayRef>> = keys.iter().map(|columns| columns.iter().collect()).collect();
    KeyedRows::of(&keys)
}

impl Join<'_> {
    /// The view's features, with the rows' keys as they come from `keyed`.
    fn assembled(&self, spine: &Spine, keyed: &Receiver<Result<KeyedRows, JobError>>) -> Result<Assembled, JobError> {
        let is_in_order = self.may_be_in_order();
        // While the keys are looked up.
        let moments = is_in_order.then(|| spine.moments(self.limits.threads));
        let panicked = |_| JobError::internal("finding the rows' entities panicked");
        let keyed = keyed.recv().map_err(panicked)??;
        if let Some(moments) = moments {
            let rows = Rows {
                keyed: &keyed,
                times: &spine.times,
                moments,
            };
            if let Some(assembled) = self.timeline(&rows)? {
                return Ok(assembled);
            }
        }
        let entities = keyed.grouped(&spine.times)?;
        let types = self.view.features().map(|feature| feature.data_type);
        let assembly = Assembly::new(types, spine.rows());
        let beyond = Beyond::new(self.view, &entities);
        let has_older = match self.view.history().is_latest_only() {
            true => self.latest(&entities, &beyond, &assembly)?,
            false => self.shuffle(&entities, &beyond, &assembly)?,
        };
        let mut assembled = assembly.finish()?;
        beyond.settle(self.view, &entities, has_older, &mut assembled.worth);
        Ok(assembled)
    }

    /// Whether this is a view of latest rows over a table that may be in order of time.
    fn may_be_in_order(&self) -> bool {
        let is_numbered = matches!(self.table.positions, Positions::RowNumber { .. });
        self.view.history().is_latest_only() && is_numbered && !self.marks().positions
    }

    /// A view of latest rows: who won, then the values of those. Whether older events were left unread.
    fn latest(&self, entities: &Entities, beyond: &Beyond, assembly: &Assembly) -> Result<bool, JobError> {
        let marks = self.marks();
        let scan = self.scan(self.view.admitting_columns(), marks);
        let units = self.units(&scan, entities.times())?;
        self.reading(&units);
        let has_older = scan.has_older();
        let latest = Latest::new(self.view, entities, beyond);
        self.pool.for_each(&units, |number, unit| {
            self.each_batch(&scan, unit, |batch, first_row| {
                latest.push(&batch, number as u32, first_row)
            })
        })?;
        self.warn(&scan);
        let winners = latest.winners(units.len())?;
        let nothing = Marks {
            positions: false,
            arrival: false,
        };
        let marks = if winners.has_ties() { marks } else { nothing };
        let scan = self.scan(self.view.value_columns(), marks);
        self.progress
            .stage(format!("computing {}", self.name), Some(rows(&units)));
        self.pool.for_each(&units, |number, unit| {
            if !winners.has(number) {
                return Ok(());
            }
            self.each_batch(&scan, unit, |batch, first_row| {
                winners.place(self.view, entities, &batch, (number, first_row), assembly)
            })
        })?;
        winners.settle(self.view, entities, assembly)?;
        Ok(has_older)
    }

    /// Any other view: its events brought together by entity, then a partition of entities after another. Whether older
    /// events were left unread.
    fn shuffle(&self, entities: &Entities, beyond: &Beyond, assembly: &Assembly) -> Result<bool, JobError> {
        let scan = self.scan(self.view.source_columns(), self.marks());
        let units = self.units(&scan, entities.times())?;
        self.reading(&units);
        let account = Account::default();
        let layout = Layout {
            events: rows(&units),
            limit: self.limits.memory_bytes,
            threads: self.limits.threads,
        };
        let shuffle = Shuffle::new(self.view, (entities, beyond), layout, &self.limits.spill, &account);
        self.pool.for_each(&units, |_, unit| {
            self.each_batch(&scan, unit, |batch, _| shuffle.push(&batch))
        })?;
        self.warn(&scan);
        self.progress
            .stage(format!("computing {}", self.name), Some(entities.row_count() as u64));
        let partitions: Vec<usize> = (0..shuffle.partitions()).collect();
        self.pool.for_each(&partitions, |_, partition| {
            self.progress.checkpoint()?;
            let slots = entities.slots(&shuffle.entities_of(*partition));
            let rows = &entities.rows()[slots];
            assembly.place(rows, shuffle.answers(*partition)?)?;
            self.progress.add(rows.len() as u64);
            Ok(())
        })?;
        tracing::debug!(
            view = self.name,
            peak_bytes = account.peak(),
            spilled_bytes = shuffle.spilled_bytes(),
            "events joined"
        );
        Ok(scan.has_older())
    }

    /// The marks that matter: of positions, whether they decide between events of one time, and of arrivals, whether they
    /// can be later than the event.
    fn marks(&self) -> Marks {
        let is_prompt = matches!(self.table.positions, Positions::RowNumber { delay_us: ..=1 });
        Marks {
            positions: self.view.has_positions(),
            arrival: self.reading.as_of == AsOf::KnownAt && !is_prompt,
        }
    }

    fn scan(&self, columns: Vec<Field>, marks: Marks) -> Scan {
        let (table, time) = (self.table.clone(), self.view.source().time.clone());
        Scan::new(
            table,
            columns,
            time,
            self.reading.as_of == AsOf::EventTime,
            self.limits.batch_rows,
        )
        .with_marks(marks)
    }

    /// The row groups that may hold what a row can see.
    fn units(&self, scan: &Scan, times: &[i64]) -> Result<Vec<Unit>, JobError> {
        let (first, last) = (times.iter().min(), times.iter().max());
        let lookback = self.view.lookback_us().filter(|_| !self.reading.is_exact);
        let range = match (first, last) {
            (Some(first), Some(last)) => TimeRange {
                from: lookback.map_or(i64::MIN, |lookback| first.saturating_sub(lookback)),
                before: *last,
            },
            _ => TimeRange { from: 0, before: 0 },
        };
        self.pool.io().block_on(scan.units(range))
    }

    fn reading(&self, units: &[Unit]) {
        self.progress
            .stage(format!("reading {}", self.view.source().name), Some(rows(units)));
    }

    /// Calls `work` with each batch of `unit` and the number of its first row among those that the unit gives.
    fn each_batch(
        &self,
        scan: &Scan,
        unit: &Unit,
        mut work: impl FnMut(RecordBatch, u32) -> Result<(), JobError>,
    ) -> Result<(), JobError> {
        let mut first_row = 0u32;
        for batch in scan.read(unit, self.pool.io())? {
            let batch = batch?;
            self.progress.checkpoint()?;
            let rows = batch.num_rows();
            work(batch, first_row)?;
            first_row += rows as u32;
            self.progress.add(rows as u64);
        }
        Ok(())
    }

    fn warn(&self, scan: &Scan) {
        if scan.rows_without_time() > 0 {
            let source = self.view.source().name.clone();
            metrics::counter!("ondol_pipelines_rows_without_time_total", "source" => source.clone())
                .increment(scan.rows_without_time());
            tracing::warn!(
                source,
                rows = scan.rows_without_time(),
                "rows without an event time are left out"
            );
        }
    }
}

fn rows(units: &[Unit]) -> u64 {
    units.iter().map(|unit| unit.rows).sum()
}
