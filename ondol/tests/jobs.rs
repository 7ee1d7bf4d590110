//! Jobs through the real program: killed at random moments, and steered from the command line.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "tests"
)]

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use ondol_feature_store_api::{FeatureStore, FeatureStoreClient};
use ondol_pipelines_api::wire::{
    AsOf, CompactRequest, Job, JobQuery, JobRequest, JobResult, JobState, TrainingSetOptions, TrainingSetRequest,
};
use ondol_pipelines_api::{Pipelines, PipelinesClient};
use ondol_vocabulary::{DefinitionFile, DefinitionFiles};
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use url::Url;

const DEFINITIONS: &str = r#"
[source.payments]
kafka  = "payments"
time   = "ts"
schema = { card = "string", amount = "f64", ts = "timestamp" }

[view.card]
from = "payments"
key  = "card"
features.spend = "sum(amount) over 24h"
features.n = "count() over 1h"

[model.fraud]
inputs   = { card = "string", amount = "f64" }
features = ["card.*", "amount"]
"#;

/// 2026-01-01T00:00:00Z.
const START: i64 = 1_767_225_600_000_000;
const EVENTS: i64 = 3_000;
const SPINE: i64 = 20_000;
const CARDS: i64 = 50;

/// Every service in one process, which can be killed.
struct Server {
    folder: TempDir,
    url: Url,
    child: Option<Child>,
}

