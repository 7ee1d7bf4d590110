//! Backfill of a new view version's online rows, as a job.
//!
//! The work is the feature store's: it builds the rows from its log and hands them over to the stream at an exact
//! position, for which it needs its own locks, and it does so whether the pipelines run or not. The job makes that visible
//! and lets it be steered:
//!
//! 1. [`follow`](follow::follow) submits a job for every version that is being provisioned, unless somebody holds it back;
//! 2. submitting one by hand, or once more, releases the version, cancelling holds it ([`steer`]), in the store, before
//!    the ledger knows of it: whatever crashes in between, the ledger never says that a version rests which does not;
//! 3. the job watches ([`Backfill`]) until the version serves. It takes neither a place nor memory from jobs that work,
//!    and one that lost its process just watches again.
//!
//! A view over a table gets its rows from a materialization: [`resolved`] makes that the request.

mod follow;
mod steer;

use crate::error::JobError;
use crate::kind::{Context, Outcome, Work};
use crate::nearest::nearest;
use crate::progress::Progress;
use async_trait::async_trait;
use ondol_feature_store_api::provisioning::{Provisioning, ProvisioningState};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_pipelines_api::PipelinesError;
use ondol_pipelines_api::wire::{BackfillOutcome, BackfillRequest, JobRequest, MaterializeRequest};
use ondol_vocabulary::{Snapshot, VersionedName, ViewState, ViewVersion};
use ondol_wire::ContractError;
use std::borrow::Cow;
use std::time::Duration;

pub(crate) use follow::follow;
pub(crate) use steer::{hold, release};

/// The kind of these jobs.
pub(crate) const BACKFILL: &str = "backfill";

/// How often a job looks at how far the store is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A backfill that can be watched.
pub(crate) struct Backfill {
    view: VersionedName,
}

/// Where a version stands.
enum Look {
    UnderWay(Provisioning),
    Serves,
    /// Neither does it serve nor will it.
    Gone,
}

/// The request with the version it means, or the materialization that gives a view over a table its rows.
pub(crate) fn resolved<'a>(
    snapshot: &Snapshot,
    request: &'a JobRequest,
) -> Result<Cow<'a, JobRequest>, PipelinesError> {
    let JobRequest::Backfill(asked) = request else {
        return Ok(Cow::Borrowed(request));
    };
    let found = meant(snapshot, &asked.view)?;
    let source = snapshot.source(&found.definition.source);
    Ok(Cow::Owned(match source {
        Some(source) if !source.definition.is_stream() => {
            JobRequest::Materialize(MaterializeRequest::of(&source.definition.name))
        }
        _ => {
            let name = VersionedName::new(&found.definition.name, found.version);
            JobRequest::Backfill(BackfillRequest { view: name.to_string() })
        }
    }))
}

/// The version that `text` means: of several, one that is being provisioned.
fn meant<'s>(snapshot: &'s Snapshot, text: &str) -> Result<&'s ViewVersion, PipelinesError> {
    let (name, version) = match text.rsplit_once('@') {
        None => (text, None),
        Some(_) => {
            let parsed: Result<VersionedName, _> = text.parse();
            let version = parsed
                .map_err(|_| PipelinesError::invalid(format!("view `{text}` is not of the form `card` or `card@2`")))?;
            (text.split('@').next().unwrap_or(text), Some(version.version))
        }
    };
    let mut views: Vec<&ViewVersion> = (snapshot.views.iter())
        .filter(|view| view.definition.name == name && view.state != ViewState::Retired)
        .collect();
    views.sort_by_key(|view| (view.state == ViewState::Provisioning, view.version));
    let Some(newest) = views.last() else {
        let known = snapshot.views.iter().map(|view| view.definition.name.as_str());
        return Err(PipelinesError::Unknown {
            kind: "view".to_owned(),
            name: name.to_owned(),
            suggestion: nearest(name, known),
        });
    };
    let wanted = |view: &&&ViewVersion| version.is_none_or(|version| view.version == version);
    views.iter().rev().find(wanted).copied().ok_or_else(|| {
        PipelinesError::invalid(format!(
            "view `{text}` neither serves nor is being provisioned: `{name}@{}` is",
            newest.version
        ))
    })
}

impl Backfill {
    /// As `request`, which names a version, says.
    pub(crate) fn check(request: &BackfillRequest) -> Result<Self, PipelinesError> {
        match request.view.parse() {
            Ok(view) => Ok(Self { view }),
            Err(cause) => Err(PipelinesError::invalid(format!("view {cause}"))),
        }
    }

