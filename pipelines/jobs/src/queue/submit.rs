//! Submissions: checked, given an id, their spine kept, then let into the ledger, or refused.
//!
//! Order matters. What costs nothing is refused first (a key that is known, a queue that is full); the spine is durable
//! before the job is; and whatever the ledger refuses leaves no spine behind.

use super::dispatch::Lane;
use super::{Queue, unavailable, unknown_job};
use crate::backfill::{self, BACKFILL};
use crate::kind::{self, TRAINING_SET};
use crate::ledger::{Firing, KeyDigest, Submission, Submitted};
use crate::recurring;
use crate::spines::Encoded;
use crate::training_set::TrainingSet;
use ondol_pipelines_api::PipelinesError;
use ondol_pipelines_api::wire::{
    BackfillRequest, IdempotencyKey, Job, JobRequest, JobState, MaterializeRequest, TrainingSetRequest,
};
use ondol_vocabulary::Snapshot;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use xxhash_rust::xxh3::xxh3_128;

/// Where a submission comes from, and how it is to be taken.
#[derive(Default)]
struct Origin {
    key: Option<IdempotencyKey>,
    retry_of: Option<String>,
    firing: Option<Firing>,
    alone: bool,
    /// Nobody asked for it: what somebody holds back stays held.
    by_itself: bool,
}

/// A request ready to be stored.
struct Prepared {
    kind: String,
    subject: String,
    request: String,
    memory_mib: u64,
    /// Equal for equal requests.
    digest: String,
}

impl Queue {
    /// Checks and submits a materialization, unless one of the source is under way: then that is the answer.
    pub(crate) async fn materialize(
        &self,
        snapshot: &Snapshot,
        request: MaterializeRequest,
    ) -> Result<Job, PipelinesError> {
        let origin = Origin {
            alone: true,
            ..Origin::default()
        };
        let request = JobRequest::Materialize(request);
        Ok(self.submit_request(snapshot, &request, origin).await?.0)
    }

    /// Submits a job that watches how the rows of view version `name` are built; it lets nothing go on that is held. With a
    /// `key`, once for all instances.
    pub(crate) async fn watch_backfill(
        &self,
        snapshot: &Snapshot,
        name: &str,
        key: Option<IdempotencyKey>,
    ) -> Result<Job, PipelinesError> {
        let origin = Origin {
            by_itself: true,
            key,
            ..Origin::default()
        };
        let request = JobRequest::Backfill(BackfillRequest { view: name.to_owned() });
        Ok(self.submit_request(snapshot, &request, origin).await?.0)
    }

