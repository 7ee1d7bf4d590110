//! `ondol demo`: the main job on a small built-in stream, told as the commands a user would type. Everything goes
//! through the public APIs of a real process with real, durable stores; only the events are made up.

use crate::cli::{
    ApplyArgs, AsOfArg, ConnectArgs, DefinitionArgs, DemoArgs, Output, PredictArgs, PushArgs, RegisterArgs,
    TrainingSetArgs,
};
use crate::commands::{definitions, model, stream, training_set};
use crate::{print, server};
use anyhow::{Context as _, Result};
use ondol_vocabulary::EventTime;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::fmt::Write as _;
use std::path::PathBuf;
use url::Url;

const DEFINITIONS: &str = include_str!("../../examples/demo/features.toml");
const MERCHANTS: &[u8] = include_bytes!("../../examples/demo/merchants.parquet");
const MODEL: &[u8] = include_bytes!("../../examples/demo/fraud.onnx");

const HOUR_US: i64 = 3_600_000_000;

/// `ondol demo`.
pub(crate) async fn run(args: &DemoArgs) -> Result<()> {
    let mut server_args = args.server.clone();
    let data = server_args
        .data
        .get_or_insert_with(|| PathBuf::from(".ondol/demo"))
        .clone();
    let process = server::start_dev(&server_args).await?;
    let address = process.url();
    print::line(format!(
        "every service is up at {address}, data in {}\n",
        data.display()
    ));

    let connect = ConnectArgs::at(Url::parse(&address)?);
    let told = Story {
        folder: data.join("project"),
        connect,
        events: args.events,
    }
    .tell()
    .await;
    if told.is_err() || args.exit {
        process.stop().await;
        return told;
    }
    print::line(format!(
        "\nIt goes on serving; try in another terminal:\n\n  \
         curl -s localhost:{port}/v1/models/fraud:predict \\\n    \
         -d '{{\"inputs\":{{\"card_id\":\"c1\",\"merchant_id\":\"m9\",\"amount\":120}},\"explain\":true}}'\n\n  \
         browse {address}/docs, or go on with the flights example: scripts/flights --months 1\n\nCtrl-C stops.",
        port = process.address().port(),
    ));
    server::until_stopped(process).await
}

struct Story {
    folder: PathBuf,
    connect: ConnectArgs,
    events: u32,
}

