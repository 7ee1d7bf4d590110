//! Online rows of a view version built from the past.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A view version whose online rows are to be built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackfillRequest {
    /// The view, as `card@2`; without a version, the one that is being provisioned, or else the one that serves. For a
    /// view over a table the job is a materialization of the table.
    pub view: String,
}

/// What a backfill came to: the `outcome` of its job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackfillOutcome {
    /// The view.
    pub view: String,
    /// Its version, which serves now.
    pub version: u32,
}