    /// Checks and submits a request without a spine.
    pub(crate) async fn submit(
        &self,
        snapshot: &Snapshot,
        request: &JobRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Job, PipelinesError> {
        if let JobRequest::RecurringTrainingSet(request) = request {
            recurring::check_complete(request)?;
        }
        let origin = Origin {
            key,
            ..Origin::default()
        };
        Ok(self.submit_request(snapshot, request, origin).await?.0)
    }

    /// Submits what a schedule is due for. `None` when another instance has.
    pub(crate) async fn submit_due(
        &self,
        snapshot: &Snapshot,
        request: &JobRequest,
        firing: Firing,
    ) -> Result<Option<Job>, PipelinesError> {
        let origin = Origin {
            firing: Some(firing),
            ..Origin::default()
        };
        let (job, new) = self.submit_request(snapshot, request, origin).await?;
        Ok(new.then_some(job))
    }

    async fn submit_request(
        &self,
        snapshot: &Snapshot,
        request: &JobRequest,
        origin: Origin,
    ) -> Result<(Job, bool), PipelinesError> {
        let asked = stored(request)?;
        let request = backfill::resolved(snapshot, request)?;
        let checked = kind::check(snapshot, &request, &self.parts.config)?;
        let prepared = Prepared {
            kind: request.kind().to_owned(),
            subject: checked.subject,
            digest: digest(&[&asked]),
            request: stored(request.as_ref())?,
            memory_mib: checked.memory_mib,
        };
        self.enter(self.new_id()?, prepared, origin).await
    }

    /// Checks and submits a training set.
    pub(crate) async fn submit_training_set(
        &self,
        snapshot: Arc<Snapshot>,
        request: TrainingSetRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Job, PipelinesError> {
        self.refuse_if_full(Lane::Work, key.as_ref()).await?;
        let options = stored(&request.options)?;
        let model = request.options.model.clone();
        // Encoding and casting a spine is CPU work in proportion to its rows.
        let check = tokio::task::spawn_blocking(move || {
            let spine = Encoded::of(&request).map_err(unavailable)?;
            TrainingSet::check(&snapshot, request)?;
            Ok::<_, PipelinesError>(spine)
        });
        let spine = check.await.map_err(|cause| internal(&cause))??;
        let prepared = Prepared {
            kind: TRAINING_SET.to_owned(),
            subject: model,
            memory_mib: kind::training_set_mib(spine.bytes(), &self.parts.config),
            digest: digest(&[TRAINING_SET, &options, spine.digest()]),
            request: options,
        };
        let id = self.new_id()?;
        self.parts.spines.put(&id, spine).await.map_err(unavailable)?;
        let origin = Origin {
            key,
            ..Origin::default()
        };
        self.enter_with_spine(id, prepared, origin).await
    }

    /// Submits the request of job `id`, which has ended, once more.
    pub(crate) async fn retry(&self, id: &str, key: Option<IdempotencyKey>) -> Result<Job, PipelinesError> {
        let job = self.job(id, None, Duration::ZERO).await?;
        let refused = |reason: &str| PipelinesError::NotRepeatable {
            id: id.to_owned(),
            reason: reason.to_owned(),
        };
        if !job.state.is_final() {
            return Err(refused("it has not ended: wait for its end, or cancel it"));
        }
        let request = self.parts.ledger.request(id).await.map_err(unavailable)?;
        let request = request.ok_or_else(|| refused("the ledger holds no request of it: submit it anew"))?;
        let memory_mib = self.parts.ledger.memory_mib(id).await.map_err(unavailable)?;
        let prepared = Prepared {
            kind: job.kind,
            subject: job.subject,
            digest: digest(&["retry", id]),
            request,
            memory_mib: memory_mib.ok_or_else(|| unknown_job(id))?,
        };
        let origin = Origin {
            key,
            retry_of: Some(id.to_owned()),
            ..Origin::default()
        };
        let new = self.new_id()?;
        if prepared.kind != TRAINING_SET {
            return Ok(self.enter(new, prepared, origin).await?.0);
        }
        if !self.parts.spines.copy(id, &new).await.map_err(unavailable)? {
            let hours = self.parts.config.spine_hours;
            return Err(refused(&format!(
                "its spine is kept for {hours} hours after its end, and gone: submit it anew"
            )));
        }
        self.enter_with_spine(new, prepared, origin).await
    }

    /// [`Self::enter`], or nothing of it is left.
    async fn enter_with_spine(&self, id: String, prepared: Prepared, origin: Origin) -> Result<Job, PipelinesError> {
        let entered = self.enter(id.clone(), prepared, origin).await;
        if !matches!(entered, Ok((_, true)))
            && let Err(error) = self.parts.spines.remove(&id).await
        {
            tracing::warn!(job = id, %error, "the spine of a submission that was refused waits for the sweep");
        }
        Ok(entered?.0)
    }

    /// Lets a job into the ledger. The job, and whether it is a new one.
    async fn enter(&self, id: String, prepared: Prepared, origin: Origin) -> Result<(Job, bool), PipelinesError> {
        let lane = Lane::of(&prepared.kind);
        if prepared.kind == BACKFILL && !origin.by_itself {
            self.release(&prepared.subject, origin.key.as_ref()).await?;
        }
        let job = Job {
            id,
            kind: prepared.kind.clone(),
            subject: prepared.subject,
            state: JobState::Queued,
            revision: 0,
            attempt: 0,
            stage: "waiting for its turn".to_owned(),
            rows_done: 0,
            rows_total: None,
            rows_per_second: None,
            eta_seconds: None,
            created_at: self.now(),
            started_at: None,
            ended_at: None,
            error: None,
            retry_of: origin.retry_of,
            schedule: origin.firing.as_ref().map(|firing| firing.name.clone()),
            outcome: None,
            manifest: None,
        };
        let key = origin.key.map(|key| KeyDigest {
            key,
            digest: prepared.digest,
        });
        let age = i64::try_from(self.parts.config.key_age().as_micros()).unwrap_or(i64::MAX);
        let submission = Submission {
            job: &job,
            request: &prepared.request,
            memory_mib: prepared.memory_mib,
            key: key.as_ref().map(|key| (key, job.created_at.plus_micros(age))),
            // Two that watch the same version would tell the same.
            alone: origin.alone || prepared.kind == BACKFILL,
            firing: origin.firing.as_ref(),
            bound: (lane.kinds(), self.bound()),
        };
        match self.parts.ledger.submit(&submission).await.map_err(unavailable)? {
            Submitted::New => {
                tracing::info!(job = job.id, kind = job.kind, subject = job.subject, "job submitted");
                self.changed();
                Ok((job, true))
            }
            Submitted::Same(same) => Ok((*same, false)),
            Submitted::NotDue => Ok((job, false)),
            Submitted::Full => Err(self.full()),
            Submitted::KeyReused(other) => {
                metrics::counter!("ondol_pipelines_submissions_refused_total", "reason" => "key-reused").increment(1);
                let key = key.map(|key| key.key.to_string()).unwrap_or_default();
                Err(PipelinesError::KeyReused { key, job: other })
            }
        }
    }

    /// Lets the view version that a backfill is about go on, unless its submission has been answered before.
    async fn release(&self, view: &str, key: Option<&IdempotencyKey>) -> Result<(), PipelinesError> {
        if let Some(key) = key
            && self.parts.ledger.knows(key, self.now()).await.map_err(unavailable)?
        {
            return Ok(());
        }
        self.refuse_if_full(Lane::Watch, None).await?;
        backfill::release(self.parts.store.as_ref(), view).await
    }

    /// Refuses a submission before any work is done for it, unless its key may name a job already.
    async fn refuse_if_full(&self, lane: Lane, key: Option<&IdempotencyKey>) -> Result<(), PipelinesError> {
        let full = self.parts.ledger.queued(lane.kinds()).await.map_err(unavailable)? >= self.bound();
        let known = match key {
            Some(key) if full => self.parts.ledger.knows(key, self.now()).await.map_err(unavailable)?,
            _ => false,
        };
        if full && !known {
            return Err(self.full());
        }
        Ok(())
    }

    fn bound(&self) -> u64 {
        self.parts.config.queued_jobs.max(1) as u64
    }

    fn full(&self) -> PipelinesError {
        metrics::counter!("ondol_pipelines_submissions_refused_total", "reason" => "queue-full").increment(1);
        PipelinesError::Overloaded {
            detail: format!(
                "{} jobs are waiting already (`queued_jobs`): try again later",
                self.bound()
            ),
        }
    }

    fn new_id(&self) -> Result<String, PipelinesError> {
        let micros = u64::try_from(self.parts.clock.now_micros()).unwrap_or(0);
        let now = SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
        let mut ids = self.ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let id = ids.generate_from_datetime(now);
        id.map(|id| id.to_string()).map_err(|cause| internal(&cause))
    }
}

/// A request as the ledger holds it.
fn stored(request: &impl serde::Serialize) -> Result<String, PipelinesError> {
    serde_json::to_string(request).map_err(|cause| internal(&cause))
}

/// What tells requests apart.
fn digest(parts: &[&str]) -> String {
    format!("{:032x}", xxh3_128(parts.join("\n").as_bytes()))
}

fn internal(cause: &dyn std::fmt::Display) -> PipelinesError {
    PipelinesError::Internal {
        detail: cause.to_string(),
    }
}
