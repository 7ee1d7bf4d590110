//! Versions that are registered, promoted, rolled back, unloaded and loaded again under load: every answer is the answer of
//! the version it names, and a name means nothing that it did not mean while the request was under way.

use crate::estate::{Estate, request};
use crate::grpc::{Connections, RAW_HALF, Servers, by_key, raw};
use crate::load::row;
use crate::scene::{Model, Outcome};
use ondol_model_gateway::open_inference::grpc::generated::ModelInferRequest;
use ondol_model_gateway_api::wire::{PromoteRequest, RollbackRequest, Routing, RoutingChange, Share, Target};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayClient, ModelGatewayError};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Ways to ask.
const WAYS: usize = 6;
/// Rounds of changes.
const ROUNDS: u32 = 12;
/// The version that is unloaded and loaded again; no name leads to it.
const MOVED: u32 = 1;

/// What something was, change by change. A change has begun before it is asked for, and is done when it was answered; who
/// looks meanwhile may find either.
#[derive(Default)]
struct History<T>(Mutex<Inner<T>>);

#[derive(Default)]
struct Inner<T> {
    states: Vec<T>,
    done: usize,
}

impl<T: Copy> History<T> {
    fn of(state: T) -> Self {
        Self(Mutex::new(Inner {
            states: vec![state],
            done: 0,
        }))
    }

    fn begin(&self, state: T) {
        self.0.lock().unwrap().states.push(state);
    }

    fn done(&self) {
        let mut inner = self.0.lock().unwrap();
        inner.done = inner.states.len() - 1;
    }

    /// Where it stands for a request that begins now.
    fn mark(&self) -> usize {
        self.0.lock().unwrap().done
    }

    /// What it may have been from `mark` until now.
    fn since(&self, mark: usize) -> Vec<T> {
        self.0.lock().unwrap().states[mark..].to_vec()
    }
}

struct Shared {
    gateway: ModelGatewayClient,
    grpc: Connections,
    champion: History<u32>,
    /// Which versions serve what names none.
    split: History<[u32; 2]>,
    is_loaded: History<bool>,
    /// The newest version that is registered for sure.
    newest: AtomicUsize,
    stopped: AtomicBool,
    answers: [AtomicUsize; WAYS],
    wrong: Mutex<Vec<String>>,
}

impl Shared {
    async fn call(&self, way: usize, turn: usize) -> Result<(), String> {
        match way {
            0 => {
                let mark = self.champion.mark();
                let version = self.version_of("plain@champion", turn).await?;
                within("plain@champion", version, &self.champion.since(mark))
            }
            1 => {
                let mark = self.split.mark();
                let version = self.version_of("plain", turn).await?;
                within("plain", version, &self.split.since(mark).concat())
            }
            2 => {
                let pinned = 2 + turn as u32 % (self.newest.load(Ordering::SeqCst) as u32 - 1);
                let version = self.version_of(&format!("plain@{pinned}"), turn).await?;
                within("a pinned version", version, &[pinned])
            }
            3 => self.call_moved(turn).await,
            // Over gRPC by key, where the version is in the name or not, and with a vector.
            4 => {
                let mark = self.champion.mark();
                let request = by_key(Model::Plain, "plain@champion", &[row(turn)]);
                let version = self.version_of_grpc(&request, turn).await?;
                within("plain@champion over gRPC", version, &self.champion.since(mark))
            }
            _ => {
                let pinned = 2 + turn as u32 % (self.newest.load(Ordering::SeqCst) as u32 - 1);
                let mut request = raw(Model::Plain, "plain", &[row(turn)]);
                request.model_version = pinned.to_string();
                let version = self.version_of_grpc(&request, turn).await?;
                within("a pinned version over gRPC", version, &[pinned])
            }
        }
    }

    async fn call_moved(&self, turn: usize) -> Result<(), String> {
        let mark = self.is_loaded.mark();
        let row = row(turn);
        let name = format!("plain@{MOVED}");
        let answer = self.gateway.predict(&name, request(Model::Plain, &row)).await;
        let may = self.is_loaded.since(mark);
        match answer {
            Ok(answer) => {
                Model::Plain.judge(&row, &answer)?;
                within(&name, answer.model.version, &[MOVED])?;
                if may.contains(&true) {
                    Ok(())
                } else {
                    Err(format!("{name} answered while it was unloaded"))
                }
            }
            Err(ModelGatewayError::Unavailable { detail })
                if detail.contains("was unloaded") && may.contains(&false) =>
            {
                Ok(())
            }
            Err(error) => Err(format!("{name}: {error:?}")),
        }
    }

    /// Asks, checks the answer, and says which version gave it.
    async fn version_of(&self, name: &str, turn: usize) -> Result<u32, String> {
        let row = row(turn);
        let answer = self.gateway.predict(name, request(Model::Plain, &row)).await;
        let answer = answer.map_err(|error| format!("{name}: {error:?}"))?;
        match Model::Plain.judge(&row, &answer)? {
            Outcome::Whole => Ok(answer.model.version),
            other => Err(format!("{name} is {other:?}: {answer:?}")),
        }
    }

