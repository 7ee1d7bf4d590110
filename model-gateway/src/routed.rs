//! A call's way before its version is known: admitted by its model's bulkhead, routed, scored by one version or by
//! several, each with its own requests, and put together again in the order of the instances.

use crate::fault::internal;
use crate::features::{Share, SharedRead};
use crate::inputs::{self, Inputs};
use crate::models::Version;
use crate::predict::{Batch, Deadline, Predictor, Scored};
use crate::route::bulkhead::Place;
use crate::route::table::{Choice, Choices, ModelRoutes};
use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use futures::future::try_join_all;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::Prediction;
use ondol_vocabulary::{EventTime, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// A call that was let in. Dropping it lets the next one in.
#[derive(Debug)]
pub struct Admission {
    place: Place,
    _permit: OwnedSemaphorePermit,
}

impl Admission {
    /// How long it took.
    pub fn waited(&self) -> Duration {
        self.place.waited()
    }
}

/// A scored call: what each version made of its requests, in the order of the instances.
#[derive(Debug)]
pub struct Routed {
    parts: Vec<Arc<Scored>>,
    /// Per instance its part and its row there; none when there is one part, in order.
    places: Option<Vec<(usize, usize)>>,
}

/// Requests of a call that go to one version.
#[derive(Debug)]
pub(crate) struct Part {
    /// The version.
    pub(crate) version: Arc<Version>,
    /// Their places in the call.
    rows: Vec<usize>,
    /// By which way each was routed, or all of them.
    pub(crate) routes: Vec<Arc<str>>,
}

impl Routed {
    /// Number of instances.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows()).sum()
    }

    /// What each version scored.
    pub fn parts(&self) -> &[Arc<Scored>] {
        &self.parts
    }

    /// What the one version scored that all requests went to; none when there were several.
    pub fn whole(&self) -> Option<&Arc<Scored>> {
        match (&self.places, self.parts.as_slice()) {
            (None, [whole]) => Some(whole),
            _ => None,
        }
    }

    /// Who scored instance `row`, and its row there.
    pub fn place(&self, row: usize) -> Option<(&Arc<Scored>, usize)> {
        let (part, row) = match &self.places {
            None => (0, row),
            Some(places) => *places.get(row)?,
        };
        Some((self.parts.get(part)?, row))
    }

    /// The answer to every instance; `explained` lists the features.
    pub fn answers(&self, explained: bool) -> Vec<Prediction> {
        let places = (0..self.rows()).filter_map(|row| self.place(row));
        places.map(|(scored, row)| scored.answer(row, explained)).collect()
    }
}

impl Predictor {
    /// Lets a call of `routes`' model in, or says why not.
    pub async fn admit(&self, routes: &ModelRoutes, deadline: Deadline) -> Result<Admission, ModelGatewayError> {
        // The model's own bound first, so that calls that wait for a slow model hold nothing that others need.
        let place = routes.bulkhead.enter(deadline.end()).await?;
        Ok(Admission {
            place,
            _permit: self.bounds.admit()?,
        })
    }

    /// The model's routes, and the version that `model` names, if it does. A model that is not among the known
    /// definitions is asked for once more: it may have been applied a moment ago.
    pub async fn find(&self, model: &str) -> Result<(Arc<ModelRoutes>, Option<Choice>), ModelGatewayError> {
        match self.models.find(model, &self.definitions.current()) {
            Err(ModelGatewayError::UnknownModel { .. }) => {
                // A store that can't be asked leaves the answer as it was.
                let snapshot = self
                    .definitions
                    .refresh()
                    .await
                    .unwrap_or_else(|_| self.definitions.current());
                self.models.find(model, &snapshot)
            }
            found => found,
        }
    }

    /// Routes and scores `batch`, and hands it to the decision log and to the model's shadows.
    pub async fn predict(&self, model: &str, batch: Batch) -> Result<Routed, ModelGatewayError> {
        let deadline = self.bounds.deadline(batch.deadline_ms);
        let result = self.predict_within(model, batch, deadline).await;
        let outcome = if result.is_ok() { "ok" } else { "error" };
        metrics::counter!("ondol_gateway_requests_total", "outcome" => outcome).increment(1);
        metrics::histogram!("ondol_gateway_request_seconds").record(deadline.elapsed().as_secs_f64());
        result
    }

