//! Steady load: callers of each model who never pause for long, and hold every answer against the oracle.
//!
//! A model has callers of its own, so that one which hangs makes nobody ask another less; what a phase of a test waits for
//! is so many outcomes of a kind, never a time.

use crate::estate::{Estate, request, until};
use crate::grpc::{GrpcCaller, Servers};
use crate::scene::{CARDS, Model, Outcome, Row};
use ondol_model_gateway_api::wire::BatchPredictRequest;
use ondol_model_gateway_api::{ModelGateway, ModelGatewayClient, ModelGatewayError};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use url::Url;

/// Callers of each model.
const CALLERS: usize = 2;
/// How long a caller rests between two requests.
pub(crate) const REST: Duration = Duration::from_millis(10);
/// When an answer is overdue: far beyond every deadline, since only an answer that never comes is a fault.
pub(crate) const OVERDUE: Duration = Duration::from_secs(180);

/// What a test allows of its models' errors.
pub(crate) type Allowed = fn(Model, &ModelGatewayError) -> bool;

/// Callers at work.
pub(crate) struct Load {
    tally: Arc<Tally>,
    callers: Vec<tokio::task::JoinHandle<()>>,
    models: Vec<Model>,
}

/// What they have seen.
#[derive(Default)]
pub(crate) struct Tally {
    counts: Mutex<BTreeMap<(Model, Outcome), usize>>,
    /// Request ids of answers, by model.
    answered: Mutex<Vec<(Model, String)>>,
    /// One example of each model's refusals, by code.
    refusals: Mutex<BTreeMap<(Model, String), String>>,
    wrong: Mutex<Vec<String>>,
    stopped: AtomicBool,
    turn: AtomicUsize,
}

/// What they saw in the end.
pub(crate) struct Seen {
    pub(crate) answered: Vec<(Model, String)>,
    pub(crate) refusals: BTreeMap<(Model, String), String>,
}

/// No error is allowed.
pub(crate) fn none(_: Model, _: &ModelGatewayError) -> bool {
    false
}

impl Load {
    /// Callers of `models` at the estate's front, in every form there is.
    pub(crate) fn start(estate: &Estate, models: &[Model], allowed: Allowed) -> Self {
        Self::at(&estate.front().url, models, allowed, true)
    }

    /// Callers of `models` at `url`, whose every answer has a request id.
    pub(crate) fn with_ids(url: &Url, models: &[Model], allowed: Allowed) -> Self {
        Self::at(url, models, allowed, false)
    }

    fn at(url: &Url, models: &[Model], allowed: Allowed, tensors: bool) -> Self {
        let tally = Arc::new(Tally::default());
        let callers = models.iter().flat_map(|model| [*model; CALLERS]).map(|model| {
            let caller = Caller {
                model,
                url: url.clone(),
                // Connections of its own, as processes of their own would have.
                gateway: ModelGatewayClient::new(url.clone()).unwrap(),
                raw: reqwest::Client::new(),
                allowed,
                tensors: tensors && model == Model::Plain,
                tally: Arc::clone(&tally),
            };
            tokio::spawn(caller.run())
        });
        Self {
            callers: callers.collect(),
            tally,
            models: models.to_vec(),
        }
    }

    /// Callers of `models` over gRPC, by key and with raw tensors.
    pub(crate) fn grpc(servers: &Servers, models: &[Model], allowed: Allowed) -> Self {
        let tally = Arc::new(Tally::default());
        let callers = models.iter().flat_map(|model| [*model; CALLERS]).map(|model| {
            let caller = GrpcCaller {
                model,
                connections: servers.connect(),
                allowed,
                tally: Arc::clone(&tally),
            };
            tokio::spawn(caller.run())
        });
        Self {
            callers: callers.collect(),
            tally,
            models: models.to_vec(),
        }
    }

    /// Waits until each of `models` has `more` answers to raw tensors.
    pub(crate) async fn raw(&self, models: &[Model], more: usize) {
        let waits = models.iter().map(|model| self.more(*model, Outcome::Raw, more));
        futures::future::join_all(waits).await;
    }

    /// Waits for `more` outcomes of a kind.
    pub(crate) async fn more(&self, model: Model, outcome: Outcome, more: usize) {
        let enough = self.tally.count(model, outcome) + more;
        let complaint = || {
            let seen = self.tally.counts.lock().unwrap();
            format!(
                "{} has no {more} more answers that are {outcome:?}: {seen:?}",
                model.name()
            )
        };
        until(complaint, async || {
            self.tally.count(model, outcome) >= enough || !self.tally.wrong.lock().unwrap().is_empty()
        })
        .await;
        self.check();
    }

    /// Waits until every model has `more` whole answers.
    pub(crate) async fn whole(&self, more: usize) {
        self.all_whole(&self.models, more).await;
    }

    /// Waits until each of `models` has `more` whole answers.
    pub(crate) async fn all_whole(&self, models: &[Model], more: usize) {
        let waits = models.iter().map(|model| self.more(*model, Outcome::Whole, more));
        futures::future::join_all(waits).await;
    }

