//! What online reads say of each value, counted for a training set: how many rows were fresh, stale, null or missing.
//!
//! A status is the row's standing in its view and whether there is a value. So one code per row and view, and the nulls of
//! each feature before defaults are filled in, count the statuses of all features: no feature has a column of them.

use crate::error::JobError;
use crate::point_in_time::{Assembled, JoinView, Worth};
use arrow::array::{Array, ArrayRef};
use ondol_pipelines_api::wire::FeatureStatuses;
use ondol_vocabulary::FeatureKind;
use std::ops::Range;

/// A view's features for a spine, put together as they are asked for.
pub(super) struct Joined {
    view: JoinView,
    assembled: Assembled,
    tally: Tally,
    /// By feature, in how many of the rows asked for there is no value.
    nulls: Vec<u64>,
}

/// Rows of a view by what their entities are worth.
#[derive(Default)]
struct Tally {
    missing: u64,
    stale: u64,
    live: u64,
    unread: u64,
}

impl Tally {
    fn of(worth: &[Worth]) -> Self {
        let mut tally = Self::default();
        for worth in worth {
            match worth {
                Worth::Missing | Worth::Deleted => tally.missing += 1,
                Worth::Stale => tally.stale += 1,
                Worth::Live => tally.live += 1,
                Worth::Unread => tally.unread += 1,
            }
        }
        tally
    }

    /// Of a feature that has no value in `nulls` rows, which a count does of a missing entity: 0.
    fn statuses(&self, nulls: u64, is_count: bool, has_default: bool) -> FeatureStatuses {
        let absent = match is_count {
            true => self.stale,
            false => self.stale + self.missing + self.unread,
        };
        let null = nulls.saturating_sub(absent);
        FeatureStatuses {
            fresh: self.live.saturating_sub(null),
            null,
            stale: self.stale,
            missing: self.missing,
            unread: self.unread,
            defaults: if has_default { nulls } else { 0 },
        }
    }
}

impl Joined {
    /// What `view` has of the rows.
    pub(super) fn new(view: JoinView, mut assembled: Assembled) -> Self {
        let tally = Tally::of(&std::mem::take(&mut assembled.worth));
        Self {
            nulls: vec![0; view.definition().features.len()],
            view,
            assembled,
            tally,
        }
    }

    /// A column per feature of `rows`, defaults filled in. To be asked for each row once, for [`Self::statuses`] to count it.
    pub(super) fn rows(&mut self, rows: Range<usize>) -> Result<Vec<ArrayRef>, JobError> {
        let values = self.assembled.rows(rows)?;
        for (nulls, values) in self.nulls.iter_mut().zip(&values) {
            *nulls += values.logical_null_count() as u64;
        }
        self.view.filled(values)
    }

    /// What the statuses of all rows are, by feature.
    pub(super) fn statuses(&self) -> Vec<FeatureStatuses> {
        let features = self.view.definition().features.iter();
        let features = features.zip(self.view.history().has_defaults()).zip(&self.nulls);
        let statuses = features.map(|((feature, has_default), nulls)| {
            let is_count = match feature.kind {
                FeatureKind::Aggregate { function, .. } => function.counts(),
                FeatureKind::LatestRow { .. } => false,
            };
            self.tally.statuses(*nulls, is_count, has_default)
        });
        statuses.collect()
    }
}