    async fn predict_within(&self, model: &str, batch: Batch, deadline: Deadline) -> Result<Routed, ModelGatewayError> {
        self.bounds.check_rows(batch.instances.len())?;
        let (routes, named) = deadline.model(self.find(model)).await?;
        let admission = self.admit(&routes, deadline).await?;
        let deadline = deadline.after(admission.waited());
        let choices = match named {
            Some(choice) => Choices::All(choice),
            None => routes.choose(&batch.headers, &batch.instances)?,
        };
        let version = match &choices {
            Choices::All(choice) => &choice.version,
            // Every version of a split takes the inputs of the champion.
            Choices::Each(_) => routes.default_version(),
        };
        let inputs = inputs::parse(&version.record.definition.inputs, batch.instances)?;
        let mut parts = parts(choices, inputs.rows);
        let routes = &routes;
        let score = |part: Part, inputs: Inputs, share: Option<Share>| async move {
            let version = Arc::clone(&part.version);
            let scored = self.score_part(routes, part, inputs, share, batch.as_of, deadline);
            scored
                .await
                .inspect_err(|_| version.statistics.failed(deadline.elapsed()))
        };
        if parts.len() <= 1 {
            let only = parts.pop().ok_or_else(|| internal("a call has no requests"))?;
            return Ok(Routed {
                parts: vec![score(only, inputs, None).await?],
                places: None,
            });
        }
        let mut places = vec![(0, 0); inputs.rows];
        for (number, part) in parts.iter().enumerate() {
            for (row, instance) in part.rows.iter().enumerate() {
                if let Some(place) = places.get_mut(*instance) {
                    *place = (number, row);
                }
            }
        }
        let read = self.read_once(&parts, &inputs, batch.as_of, deadline).await;
        let mut under_way = Vec::with_capacity(parts.len());
        for part in parts {
            let inputs = rows_of(&inputs, &part.rows)?;
            let share = read.as_ref().map(|read| read.share(&part.rows));
            under_way.push(score(part, inputs, share));
        }
        Ok(Routed {
            parts: try_join_all(under_way).await?,
            places: Some(places),
        })
    }
}

impl Predictor {
    /// Reads the features of all `parts` at once. Nothing where one of them can't be looked up: it says so itself.
    async fn read_once(
        &self,
        parts: &[Part],
        inputs: &Inputs,
        as_of: Option<EventTime>,
        deadline: Deadline,
    ) -> Option<SharedRead> {
        let snapshot = self.definitions.current();
        let plans = parts.iter().map(|part| part.version.plan(&snapshot).ok());
        let plans = plans.collect::<Option<Vec<_>>>()?;
        SharedRead::of(&plans, &self.lookups, inputs, as_of, deadline).await
    }
}

/// The requests of each version, in order; the versions in the order of their first request.
fn parts(choices: Choices, rows: usize) -> Vec<Part> {
    let choices = match choices {
        Choices::All(Choice { version, route }) => {
            return vec![Part {
                version,
                rows: (0..rows).collect(),
                routes: vec![route],
            }];
        }
        Choices::Each(choices) => choices,
    };
    let mut parts: Vec<Part> = Vec::new();
    for (row, Choice { version, route }) in choices.into_iter().enumerate() {
        let known = parts.iter_mut().find(|part| Arc::ptr_eq(&part.version, &version));
        match known {
            Some(part) => {
                part.rows.push(row);
                part.routes.push(route);
            }
            None => parts.push(Part {
                version,
                rows: vec![row],
                routes: vec![route],
            }),
        }
    }
    parts
}

/// Rows `rows` of `inputs`, which has more.
fn rows_of(inputs: &Inputs, rows: &[usize]) -> Result<Inputs, ModelGatewayError> {
    let indices: UInt32Array = rows.iter().map(|row| u32::try_from(*row).ok()).collect();
    let column = |values: &Vec<Value>| rows.iter().filter_map(|row| values.get(*row).cloned()).collect();
    Ok(Inputs {
        rows: rows.len(),
        columns: inputs.columns.iter().map(column).collect(),
        batch: take_record_batch(&inputs.batch, &indices).map_err(internal)?,
    })
}
