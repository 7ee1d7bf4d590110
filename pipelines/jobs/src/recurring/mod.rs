//! Training sets that are built again and again: the job reads its spine itself, and keeps the rows where it is told to.
//!
//! 1. [`period`] puts the run's stretch of time into the places of the request;
//! 2. [`spine`] reads files, or asks a query over the offline tables, for the rows to be labelled with features;
//! 3. [`crate::training_set`] builds the set, as for a spine that was sent;
//! 4. [`output`] writes it to a Parquet file, on a disk or in a bucket, and its manifest last.

mod output;
mod period;
mod spine;

use crate::error::JobError;
use crate::kind::{Context, Outcome, Work, training_set_limits};
use crate::training_set::{TrainingSet, check_model};
use async_trait::async_trait;
use ondol_pipelines_api::PipelinesError;
use ondol_pipelines_api::wire::{RecurringTrainingSetRequest, TrainingSetOptions, TrainingSetRequest};
use ondol_vocabulary::Snapshot;
use ondol_wire::ContractError;
use serde::Serialize;
use std::sync::Arc;

pub(crate) use period::Period;

/// The kind of these jobs.
pub(crate) const RECURRING_TRAINING_SET: &str = "recurring-training-set";

/// A recurring training set whose request makes sense.
pub(crate) struct RecurringTrainingSet(RecurringTrainingSetRequest);

/// What such a job came to.
#[derive(Serialize)]
struct Kept {
    /// Where the rows are.
    output: String,
    /// Where the manifest is.
    manifest: String,
    /// How many rows there are.
    rows: u64,
}

impl RecurringTrainingSet {
    /// Checks what can be known before a run: the model, where the spine comes from, how the output is named.
    pub(crate) fn check(snapshot: &Snapshot, request: &RecurringTrainingSetRequest) -> Result<Self, PipelinesError> {
        check_model(snapshot, &request.model)?;
        if request.spine.is_some() == request.spine_query.is_some() {
            return Err(PipelinesError::invalid(
                "give either `spine`, where its Parquet files are, or `spine_query`, a query over the offline tables"
                    .to_owned(),
            ));
        }
        if !request.output.ends_with(".parquet") {
            return Err(PipelinesError::invalid(format!(
                "output `{}` does not end in .parquet: name a file, such as s3://lake/sets/{{end_date}}/train.parquet",
                request.output
            )));
        }
        for (field, text) in texts(request) {
            period::check(field, text)?;
        }
        Ok(Self(request.clone()))
    }
}

/// Refuses what would write every run over the one before it.
pub(crate) fn check_recurs(request: &RecurringTrainingSetRequest) -> Result<(), PipelinesError> {
    if period::has_places(&request.output) {
        return Ok(());
    }
    Err(PipelinesError::invalid(format!(
        "output `{}` is the same for every run, which would replace the one before it: put {{end}} or {{end_date}} into it",
        request.output
    )))
}

/// Refuses a request that is submitted once and leaves open what a schedule would fill in.
pub(crate) fn check_complete(request: &RecurringTrainingSetRequest) -> Result<(), PipelinesError> {
    let period = Period::of(request);
    texts(request)
        .into_iter()
        .try_for_each(|(field, text)| period.fill(field, text).map(drop))
}

/// The fields that may have places, by name.
fn texts(request: &RecurringTrainingSetRequest) -> Vec<(&'static str, &str)> {
    let spine = request.spine.as_deref().map(|text| ("spine", text));
    let query = request.spine_query.as_deref().map(|text| ("spine_query", text));
    let output = Some(("output", request.output.as_str()));
    [spine, query, output].into_iter().flatten().collect()
}

#[async_trait]
impl Work for RecurringTrainingSet {
    async fn run(self: Box<Self>, context: &Context) -> Result<Outcome, JobError> {
        let request = self.0;
        let refused = |error: PipelinesError| JobError::Refused(error.to_string());
        let period = Period::of(&request);
        let output = period.fill("output", &request.output).map_err(refused)?;
        let output = output::Output::at(&output)?;
        context.progress.stage("reading the spine", None);
        let (spine_schema, spine) = tokio::select! {
            spine = read(&request, &period, context) => spine?,
            reason = context.progress.stopped() => return Err(reason),
        };
        let options = TrainingSetOptions {
            model: request.model,
            time_column: request.time_column,
            as_of: request.as_of,
            exact_status: false,
        };
        let request = TrainingSetRequest {
            options,
            spine_schema,
            spine,
        };
        let snapshot = context.store.snapshot().await?;
        // Casting a spine is CPU work in proportion to its rows.
        let check = tokio::task::spawn_blocking(move || TrainingSet::check(&snapshot, request)).await;
        let set = check.map_err(JobError::internal)?.map_err(refused)?;
        let manifest = set
            .build(
                context.store.as_ref(),
                training_set_limits(context),
                context.now,
                Arc::clone(&context.progress),
                (context.results.clone(), context.result.clone()),
                context.engines.joins.as_deref(),
            )
            .await?;
        context.progress.stage("keeping the rows", Some(manifest.rows));
        let rows = context.results.read(&context.result).await?;
        let rows = rows.ok_or_else(|| JobError::internal("the rows that were just written are gone"))?;
        output
            .write(rows, &manifest, &context.config.data_dir, &context.progress)
            .await?;
        let kept = Kept {
            output: output.to_string(),
            manifest: output.manifest(),
            rows: manifest.rows,
        };
        Ok(Outcome {
            manifest: Some(manifest),
            ..Outcome::of(&kept)?
        })
    }
}

async fn read(
    request: &RecurringTrainingSetRequest,
    period: &Period,
    context: &Context,
) -> Result<spine::Rows, JobError> {
    let refused = |error: PipelinesError| JobError::Refused(error.to_string());
    if let Some(place) = &request.spine {
        return spine::files(&period.fill("spine", place).map_err(refused)?).await;
    }
    let query = request.spine_query.as_deref().unwrap_or_default();
    let query = period.fill("spine_query", query).map_err(refused)?;
    spine::answer(context.engines.sql.as_deref(), query).await
}