    /// Where the version stands. Both answers of the store come from its database, so that no replica's is stale.
    async fn look(&self, store: &dyn FeatureStore) -> Result<Look, FeatureStoreError> {
        if let Some(found) = steer::find(store, &self.view).await? {
            return Ok(Look::UnderWay(found));
        }
        let history = match store.history(&format!("view.{}", self.view.name)).await {
            Err(FeatureStoreError::Unknown { .. }) => return Ok(Look::Gone),
            history => history?,
        };
        let mut versions = history.versions.iter();
        Ok(
            match versions.find(|known| known.version == self.view.version && known.in_force) {
                Some(_) => Look::Serves,
                None => Look::Gone,
            },
        )
    }
}

#[async_trait]
impl Work for Backfill {
    async fn run(self: Box<Self>, context: &Context) -> Result<Outcome, JobError> {
        let progress = context.progress.as_ref();
        loop {
            let look = tokio::select! {
                look = self.look(context.store.as_ref()) => look,
                reason = progress.stopped() => return Err(reason),
            };
            match look {
                Ok(Look::UnderWay(found)) if found.state == ProvisioningState::Held => {
                    return Err(JobError::Withdrawn(format!(
                        "`{}` is held back: `ondol backfill {}`, or trying this job again, lets it go on",
                        self.view, self.view
                    )));
                }
                Ok(Look::UnderWay(found)) => report(progress, &found),
                Ok(Look::Serves) => {
                    let VersionedName { name, version } = self.view;
                    return Outcome::of(&BackfillOutcome { view: name, version });
                }
                Ok(Look::Gone) => {
                    return Err(JobError::Withdrawn(format!(
                        "`{}` is no longer wanted: other definitions were applied meanwhile",
                        self.view
                    )));
                }
                Err(error) => {
                    tracing::warn!(feature_view = self.view.name, version = self.view.version, %error,
                        "the feature store can't be asked how a backfill goes, trying again");
                    progress.stage("the feature store does not answer: asking again", None);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                reason = progress.stopped() => return Err(reason),
            }
        }
    }
}

fn report(progress: &Progress, found: &Provisioning) {
    let stage = match (found.state, &found.error) {
        (ProvisioningState::Waiting | ProvisioningState::Held, _) => "waiting for its turn in the store".to_owned(),
        (ProvisioningState::Building, _) => format!("building rows from the log of {}", found.source),
        (ProvisioningState::HandingOver, _) => "handing over to the stream".to_owned(),
        (ProvisioningState::Failed, Some(error)) => format!("the last attempt failed, and is made again: {error}"),
        (ProvisioningState::Failed, None) => "the last attempt failed, and is made again".to_owned(),
    };
    progress.reach(&stage, found.rows_done, found.rows_total);
}

#[cfg(test)]
#[path = "../../tests/support/definitions.rs"]
mod definitions;

#[cfg(test)]
mod tests {
    use super::*;

    const DEFINITIONS: &str = r#"
[source.payments]
kafka = "payments"
time = "ts"
schema = { card = "string", ts = "timestamp" }

[source.shops]
parquet = "shops/"
time = "since"
schema = { merchant = "i64", since = "timestamp" }

[view.card]
from = "payments"
key = "card"
features.n = "count() over 1h"

[view.shop]
from = "shops"
key = "merchant"
features.since = "since"
"#;

    /// Version 2 of each view serves; version 3 of `card` is being provisioned.
    fn snapshot() -> Snapshot {
        let mut snapshot = definitions::snapshot(DEFINITIONS, ViewState::Active);
        let card = snapshot.views.iter().find(|view| view.definition.name == "card");
        let mut next = card.unwrap().clone();
        (next.id, next.version, next.state) = (next.id + 10, 3, ViewState::Provisioning);
        snapshot.views.push(next);
        snapshot
    }

    fn check(view: &str, expected: Result<JobRequest, &str>) {
        let request = JobRequest::Backfill(BackfillRequest { view: view.to_owned() });
        let found = resolved(&snapshot(), &request).map(Cow::into_owned);
        assert_eq!(
            found.map_err(|error| error.to_string()),
            expected.map_err(str::to_owned)
        );
    }

    #[test]
    fn a_view_without_a_version_means_the_one_that_is_being_provisioned() {
        let of = |view: &str| Ok(JobRequest::Backfill(BackfillRequest { view: view.to_owned() }));
        check("card", of("card@3"));
        check("card@3", of("card@3"));
        check("card@2", of("card@2"));
        check(
            "card@1",
            Err("view `card@1` neither serves nor is being provisioned: `card@3` is"),
        );
        check("crad", Err("unknown view `crad`: did you mean `card`?"));
        check("card@x", Err("view `card@x` is not of the form `card` or `card@2`"));
    }

    #[test]
    fn a_view_over_a_table_is_materialized() {
        check("shop", Ok(JobRequest::Materialize(MaterializeRequest::of("shops"))));
    }
}