impl Server {
    async fn start() -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut server = Self {
            folder: tempfile::tempdir().unwrap(),
            url: Url::parse(&format!("http://{address}")).unwrap(),
            child: None,
        };
        server.go().await;
        server
    }

    async fn go(&mut self) {
        let address = format!("127.0.0.1:{}", self.url.port().unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_ondol"))
            .args(["serve", "all", "--listen", &address, "--data"])
            .arg(self.folder.path())
            .env("ONDOL_LOG_FILTER", "error")
            .env("ONDOL_PIPELINES__CONCURRENT_JOBS", "2")
            .env("ONDOL_PIPELINES__ATTEMPTS", "1000")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        for _ in 0..2_400 {
            let ready = reqwest::get(self.url.join("/readyz").unwrap()).await;
            if ready.is_ok_and(|response| response.status().is_success()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server is not ready");
    }

    /// `kill -9`.
    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn pipelines(&self) -> Arc<dyn Pipelines> {
        Arc::new(PipelinesClient::new(self.url.clone()).unwrap())
    }

    /// Definitions in force, and events behind them.
    async fn fill(&self) {
        let store = FeatureStoreClient::new(self.url.clone()).unwrap();
        let file = DefinitionFile {
            path: "features.toml".to_owned(),
            text: DEFINITIONS.to_owned(),
        };
        store.apply(DefinitionFiles { files: vec![file] }).await.unwrap();
        let event = |number: i64| {
            let time = ondol_vocabulary::EventTime::from_micros(START + number * 20_000_000);
            json!({"card": format!("c{}", number % CARDS), "amount": number % 97, "ts": time.to_string()}).to_string()
        };
        let events: Vec<String> = (0..EVENTS).map(event).collect();
        std::fs::write(self.folder.path().join("events.jsonl"), events.join("\n")).unwrap();
        self.ondol(&["push", "payments", "events.jsonl"]).unwrap();
        store.flush("payments").await.unwrap();
    }

    /// What the command line prints as JSON; on failure, its exit code.
    fn ondol(&self, line: &[&str]) -> Result<Value, i32> {
        let output = Command::new(env!("CARGO_BIN_EXE_ondol"))
            .args(line)
            .args(["--output", "json", "--server", self.url.as_str()])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let document = serde_json::from_slice(&output.stdout).unwrap();
        match output.status.code() {
            Some(0) => Ok(document),
            code => {
                eprintln!("{document}");
                Err(code.unwrap_or(-1))
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

fn request() -> TrainingSetRequest {
    let card = |row: i64| format!("c{}", row % (CARDS + 5));
    let cards: ArrayRef = Arc::new(StringArray::from_iter_values((0..SPINE).map(card)));
    let amounts: ArrayRef = Arc::new(Float64Array::from_iter_values((0..SPINE).map(|row| row as f64)));
    let times = (0..SPINE).map(|row| START + row * 7_000_000);
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"));
    let spine = RecordBatch::try_from_iter([("card", cards), ("amount", amounts), ("time", times)]).unwrap();
    TrainingSetRequest {
        options: TrainingSetOptions {
            model: "fraud".to_owned(),
            time_column: None,
            as_of: AsOf::EventTime,
            exact_status: false,
        },
        spine_schema: spine.schema(),
        spine: vec![spine],
    }
}

async fn ended(pipelines: &dyn Pipelines, id: &str) -> Job {
    let mut seen = None;
    loop {
        let job = pipelines.job(id, seen, Duration::from_secs(10)).await.unwrap();
        if job.state.is_final() {
            return job;
        }
        seen = Some(job.revision);
    }
}

async fn rows(pipelines: &dyn Pipelines, id: &str) -> RecordBatch {
    let JobResult { schema, batches } = pipelines.result(id).await.unwrap();
    arrow::compute::concat_batches(&schema, &batches).unwrap()
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn every_accepted_job_ends_once_however_often_its_process_is_killed() {
    let seed = rand::rng().random();
    eprintln!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut server = Server::start().await;
    server.fill().await;
    let pipelines = server.pipelines();
    let first = pipelines.training_set(request()).await.unwrap();
    let first = ended(pipelines.as_ref(), &first.id).await;
    assert_eq!((first.state, first.error), (JobState::Succeeded, None));
    let expected = rows(pipelines.as_ref(), &first.id).await;

    // Keys of what was sent; the job of each once it was accepted.
    let mut sent: BTreeMap<String, Option<String>> = BTreeMap::new();
    for round in 0..16 {
        // On a fast machine a kill at any moment may find nothing at work.
        let jobs = pipelines.jobs(JobQuery::default()).await.unwrap().jobs;
        if round >= 6 && jobs.iter().any(|job| job.attempt > 1) {
            break;
        }
        for number in 0..3 {
            sent.insert(format!("{round}-{number}"), None);
        }
        let (moment, seen_at_work) = (random.random_range(0..1_500), round % 2 == 1);
        let dies = async {
            let moment = tokio::time::sleep(Duration::from_millis(moment));
            match seen_at_work {
                true => drop(tokio::time::timeout(Duration::from_secs(2), at_work(pipelines.as_ref())).await),
                false => moment.await,
            }
        };
        tokio::pin!(dies);
        // Whatever was not accepted before the last kill is sent once more, under its key.
        let submit = async {
            for (key, job) in sent.iter_mut().filter(|(_, job)| job.is_none()) {
                let given = Some(key.parse().unwrap());
                let submitted = match key.ends_with('2') {
                    true => {
                        let source = "payments".to_owned();
                        pipelines
                            .submit(JobRequest::Compact(CompactRequest { source }), given)
                            .await
                    }
                    false => pipelines.submit_training_set(request(), given).await,
                };
                *job = submitted.ok().map(|job| job.id);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = submit => {}
            () = &mut dies => {}
        }
        server.kill();
        server.go().await;
    }
    for (key, job) in &mut sent {
        if job.is_none() {
            let given = Some(key.parse().unwrap());
            let submitted = match key.ends_with('2') {
                true => {
                    let source = "payments".to_owned();
                    pipelines
                        .submit(JobRequest::Compact(CompactRequest { source }), given)
                        .await
                }
                false => pipelines.submit_training_set(request(), given).await,
            };
            *job = Some(submitted.unwrap().id);
        }
    }
    let mut results = vec![format!("{}-{}.arrows", first.id, first.attempt)];
    for (key, id) in &sent {
        let job = ended(pipelines.as_ref(), id.as_ref().unwrap()).await;
        assert_eq!((job.state, &job.error), (JobState::Succeeded, &None), "{key}");
        if job.kind == "training-set" {
            assert_eq!(rows(pipelines.as_ref(), &job.id).await, expected, "{key}");
            results.push(format!("{}-{}.arrows", job.id, job.attempt));
        }
    }
    let mut jobs = pipelines.jobs(JobQuery::default()).await.unwrap().jobs;
    // What the store began by itself.
    jobs.retain(|job| job.kind != "backfill");
    assert_eq!(jobs.len(), sent.len() + 1, "a key is a job");
    assert!(
        jobs.iter().any(|job| job.attempt > 1),
        "nothing was killed in the middle"
    );
    results.sort();
    let data = server.folder.path().join("pipelines");
    assert_eq!(files(&data.join("training-sets")), results);
    let spines: Vec<String> = results
        .iter()
        .map(|name| format!("{}.arrows", name.split('-').next().unwrap()))
        .collect();
    assert_eq!(files(&data.join("spines")), spines);
}

/// Waits until a job is at work.
async fn at_work(pipelines: &dyn Pipelines) {
    let is_at_work = |job: &Job| job.state == JobState::Running;
    loop {
        let page = pipelines.jobs(JobQuery::default()).await;
        if page.is_ok_and(|page| page.jobs.iter().any(is_at_work)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn jobs_and_schedules_are_steered_from_the_command_line() {
    let server = Server::start().await;
    server.fill().await;
    let done = server.ondol(&["compact", "payments"]).unwrap();
    assert_eq!(
        (&done["state"], &done["kind"]),
        (&json!("succeeded"), &json!("compact"))
    );
    let id = done["id"].as_str().unwrap();
    let dry = server
        .ondol(&[
            "vacuum",
            "payments",
            "--dry-run",
            "--retention-hours",
            "1",
            "--key",
            "v",
        ])
        .unwrap();
    assert_eq!(dry["outcome"]["dry_run"], true);
    assert_eq!(server.ondol(&["vacuum", "payments", "--key", "v"]), Err(1));

    assert_eq!(server.ondol(&["jobs", "show", id]).unwrap()["id"], id);
    assert_eq!(server.ondol(&["jobs", "watch", id]).unwrap()["state"], "succeeded");
    assert_eq!(server.ondol(&["jobs", "cancel", id]).unwrap()["state"], "succeeded");
    let again = server.ondol(&["jobs", "retry", id]).unwrap();
    assert_eq!((&again["retry_of"], &again["state"]), (&json!(id), &json!("succeeded")));
    let listed = server
        .ondol(&["jobs", "--kind", "compact", "--state", "succeeded"])
        .unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let all = server.ondol(&["jobs", "ls"]).unwrap();
    let asked_for = |job: &&Value| job["kind"] != "backfill";
    assert_eq!(all.as_array().unwrap().iter().filter(asked_for).count(), 3);
    assert_eq!(server.ondol(&["jobs", "show", "nothing"]), Err(1));

    let add = [
        "schedule",
        "add",
        "nightly",
        "30 3 * * *",
        "vacuum",
        "payments",
        "--zone",
        "Asia/Seoul",
    ];
    let made = server
        .ondol(&[add.as_slice(), &["--set", "dry_run=true"]].concat())
        .unwrap();
    assert_eq!(
        made["request"],
        json!({"kind": "vacuum", "source": "payments", "dry_run": true})
    );
    assert!(made["next_runs"][0].as_str().unwrap().contains("T18:30:00"));
    assert_eq!(server.ondol(&add), Err(1));
    assert_eq!(server.ondol(&["schedule", "pause", "nightly"]).unwrap()["paused"], true);
    assert_eq!(server.ondol(&["schedule", "ls"]).unwrap()[0]["next_runs"], json!([]));
    assert_eq!(
        server.ondol(&["schedule", "resume", "nightly"]).unwrap()["paused"],
        false
    );
    assert_eq!(server.ondol(&["schedule", "rm", "nightly"]).unwrap()["name"], "nightly");
    assert_eq!(server.ondol(&["schedule", "ls"]).unwrap(), json!([]));
    assert_eq!(
        server.ondol(&["schedule", "add", "odd", "* * *", "compact", "payments"]),
        Err(1)
    );
    assert_eq!(
        server.ondol(&["schedule", "add", "odd", "0 0 * * *", "dance", "payments"]),
        Err(1)
    );
}

/// Applies new versions of the view until one is held before it serves: its version.
async fn a_version_that_is_held(server: &Server, store: &FeatureStoreClient) -> u32 {
    for hours in 2..100 {
        let file = DefinitionFile {
            path: "features.toml".to_owned(),
            text: DEFINITIONS.replace("over 1h", &format!("over {hours}h")),
        };
        std::fs::write(server.folder.path().join("ondol.toml"), &file.text).unwrap();
        store.apply(DefinitionFiles { files: vec![file] }).await.unwrap();
        let waiting = store.provisionings().await.unwrap();
        let Some(card) = waiting.iter().find(|found| found.view == "card") else {
            continue;
        };
        if store.hold(card.view_id).await.is_ok() {
            return card.version;
        }
    }
    panic!("every version served before it could be held");
}

#[tokio::test]
async fn a_version_that_is_held_stays_held_when_its_process_is_killed_and_a_backfill_lets_it_serve() {
    let mut server = Server::start().await;
    server.fill().await;
    let store = FeatureStoreClient::new(server.url.clone()).unwrap();
    let version = a_version_that_is_held(&server, &store).await;
    let name = format!("card@{version}");
    server.kill();
    server.go().await;

    let shown = server.ondol(&["backfill"]).unwrap();
    assert_eq!(shown.as_array().unwrap().len(), 1);
    assert_eq!(
        (&shown[0]["state"], &shown[0]["version"]),
        (&json!("held"), &json!(version))
    );
    let serving = store.snapshot().await.unwrap();
    let serving = serving.active_view("card").unwrap().version;
    assert!(serving < version);
    // What waits for it is told, rather than left to wait.
    assert_eq!(server.ondol(&["apply", "ondol.toml"]), Err(1));

    let done = server.ondol(&["backfill", "card"]).unwrap();
    assert_eq!((&done["kind"], &done["subject"]), (&json!("backfill"), &json!(name)));
    assert_eq!(
        (&done["state"], &done["outcome"]["version"]),
        (&json!("succeeded"), &json!(version))
    );
    let serving = store.snapshot().await.unwrap();
    assert_eq!(serving.active_view("card").unwrap().version, version);
    assert_eq!(server.ondol(&["backfill"]).unwrap(), json!([]));
    // Of a version that serves already there is nothing left to do.
    assert_eq!(server.ondol(&["backfill", &name]).unwrap()["state"], "succeeded");
    assert_eq!(server.ondol(&["backfill", "crad"]), Err(1));
    let listed = server
        .ondol(&["jobs", "--kind", "backfill", "--subject", &name])
        .unwrap();
    assert!(listed.as_array().unwrap().len() >= 2);
}