    /// The same over gRPC.
    async fn version_of_grpc(&self, request: &ModelInferRequest, turn: usize) -> Result<u32, String> {
        let answer = self.grpc.infer(request).await;
        let answer = answer.map_err(|status| format!("over gRPC: {status:?}"))?;
        let row = row(turn);
        let expected = match request.raw_input_contents.is_empty() {
            true => Model::Plain.score(answer.version, &row, true),
            false => f64::from(Model::Plain.offset(answer.version)) + row.amount + RAW_HALF,
        };
        if answer.scores == [expected] {
            Ok(answer.version)
        } else {
            Err(format!("over gRPC it must be {expected}: {answer:?}"))
        }
    }

    async fn call_on(self: Arc<Self>, way: usize) {
        let mut turn = way;
        while !self.stopped.load(Ordering::SeqCst) {
            turn += 1;
            if let Err(wrong) = self.call(way, turn).await {
                self.wrong.lock().unwrap().push(wrong);
            }
            self.answers[way].fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// Waits until every caller has had `more` answers, so that each change is met by requests.
    async fn answered(&self, more: usize) {
        let before: Vec<usize> = self.answers.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        crate::estate::until(
            || "callers have no answers".to_owned(),
            async || {
                let counts = self.answers.iter().zip(&before);
                counts
                    .into_iter()
                    .all(|(count, before)| count.load(Ordering::SeqCst) >= before + more)
            },
        )
        .await;
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    async fn route(&self, champion: u32, split: [u32; 2]) {
        let share = |version| Share {
            to: Target::Version(version),
            percent: 50.0,
        };
        let routing = Routing {
            aliases: BTreeMap::from([("champion".to_owned(), champion)]),
            split: if split[0] == split[1] {
                Vec::new()
            } else {
                split.map(share).to_vec()
            },
            ..Routing::default()
        };
        let change = RoutingChange {
            routing,
            ..RoutingChange::default()
        };
        self.champion.begin(champion);
        self.split.begin(split);
        self.gateway.set_routing("plain", change).await.unwrap();
        self.champion.done();
        self.split.done();
    }

    /// The champion becomes `version`, and serves alone, by the doing of `change`.
    async fn becomes(&self, version: u32, change: impl Future<Output = Result<(), ModelGatewayError>>) {
        self.champion.begin(version);
        self.split.begin([version; 2]);
        change.await.unwrap();
        self.champion.done();
        self.split.done();
    }
}

fn within(name: &str, version: u32, allowed: &[u32]) -> Result<(), String> {
    if allowed.contains(&version) {
        return Ok(());
    }
    Err(format!(
        "{name} was answered by version {version}, where {allowed:?} serve"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_change_under_load_and_every_answer_is_of_the_version_it_names() {
    let estate = Estate::start("", &[]).await.with_models(&[Model::Plain]).await;
    estate.register(Model::Plain, 2).await.unwrap();
    let front = estate.front();
    let shared = Arc::new(Shared {
        gateway: front.gateway(),
        grpc: Servers::one(front.port).connect(),
        champion: History::of(2),
        split: History::of([2, 2]),
        is_loaded: History::of(true),
        newest: AtomicUsize::new(2),
        stopped: AtomicBool::new(false),
        answers: Default::default(),
        wrong: Mutex::default(),
    });
    shared.route(2, [2, 2]).await;
    let callers: Vec<_> = [0, 1, 1, 2, 3, 4, 5]
        .map(|way| tokio::spawn(Arc::clone(&shared).call_on(way)))
        .into_iter()
        .collect();
    shared.answered(3).await;
    for round in 0..ROUNDS {
        let (old, new) = (2 + round, 3 + round);
        // Registering changes nothing where a champion is named.
        estate.register(Model::Plain, new).await.unwrap();
        shared.newest.store(new as usize, Ordering::SeqCst);
        shared.is_loaded.begin(round % 2 == 1);
        let act = if round % 2 == 1 { "load" } else { "unload" };
        front.repository(&format!("plain@{MOVED}/{act}")).await.unwrap();
        shared.is_loaded.done();
        shared.answered(2).await;
        shared.route(old, [old, new]).await;
        shared.answered(4).await;
        let promote = async {
            let request = PromoteRequest {
                version: Some(Target::Version(new)),
                ..PromoteRequest::default()
            };
            shared.gateway.promote("plain", request).await.map(drop)
        };
        shared.becomes(new, promote).await;
        shared.answered(3).await;
        if round % 3 == 2 {
            // Back to the split, and on to the champion again.
            shared.champion.begin(old);
            shared.split.begin([old, new]);
            shared
                .gateway
                .rollback("plain", RollbackRequest::default())
                .await
                .unwrap();
            shared.champion.done();
            shared.split.done();
            shared.answered(3).await;
            shared.route(new, [new, new]).await;
        }
        // What nobody is sent to by a name is unloaded and read again from its file.
        front.repository(&format!("plain@{new}/load")).await.unwrap();
    }
    shared.answered(5).await;
    shared.stopped.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    let wrong = shared.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let answers: usize = shared.answers.iter().map(|count| count.load(Ordering::SeqCst)).sum();
    eprintln!("chaos: reload: {answers} answers over {ROUNDS} rounds, each of the version it names");
}
