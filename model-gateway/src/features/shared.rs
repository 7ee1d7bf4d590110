//! One read of the feature store for a call whose requests go to several versions: of all features that any of them needs,
//! for all rows; each version takes its own rows and features from it.

use super::{Lookups, Plan, Troubled};
use crate::fault::of_store;
use crate::inputs::Inputs;
use crate::predict::Deadline;
use arrow::array::UInt32Array;
use arrow::compute::take;
use ondol_feature_store_api::wire::{EntityColumn, FeatureBatch, FeatureColumn, ReadRequest};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_vocabulary::{EventTime, FeatureRef};
use std::sync::Arc;

/// What was read for a whole call, or why it could not be.
#[derive(Clone, Debug)]
pub struct SharedRead(Arc<Result<FeatureBatch, ModelGatewayError>>);

/// A version's rows of it.
#[derive(Debug)]
pub struct Share {
    read: SharedRead,
    rows: UInt32Array,
}

impl SharedRead {
    /// Reads what `plans` need for all of `inputs`, within the share of `deadline` that a lookup has. Nothing where none
    /// of them needs any. The plans are of one model and one snapshot, so they have one policy and one set of inputs.
    pub async fn of(
        plans: &[Arc<Plan>],
        lookups: &Lookups,
        inputs: &Inputs,
        as_of: Option<EventTime>,
        deadline: Deadline,
    ) -> Option<Self> {
        let first = plans.first()?;
        let (mut features, mut entities): (Vec<FeatureRef>, Vec<EntityColumn>) = (Vec::new(), Vec::new());
        for plan in plans {
            for need in plan.engine.needs().iter() {
                if !features.contains(need) {
                    features.push(need.clone());
                }
            }
            for entity in plan.entities(inputs) {
                if !entities.iter().any(|known| known.name == entity.name) {
                    entities.push(entity);
                }
            }
        }
        if features.is_empty() {
            return None;
        }
        let limit = Troubled::new(&first.model().name, &first.policy).lookup_limit(deadline.whole());
        let request = ReadRequest {
            features: features.into(),
            entities,
            as_of,
        };
        let read = async {
            let read = lookups.store().read(request).await;
            read.map_err(|error| of_store(&error))
        };
        Some(Self(Arc::new(lookups.within(deadline, limit, read).await)))
    }

    /// The share of the version that scores `rows`.
    pub fn share(&self, rows: &[usize]) -> Share {
        Share {
            read: self.clone(),
            rows: rows.iter().map(|row| u32::try_from(*row).ok()).collect(),
        }
    }
}

impl Share {
    /// The columns of `needs`, each of its rows; none where they are not all in what was read, as when the definitions
    /// have changed since.
    pub(super) fn columns(
        &self,
        needs: &[FeatureRef],
    ) -> Option<Result<(EventTime, Vec<FeatureColumn>), ModelGatewayError>> {
        let batch = match self.read.0.as_ref() {
            Ok(batch) => batch,
            Err(error) => return Some(Err(error.clone())),
        };
        let columns = needs.iter().map(|need| {
            let column = batch.column(need)?;
            let places = || self.rows.values().iter().map(|row| *row as usize);
            Some(FeatureColumn {
                view_version: column.view_version,
                values: take(&column.values, &self.rows, None).ok()?,
                status: places()
                    .map(|row| column.status.get(row).copied())
                    .collect::<Option<_>>()?,
                event_time: places()
                    .map(|row| column.event_time.get(row).copied())
                    .collect::<Option<_>>()?,
            })
        });
        Some(Ok((batch.as_of, columns.collect::<Option<_>>()?)))
    }
}
