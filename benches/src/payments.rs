//! The events of the benchmarks: card payments, made from a seed.

use anyhow::{Context as _, Result};
use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use ondol_feature_store_api::wire::{DefinitionFile, DefinitionFiles, Delivery, DeliveryHeader};
use ondol_ingest::plan::delivery_schema;
use ondol_vocabulary::{PartitionRange, SourceDefinition};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::fmt::Write as _;
use std::sync::Arc;

/// The source's name.
pub(crate) const SOURCE: &str = "payments";

const SCHEMA: &str = r#"schema = { txn_id = "string", card = "string", merchant = "string", amount = "f64", fee = "f64", items = "i64", declined = "bool", ts = "timestamp" }"#;

/// What windows of a card are of.
const AGGREGATIONS: [(&str, &str); 8] = [
    ("n", "count()"),
    ("declined", "count() filter (where declined)"),
    ("spend", "sum(amount)"),
    ("fees", "sum(fee)"),
    ("mean", "mean(amount)"),
    ("least", "min(amount)"),
    ("most", "max(amount)"),
    ("most_fee", "max(fee)"),
];

/// Definitions that read `topic`: the source alone.
fn source(topic: &str, more: &str) -> String {
    format!("[source.{SOURCE}]\nkafka = \"{topic}\"\ntime = \"ts\"\n{more}\n{SCHEMA}\n\n")
}

fn files(text: String) -> DefinitionFiles {
    DefinitionFiles {
        files: vec![DefinitionFile {
            path: "bench.toml".to_owned(),
            text,
        }],
    }
}

/// 50 features in three views: 24 windows and 16 latest-row values of a card, 10 windows of a merchant; and a model
/// over all of them.
pub(crate) fn fifty_features(topic: &str) -> Result<DefinitionFiles> {
    let mut text = source(topic, "");
    text.push_str("[view.card]\nfrom = \"payments\"\nkey = \"card\"\n");
    for window in ["1h", "24h", "7d"] {
        for (name, aggregation) in AGGREGATIONS {
            writeln!(text, "features.{name}_{window} = \"{aggregation} over {window}\"")?;
        }
    }
    text.push_str("\n[view.latest]\nfrom = \"payments\"\nkey = \"card\"\n");
    text.push_str("features.amount = \"amount\"\nfeatures.fee = \"fee\"\nfeatures.items = \"items\"\n");
    for place in 1..=13 {
        writeln!(text, "features.mix_{place} = \"amount + fee * {place}.0\"")?;
    }
    text.push_str("\n[view.merchant]\nfrom = \"payments\"\nkey = \"merchant\"\n");
    for window in ["1h", "24h"] {
        for (name, function) in [
            ("n", "count"),
            ("sum", "sum"),
            ("mean", "mean"),
            ("least", "min"),
            ("most", "max"),
        ] {
            let argument = if function == "count" { "" } else { "amount" };
            writeln!(
                text,
                "features.{name}_{window} = \"{function}({argument}) over {window}\""
            )?;
        }
    }
    text.push_str("\n[model.bench]\ninputs = { card = \"string\", merchant = \"string\" }\n");
    text.push_str("features = [\"card.*\", \"latest.*\", \"merchant.*\"]\n");
    Ok(files(text))
}

/// 50 features in one view, the latest row's of a card; and two models over all of them: decisions on `unlogged` are
/// not kept. To stand beside
/// [`fifty_features`], whose source it reads.
pub(crate) fn fifty_latest() -> Result<DefinitionFiles> {
    let mut text = "[view.wide]\nfrom = \"payments\"\nkey = \"card\"\n".to_owned();
    for place in 1..=50 {
        writeln!(text, "features.mix_{place} = \"amount + fee * {place}.0\"")?;
    }
    for (model, decisions) in [("wide", "100%"), ("unlogged", "0%")] {
        writeln!(
            text,
            "\n[model.{model}]\ninputs = {{ card = \"string\" }}\nfeatures = [\"wide.*\"]\ndecisions.sample = \"{decisions}\""
        )?;
    }
    let mut files = files(text);
    for file in &mut files.files {
        file.path = "wide.toml".to_owned();
    }
    Ok(files)
}

/// One view of 8 features over 3 windows: what `ingest` keeps up.
pub(crate) fn eight_features(topic: &str) -> DefinitionFiles {
    let view = r#"
[view.card]
from = "payments"
key = "card"
features.n_1h = "count() over 1h"
features.spend_1h = "sum(amount) over 1h"
features.n_24h = "count() over 24h"
features.spend_24h = "sum(amount) over 24h"
features.most_24h = "max(amount) over 24h"
features.n_7d = "count() over 7d"
features.spend_7d = "sum(amount) over 7d"
features.declined_7d = "count() filter (where declined) over 7d"
"#;
    files(source(topic, "") + view)
}

/// `count` features of one view: windows of a card, eight for each width from the hour up. What `bytes-per-key`
/// weighs.
pub(crate) fn windows(count: usize) -> Result<DefinitionFiles> {
    let mut text = source("payments", "") + "[view.card]\nfrom = \"payments\"\nkey = \"card\"\n";
    let widths = ["1h", "6h", "24h", "3d", "7d", "14d", "30d"];
    let all = widths
        .iter()
        .flat_map(|width| AGGREGATIONS.iter().map(move |of| (width, of)));
    for (width, (name, aggregation)) in all.take(count) {
        writeln!(text, "features.{name}_{width} = \"{aggregation} over {width}\"")?;
    }
    Ok(files(text))
}

