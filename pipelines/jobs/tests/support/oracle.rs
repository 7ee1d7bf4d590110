//! Point-in-time features by brute force: for each row, filter the whole list of events. Shares no code with the
//! engine, and is written from the documented semantics.

use ondol_pipelines_api::wire::AsOf;

pub const SECOND: i64 = 1_000_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;

/// One event of the log.
#[derive(Clone, Debug)]
pub struct Event {
    pub key: Option<String>,
    pub amount: Option<f64>,
    pub n: Option<i64>,
    pub flag: Option<bool>,
    pub time: i64,
    pub known: i64,
    pub partition: i32,
    pub offset: i64,
}

impl Event {
    fn position(&self) -> (i64, i32, i64) {
        (self.time, self.partition, self.offset)
    }
}

/// The definitions that [`expected`] computes.
pub const DEFINITIONS: &str = r#"
[source.events]
kafka = "events"
time = "ts"
schema = { k = "string", amount = "f64", n = "i64", flag = "bool", ts = "timestamp" }

[view.w]
from = "events"
key = "k"
features.count_12m = "count() over 12m"
features.sum_2h = "sum(amount) over 2h"
features.mean_12m = "mean(amount) over 12m"
features.max_2h = "max(amount) over 2h"
features.min_2h = "min(n) over 2h"
features.first_12m = "first(amount) over 12m"
features.flagged_2h = "count() filter (where flag) over 2h"
features.stddev_2h = "stddev(amount) over 2h"
features.last_2h = "last_n(amount, 3) over 2h"
features.top_12m = "top_k(n, 2) over 12m"

[view.ever]
from = "events"
key = "k"
features.total = "sum(n)"
features.last_amount = "last(amount)"
features.amount = "amount"

[view.fresh]
from = "events"
key = "k"
features.n = "n"
features.count = "count() over 2h"
ttl = "30m"

[view.otherwise]
from = "events"
key = "k"
ttl = "30m"
features.n = { expr = "n", default = -1 }
features.count = { expr = "count() over 2h", default = 7 }
features.sum = { expr = "sum(amount) over 2h", default = 0.5 }
features.last = { expr = "last_n(amount, 3) over 2h", default = [] }

[view.kept]
from = "events"
key = "k"
ttl = "30m"
features.n = { expr = "n", default = -2 }
features.flag = { expr = "flag", default = true }

[model.m]
inputs = { k = "string", amount = "f64" }
features = ["w.*", "ever.*", "fresh.*", "otherwise.*", "kept.*", "amount", "derived.ratio", "derived.more"]
derived.ratio = "amount / nullif(w.sum_2h, 0)"
derived.more = "otherwise.sum + kept.n"
"#;

