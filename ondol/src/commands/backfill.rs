//! `backfill`: a version's online rows built, followed as a job; and how every version stands that is being provisioned.

use crate::cli::{BackfillArgs, Output};
use crate::{commands, print};
use anyhow::Result;
use ondol_feature_store_api::FeatureStore;
use ondol_feature_store_api::provisioning::{Provisioning, ProvisioningState};
use ondol_pipelines_api::wire::{BackfillRequest, JobRequest};

/// `ondol backfill`.
pub(crate) async fn run(args: &BackfillArgs, output: Output) -> Result<()> {
    let Some(view) = &args.view else {
        let all = args.connect.feature_store()?.provisionings().await?;
        return print::result(output, &all, |all: &Vec<Provisioning>| table(all));
    };
    let request = JobRequest::Backfill(BackfillRequest { view: view.clone() });
    commands::jobs::submit(request, &args.submission, &args.connect, output).await
}

/// How far versions are that are being built, in a few words; nothing while none is, or the store does not say.
pub(crate) async fn progress(store: &dyn FeatureStore) -> Option<String> {
    let all = store.provisionings().await.ok()?;
    let at_work = |found: &&Provisioning| {
        matches!(
            found.state,
            ProvisioningState::Building | ProvisioningState::HandingOver | ProvisioningState::Failed
        )
    };
    let told = all.iter().filter(at_work).map(|found| match &found.error {
        Some(error) => format!("{} failed and is tried again ({error})", found.name()),
        None => format!("{} {}, {} events", found.name(), found.state.name(), events(found)),
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| format!(": {}", told.join("; ")))
}

/// A version that is held back, among those of `views`.
pub(crate) async fn held(store: &dyn FeatureStore, views: &[&str]) -> Option<Provisioning> {
    // A store that does not say waits for nobody.
    let all = store.provisionings().await.ok()?;
    let held = |found: &Provisioning| found.state == ProvisioningState::Held && views.contains(&found.view.as_str());
    all.into_iter().find(held)
}

fn table(all: &[Provisioning]) -> String {
    if all.is_empty() {
        return "every view serves".to_owned();
    }
    let rows = all.iter().map(|found| {
        let what = if found.rebuild { "built anew" } else { "new" };
        [
            found.name().to_string(),
            found.source.clone(),
            what.to_owned(),
            found.state.name().to_owned(),
            events(found),
            found.started_at.map(|time| time.to_string()).unwrap_or_default(),
            found.error.clone().unwrap_or_default(),
        ]
    });
    print::table(
        ["view", "source", "rows", "state", "events", "started", "held up by"],
        rows,
    )
}

fn events(found: &Provisioning) -> String {
    match found.rows_total {
        Some(total) => format!("{} of {total}", found.rows_done),
        None => found.rows_done.to_string(),
    }
}