/// One view of count, sum, mean and max over 1 h, 24 h and 7 d, and a model of them: what `training-set` builds.
pub(crate) fn twelve_windows() -> Result<DefinitionFiles> {
    let mut text =
        source("payments", "arrival = \"event-time\"") + "[view.card]\nfrom = \"payments\"\nkey = \"card\"\n";
    for window in ["1h", "24h", "7d"] {
        for (name, aggregation) in [
            ("n", "count()"),
            ("sum", "sum(amount)"),
            ("mean", "mean(amount)"),
            ("most", "max(amount)"),
        ] {
            writeln!(text, "features.{name}_{window} = \"{aggregation} over {window}\"")?;
        }
    }
    text.push_str("\n[model.bench]\ninputs = { card = \"string\" }\nfeatures = [\"card.*\"]\n");
    Ok(files(text))
}

/// Payments in order of time, evenly spread over a span.
pub(crate) struct Payments {
    random: StdRng,
    cards: u32,
    merchants: u32,
    start_us: i64,
    step_us: i64,
    made: i64,
}

/// One of them.
pub(crate) struct Payment {
    pub(crate) number: i64,
    pub(crate) card: String,
    merchant: String,
    amount: f64,
    fee: f64,
    items: i64,
    declined: bool,
    ts_us: i64,
}

/// A payment of `card`, made at `ts_us`.
pub(crate) fn payment_of(card: String, number: i64, ts_us: i64) -> Payment {
    Payment {
        number,
        card,
        merchant: merchant(0),
        amount: 12.5,
        fee: 0.25,
        items: 1,
        declined: false,
        ts_us,
    }
}

impl Payments {
    /// `count` payments of `cards` cards between two moments.
    pub(crate) fn new(count: u64, cards: u32, merchants: u32, start_us: i64, end_us: i64) -> Self {
        let step_us = (end_us - start_us) / i64::try_from(count.max(1)).unwrap_or(i64::MAX);
        Self {
            random: StdRng::seed_from_u64(7),
            cards,
            merchants,
            start_us,
            step_us,
            made: 0,
        }
    }

    pub(crate) fn next(&mut self) -> Payment {
        let number = self.made;
        self.made += 1;
        let cents = f64::from(self.random.random_range(100..50_000_u32));
        Payment {
            number,
            card: card(self.random.random_range(0..self.cards)),
            merchant: merchant(self.random.random_range(0..self.merchants)),
            amount: cents / 100.0,
            fee: (cents * 0.029).round() / 100.0,
            items: self.random.random_range(1..12),
            declined: self.random.random_ratio(1, 40),
            ts_us: self.start_us + number * self.step_us,
        }
    }
}

impl Payments {
    /// The next one, as if it was made at `ts_us`.
    pub(crate) fn next_at(&mut self, ts_us: i64) -> Payment {
        Payment { ts_us, ..self.next() }
    }
}

/// The card called `number`.
pub(crate) fn card(number: u32) -> String {
    format!("card-{number:07}")
}

/// The merchant called `number`.
pub(crate) fn merchant(number: u32) -> String {
    format!("merchant-{number:05}")
}

impl Payment {
    /// As a message of about 200 bytes.
    pub(crate) fn json(&self) -> String {
        format!(
            "{{\"txn_id\":\"txn-{:012}\",\"card\":\"{}\",\"merchant\":\"{}\",\"amount\":{},\"fee\":{},\"items\":{},\
             \"declined\":{},\"channel\":\"terminal\",\"terminal\":\"T-88231\",\"ts\":{}}}",
            self.number, self.card, self.merchant, self.amount, self.fee, self.items, self.declined, self.ts_us
        )
    }
}

/// `payments` as ingest would deliver them, of one partition, known at their event times.
pub(crate) fn delivery(source: &SourceDefinition, payments: &[Payment]) -> Result<Delivery> {
    let first = payments.first().context("a delivery of nothing")?.number;
    let times = || TimestampMicrosecondArray::from_iter_values(payments.iter().map(|payment| payment.ts_us));
    let strings =
        |of: fn(&Payment) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(payments.iter().map(of))) };
    let floats =
        |of: fn(&Payment) -> f64| -> ArrayRef { Arc::new(Float64Array::from_iter_values(payments.iter().map(of))) };
    let transactions = payments.iter().map(|payment| format!("txn-{:012}", payment.number));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(transactions)),
        strings(|payment| &payment.card),
        strings(|payment| &payment.merchant),
        floats(|payment| payment.amount),
        floats(|payment| payment.fee),
        Arc::new(Int64Array::from_iter_values(
            payments.iter().map(|payment| payment.items),
        )),
        Arc::new(
            payments
                .iter()
                .map(|payment| Some(payment.declined))
                .collect::<BooleanArray>(),
        ),
        Arc::new(times().with_timezone("UTC")),
        Arc::new(Int32Array::from_value(0, payments.len())),
        Arc::new(Int64Array::from_iter_values(
            payments.iter().map(|payment| payment.number),
        )),
        Arc::new(times().with_timezone("UTC")),
    ];
    let range = PartitionRange {
        partition: 0,
        from: first,
        to: first + i64::try_from(payments.len())?,
    };
    let header = DeliveryHeader {
        source: source.name.clone(),
        source_version: 1,
        generation: "bench".to_owned(),
        ranges: vec![range],
        table: None,
    };
    Ok(Delivery {
        header,
        events: RecordBatch::try_new(delivery_schema(source), columns)?,
    })
}