/// The vector columns beside inputs, with each row's value as text (`null` for none).
pub fn expected(
    events: &[Event],
    key: Option<&str>,
    t: i64,
    amount: Option<f64>,
    as_of: AsOf,
) -> Vec<(&'static str, String)> {
    let mut seen: Vec<&Event> = events
        .iter()
        .filter(|event| key.is_some() && event.key.as_deref() == key && event.time < t)
        .filter(|event| as_of == AsOf::EventTime || event.known <= t)
        .collect();
    seen.sort_by_key(|event| event.position());
    let window = |width: i64, hop: i64| -> Vec<&Event> {
        let from = (t - width).div_euclid(hop) * hop;
        seen.iter().copied().filter(|event| event.time >= from).collect()
    };
    let (short, long) = (window(12 * MINUTE, MINUTE), window(2 * HOUR, 5 * MINUTE));
    let amounts = |events: &[&Event]| -> Vec<f64> { events.iter().filter_map(|event| event.amount).collect() };
    // Amounts are small multiples of a quarter: sums are exact in any order.
    let sum = |values: &[f64]| (!values.is_empty()).then(|| values.iter().sum::<f64>());
    let sum_2h = sum(&amounts(&long));
    let mean_12m = sum(&amounts(&short)).map(|total| total / amounts(&short).len() as f64);
    let max_2h = amounts(&long).into_iter().reduce(f64::max);
    let latest: Vec<f64> = amounts(&long).into_iter().rev().take(3).collect();
    let mut top: Vec<i64> = short.iter().filter_map(|event| event.n).collect();
    top.sort_unstable_by(|one, other| other.cmp(one));
    top.truncate(2);
    let total: Vec<i64> = seen.iter().filter_map(|event| event.n).collect();
    let newest = seen.last();
    let stale = newest.is_some_and(|event| t - event.time > 30 * MINUTE);
    let fresh = |value: Option<i64>| if stale { None } else { value };
    let ratio = match (amount, sum_2h) {
        (Some(amount), Some(sum)) if sum != 0.0 => Some(amount / sum),
        _ => None,
    };
    let fresh_n = fresh(newest.and_then(|event| event.n));
    let fresh_flag = newest.filter(|_| !stale).and_then(|event| event.flag);
    let fresh_sum = sum_2h.filter(|_| !stale).unwrap_or(0.5);
    vec![
        ("w.count_12m", integer(Some(short.len() as i64))),
        ("w.sum_2h", float(sum_2h)),
        ("w.mean_12m", float(mean_12m)),
        ("w.max_2h", float(max_2h)),
        ("w.min_2h", integer(long.iter().filter_map(|event| event.n).min())),
        ("w.first_12m", float(short.iter().find_map(|event| event.amount))),
        (
            "w.flagged_2h",
            integer(Some(long.iter().filter(|event| event.flag == Some(true)).count() as i64)),
        ),
        ("w.stddev_2h", float(stddev(&amounts(&long)))),
        ("w.last_2h", list(&latest)),
        ("w.top_12m", list(&top)),
        ("ever.total", integer((!total.is_empty()).then(|| total.iter().sum()))),
        (
            "ever.last_amount",
            float(seen.iter().rev().find_map(|event| event.amount)),
        ),
        ("ever.amount", float(newest.and_then(|event| event.amount))),
        ("fresh.n", integer(fresh(newest.and_then(|event| event.n)))),
        ("fresh.count", integer(fresh(Some(long.len() as i64)))),
        ("otherwise.n", integer(fresh_n.or(Some(-1)))),
        ("otherwise.count", integer(fresh(Some(long.len() as i64)).or(Some(7)))),
        ("otherwise.sum", float(Some(fresh_sum))),
        ("otherwise.last", format!("{:?}", if stale { &[][..] } else { &latest })),
        ("kept.n", integer(fresh_n.or(Some(-2)))),
        ("kept.flag", format!("{:?}", fresh_flag.unwrap_or(true))),
        ("derived.ratio", float(ratio)),
        ("derived.more", float(Some(fresh_sum + fresh_n.unwrap_or(-2) as f64))),
    ]
}

/// What an online read says of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Fresh,
    Null,
    Stale,
    Missing,
}

/// The features of views, and for each the row's status and whether its default stands for a value.
pub fn statuses(
    events: &[Event],
    key: Option<&str>,
    t: i64,
    amount: Option<f64>,
    as_of: AsOf,
) -> Vec<(&'static str, Status, bool)> {
    let seen = events
        .iter()
        .filter(|event| key.is_some() && event.key.as_deref() == key && event.time < t)
        .filter(|event| as_of == AsOf::EventTime || event.known <= t);
    let newest = seen.max_by_key(|event| event.position());
    let is_old = newest.is_some_and(|event| t - event.time > 30 * MINUTE);
    let values = expected(events, key, t, amount, as_of);
    let is_null = |name: &str| {
        let found = values.iter().find(|(known, _)| *known == name);
        found.is_some_and(|(_, value)| value == "null")
    };
    let served = values.iter().map(|(name, _)| *name);
    let served = served.filter(|name| !name.starts_with("derived."));
    served
        .map(|name| {
            let has_ttl = ["fresh.", "otherwise.", "kept."]
                .iter()
                .any(|view| name.starts_with(view));
            let has_default = name.starts_with("otherwise.") || name.starts_with("kept.");
            let has_nothing = match name {
                "otherwise.n" | "kept.n" => newest.is_none_or(|event| event.n.is_none()),
                "kept.flag" => newest.is_none_or(|event| event.flag.is_none()),
                "otherwise.count" => false,
                "otherwise.sum" => is_null("w.sum_2h"),
                "otherwise.last" => is_null("w.last_2h"),
                name => is_null(name),
            };
            let status = match newest {
                None => Status::Missing,
                Some(_) if has_ttl && is_old => Status::Stale,
                Some(_) if has_nothing => Status::Null,
                Some(_) => Status::Fresh,
            };
            let is_default = has_default && (status == Status::Stale || has_nothing);
            (name, status, is_default)
        })
        .collect()
}

/// Of small multiples of a quarter, whose squares are exact.
fn stddev(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let (sum, squares): (f64, f64) = (values.iter().sum(), values.iter().map(|value| value * value).sum());
    (n > 1.0).then(|| ((n * squares - sum * sum) / (n * (n - 1.0))).sqrt())
}

fn list<T: std::fmt::Debug>(values: &[T]) -> String {
    if values.is_empty() {
        "null".to_owned()
    } else {
        format!("{values:?}")
    }
}

fn integer(value: Option<i64>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| value.to_string())
}

fn float(value: Option<f64>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| format!("{value:?}"))
}