    /// Ends the load: every request under way is waited for. Nothing was wrong.
    pub(crate) async fn stop(self, title: &str) -> Seen {
        self.tally.stopped.store(true, Ordering::SeqCst);
        for caller in self.callers {
            caller.await.unwrap();
        }
        let counts = self.tally.counts.lock().unwrap();
        for ((model, outcome), count) in counts.iter() {
            eprintln!("chaos: {title}: {} {outcome:?} {count}", model.name());
        }
        let wrong = self.tally.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{title}: {} wrong answers: {wrong:#?}", wrong.len());
        Seen {
            answered: std::mem::take(&mut self.tally.answered.lock().unwrap()),
            refusals: std::mem::take(&mut self.tally.refusals.lock().unwrap()),
        }
    }

    /// Nothing is wrong so far.
    #[track_caller]
    pub(crate) fn check(&self) {
        let wrong = self.tally.wrong.lock().unwrap().clone();
        assert!(wrong.is_empty(), "{} wrong answers: {wrong:#?}", wrong.len());
    }
}

impl Tally {
    pub(crate) fn count(&self, model: Model, outcome: Outcome) -> usize {
        let counts = self.counts.lock().unwrap();
        counts.get(&(model, outcome)).copied().unwrap_or_default()
    }

    pub(crate) fn saw(&self, model: Model, outcome: Outcome) {
        *self.counts.lock().unwrap().entry((model, outcome)).or_default() += 1;
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    pub(crate) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn answered(&self, model: Model, ids: impl IntoIterator<Item = String>) {
        let ids = ids.into_iter().map(|id| (model, id));
        self.answered.lock().unwrap().extend(ids);
    }

    pub(crate) fn refused(&self, model: Model, code: String, text: String) {
        self.refusals.lock().unwrap().insert((model, code), text);
        self.saw(model, Outcome::Refused);
    }

    pub(crate) fn wrong(&self, what: String) {
        let mut wrong = self.wrong.lock().unwrap();
        // A few say what many would.
        if wrong.len() < 20 {
            wrong.push(what);
        }
    }
}

/// One caller of one model.
struct Caller {
    model: Model,
    url: Url,
    gateway: ModelGatewayClient,
    raw: reqwest::Client,
    allowed: Allowed,
    /// Whether it also sends raw tensors.
    tensors: bool,
    tally: Arc<Tally>,
}

impl Caller {
    async fn run(self) {
        while !self.tally.is_stopped() {
            let turn = self.tally.next_turn();
            let asked = async {
                match turn % 5 {
                    3 => self.batch(turn).await,
                    4 if self.tensors => self.tensors(turn).await,
                    _ => self.single(turn).await,
                }
            };
            if tokio::time::timeout(OVERDUE, asked).await.is_err() {
                self.tally
                    .wrong(format!("{}: no answer within {OVERDUE:?}", self.model.name()));
            }
            tokio::time::sleep(REST).await;
        }
    }

    async fn single(&self, turn: usize) {
        let row = row(turn);
        match self.gateway.predict(self.model.name(), request(self.model, &row)).await {
            Ok(answer) => self.judge(&[row], &[answer]),
            Err(error) => self.refused(&error),
        }
    }

    async fn batch(&self, turn: usize) {
        let rows = [row(turn), row(turn + 5), row(turn + 7)];
        let request = BatchPredictRequest {
            instances: rows.iter().map(|row| self.model.inputs(row)).collect(),
            deadline_ms: Some(self.model.deadline_ms()),
            explain: Some(true),
            ..BatchPredictRequest::default()
        };
        match self.gateway.batch_predict(self.model.name(), request).await {
            Ok(answer) => self.judge(&rows, &answer.predictions),
            Err(error) => self.refused(&error),
        }
    }

    /// The vector itself, over the Open Inference Protocol.
    async fn tensors(&self, turn: usize) {
        let row = row(turn);
        let url = format!("{}v2/models/{}/infer", self.url, self.model.name());
        let input = json!({"name": "X", "datatype": "FP32", "shape": [1, 2], "data": [row.amount, row.amount / 2.0]});
        let answer = self.raw.post(url).json(&json!({"inputs": [input]})).send().await;
        let answer = match answer {
            Ok(answer) => answer.json::<serde_json::Value>().await,
            Err(error) => Err(error),
        };
        let scored = answer.as_ref().ok().and_then(|answer| {
            let version = answer["model_version"].as_str()?.parse().ok()?;
            let score = answer["outputs"][0]["data"][0].as_f64()?;
            Some(score == self.model.score(version, &row, true))
        });
        match scored {
            Some(true) => self.tally.saw(self.model, Outcome::Whole),
            _ => self
                .tally
                .wrong(format!("{} of tensors {row:?}: {answer:?}", self.model.name())),
        }
    }

    fn judge(&self, rows: &[Row], answers: &[ondol_model_gateway_api::wire::Prediction]) {
        if rows.len() != answers.len() {
            let count = answers.len();
            return self.tally.wrong(format!("{count} answers to {} rows", rows.len()));
        }
        let mut worst = Outcome::Whole;
        for (row, answer) in rows.iter().zip(answers) {
            match self.model.judge(row, answer) {
                Ok(outcome) => worst = worst.max(outcome),
                Err(wrong) => return self.tally.wrong(wrong),
            }
            self.tally.answered(self.model, [answer.request_id.clone()]);
        }
        self.tally.saw(self.model, worst);
    }

    fn refused(&self, error: &ModelGatewayError) {
        let text = error.to_string();
        let unreachable = text.contains(&format!("{} can't be reached", self.url));
        if unreachable || !(self.allowed)(self.model, error) {
            return self.tally.wrong(format!("{}: {error:?}", self.model.name()));
        }
        let code = ondol_wire::ContractError::code(error).to_owned();
        self.tally.refused(self.model, code, text);
    }
}

/// Every card in turn, a stranger now and then.
pub(crate) fn row(turn: usize) -> Row {
    Row {
        card: turn % (CARDS + 2),
        amount: (turn % 61) as f64 / 2.0,
    }
}