impl Story {
    async fn tell(&self) -> Result<()> {
        std::fs::create_dir_all(&self.folder).with_context(|| format!("can't make `{}`", self.folder.display()))?;
        self.define().await?;
        self.stream().await?;
        let training_set = self.build_training_set().await?;
        self.register(training_set).await?;
        self.predict().await
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("can't write `{}`", path.display()))?;
        Ok(path)
    }

    async fn define(&self) -> Result<()> {
        let merchants = self.write("merchants.parquet", MERCHANTS)?;
        let merchants = std::path::absolute(&merchants).unwrap_or(merchants);
        let text = DEFINITIONS.replace(
            "\"merchants.parquet\"",
            &format!("{:?}", merchants.display().to_string()),
        );
        let file = self.write("features.toml", text.as_bytes())?;
        step(
            "1. Say what the features are",
            &format!("ondol apply {}", file.display()),
        );
        let definitions = DefinitionArgs {
            files: vec![file],
            connect: self.connect.clone(),
        };
        definitions::apply(
            &ApplyArgs {
                definitions,
                no_wait: false,
                force: false,
            },
            Output::Text,
        )
        .await
    }

    async fn stream(&self) -> Result<()> {
        let mut random = StdRng::seed_from_u64(7);
        let file = self.write(
            "transactions.jsonl",
            transactions(&mut random, EventTime::now(), self.events).as_bytes(),
        )?;
        step(
            "2. Stream a day of card payments",
            &format!("ondol push transactions {}", file.display()),
        );
        let args = PushArgs {
            source: "transactions".to_owned(),
            file,
            records: false,
            no_wait: false,
            connect: self.connect.clone(),
        };
        stream::push(&args, Output::Text).await
    }

    async fn build_training_set(&self) -> Result<PathBuf> {
        let mut random = StdRng::seed_from_u64(11);
        let spine = self.write("labels.csv", labels(&mut random, EventTime::now()).as_bytes())?;
        let out = self.folder.join("train.parquet");
        // The payments of the last day have only just arrived: known-at, the default, would rightly hide them.
        step(
            "3. Build a training set: each row as of its own moment",
            &format!(
                "ondol training-set fraud --spine {} -o {} --as-of event-time",
                spine.display(),
                out.display()
            ),
        );
        let args = TrainingSetArgs {
            config: None,
            model: Some("fraud".to_owned()),
            spine: Some(spine),
            from_manifest: None,
            from_decisions: false,
            start: None,
            end: None,
            job: None,
            out: out.clone(),
            partition_by: Vec::new(),
            rows_per_file: None,
            format: None,
            time_column: Some("time".to_owned()),
            as_of: AsOfArg::EventTime,
            exact_status: false,
            connect: self.connect.clone(),
        };
        training_set::run(&args, Output::Text).await?;
        Ok(out)
    }

    async fn register(&self, training_set: PathBuf) -> Result<()> {
        let artifact = self.write("fraud.onnx", MODEL)?;
        step(
            "4. Register the model: its inputs are checked against the features",
            &format!(
                "ondol model register fraud {} --training-set {}",
                artifact.display(),
                training_set.display()
            ),
        );
        let args = RegisterArgs {
            model: "fraud".to_owned(),
            artifact,
            kind: None,
            training_set: Some(training_set),
            connect: self.connect.clone(),
        };
        model::register(&args, Output::Text).await
    }

    async fn predict(&self) -> Result<()> {
        step(
            "5. Predict by key",
            "ondol predict fraud card_id=c1 merchant_id=m9 amount=120",
        );
        let inputs = ["card_id=c1", "merchant_id=m9", "amount=120"]
            .map(str::to_owned)
            .to_vec();
        let args = PredictArgs {
            model: "fraud".to_owned(),
            inputs,
            connect: self.connect.clone(),
        };
        model::predict(&args, Output::Text).await
    }
}

fn step(title: &str, command: &str) {
    print::line(format!("\n{title}\n$ {command}"));
}

/// `count` payments of the 24 hours before `now`, in time order, as JSON lines.
fn transactions(random: &mut StdRng, now: EventTime, count: u32) -> String {
    let mut times: Vec<i64> = (0..count).map(|_| random.random_range(0..24 * HOUR_US)).collect();
    times.sort_unstable();
    let mut lines = String::new();
    for (index, time) in times.into_iter().enumerate() {
        let (card, merchant) = (random.random_range(0..200), random.random_range(0..20));
        let amount = f64::from(random.random_range(100..30_000)) / 100.0;
        let declined = random.random_bool(0.05);
        let ts = now.plus_micros(time - 24 * HOUR_US);
        // Writing to a string can't fail.
        let _ = writeln!(
            lines,
            r#"{{"txn_id":"t{index}","card_id":"c{card}","merchant_id":"m{merchant}","amount":{amount},"declined":{declined},"ts":"{ts}"}}"#
        );
    }
    lines
}

/// 500 labelled moments of the last 12 hours.
fn labels(random: &mut StdRng, now: EventTime) -> String {
    let mut lines = "card_id,merchant_id,amount,time,fraud\n".to_owned();
    for _ in 0..500 {
        let (card, merchant) = (random.random_range(0..200), random.random_range(0..20));
        let amount = f64::from(random.random_range(100..30_000)) / 100.0;
        let time = now.plus_micros(-random.random_range(0..12 * HOUR_US));
        let fraud = u8::from(random.random_bool(0.03));
        let _ = writeln!(lines, "c{card},m{merchant},{amount},{time},{fraud}");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_streams_valid_events_in_time_order() {
        let lines = transactions(
            &mut StdRng::seed_from_u64(1),
            EventTime::from_micros(1_700_000_000_000_000),
            100,
        );
        let times: Vec<EventTime> = lines
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|event| EventTime::parse(event["ts"].as_str().unwrap()).unwrap())
            .collect();
        assert_eq!(times.len(), 100);
        assert!(times.is_sorted());
    }
}
