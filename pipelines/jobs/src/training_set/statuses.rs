//! What online reads say of each value, counted for a training set: how many rows were fresh, stale, null or missing.
//!
//! A status is the row's standing in its view and whether there is a value. So one code per row and view, and the nulls of
//! each feature before defaults are filled in, count the statuses of all features: no feature has a column of them.

use crate::error::JobError;
use crate::point_in_time::{Answers, JoinView, Worth};
use arrow::array::{Array, ArrayRef};
use ondol_pipelines_api::wire::FeatureStatuses;
use ondol_vocabulary::FeatureKind;

/// A view's features for a spine.
pub(super) struct Joined {
    /// A column per feature, defaults filled in.
    pub values: Vec<ArrayRef>,
    /// What the rows' statuses are, by feature.
    pub statuses: Vec<FeatureStatuses>,
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
    /// Counts `answers`, those of `view`, and fills defaults in.
    pub(super) fn of(view: &JoinView, answers: Answers) -> Result<Self, JobError> {
        let tally = Tally::of(&answers.worth);
        let features = view.definition().features.iter();
        let statuses =
            features
                .zip(view.history().has_defaults())
                .zip(&answers.values)
                .map(|((feature, has_default), values)| {
                    let is_count = match feature.kind {
                        FeatureKind::Aggregate { function, .. } => function.counts(),
                        FeatureKind::LatestRow { .. } => false,
                    };
                    tally.statuses(values.logical_null_count() as u64, is_count, has_default)
                });
        Ok(Self {
            statuses: statuses.collect(),
            values: view.filled(answers.values)?,
        })
    }
}
