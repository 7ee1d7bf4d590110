use super::*;
use ondol_vocabulary::{
    Aggregation, Arrival, ColumnOrigin, DataType, DefinitionFile, FeatureKind, FeatureOrigin, Framing, SourceOrigin,
    StreamFormat, TimestampUnit, Window,
};

mod defaults;
mod policies;
mod reference;
mod sources;

const DESIGN: &str = r#"
[source.transactions]
kafka  = "transactions"            # topic; format json (default)
time   = "ts"                      # event time
late   = "5m"                      # how late an event may be and still count
schema = { txn_id = "string", card_id = "string", merchant_id = "string", amount = "f64", declined = "bool", ts = "timestamp" }

[source.merchants]
parquet = "s3://lake/merchants/"   # batch source: parquet | delta
time    = "updated_at"
schema  = { merchant_id = "string", country = "string", risk = "f64", updated_at = "timestamp" }

[view.card]
from = "transactions"
key  = "card_id"                   # or ["card_id", "merchant_id"]
features.n_1h        = "count() over 1h"
features.spend_24h   = "sum(amount) over 24h"
features.declined_7d = "count() filter (where declined) over 7d"
features.last_amount = "last(amount)"

[view.merchant]
from = "merchants"
key  = "merchant_id"
features.country = "country"       # latest row
features.risk    = "risk"
ttl  = "30d"

[model.fraud]
inputs   = { card_id = "string", merchant_id = "string", amount = "f64" }
features = ["card.*", "merchant.*", "amount", "derived.ratio"]
derived.ratio = "amount / nullif(card.spend_24h, 0)"
"#;

fn files(texts: &[&str]) -> DefinitionFiles {
    let files = texts.iter().enumerate().map(|(index, text)| DefinitionFile {
        path: if index == 0 {
            "ondol.toml".to_owned()
        } else {
            format!("more{index}.toml")
        },
        text: (*text).to_owned(),
    });
    DefinitionFiles { files: files.collect() }
}

fn compiled(text: &str) -> Definitions {
    let files = files(&[text]);
    compile(&files).unwrap_or_else(|found| panic!("{}", render(&files, &found, false)))
}

/// The rendered errors of `text`, in which `source.s` and `view.v` are defined.
fn errors(text: &str) -> String {
    errors_of(&[text])
}

fn errors_of(texts: &[&str]) -> String {
    let files = files(texts);
    let found = compile(&files).expect_err("the definitions are wrong");
    for diagnostic in &found {
        let file = files.files.iter().find(|file| file.path == diagnostic.file).unwrap();
        let span = diagnostic.start as usize..diagnostic.end as usize;
        assert!(file.text.get(span).is_some(), "{diagnostic:?}");
    }
    render(&files, &found, false)
}

/// A source and a view, for definitions that stand on them.
const BASE: &str = r#"
[source.s]
kafka = "s"
time = "ts"
schema = { id = "string", n = "i64", amount = "f64", ok = "bool", ts = "timestamp" }
[view.v]
from = "s"
key = "id"
features.total = "sum(amount) over 1h"
features.n = "n"
"#;

fn with_base(text: &str) -> String {
    errors_of(&[text, BASE])
}

#[test]
fn every_aggregation_has_its_type() {
    let text = |call: &str| format!("{BASE}features.x = \"{call} filter (where ok) over 1h\"\n");
    for (call, expected) in [
        ("variance(n)", "f64"),
        ("var_samp(n)", "f64"),
        ("stddev_pop(amount)", "f64"),
        ("count(distinct id)", "i64"),
        ("median(n)", "f64"),
        ("quantiles(amount, 0.5, 0.99)", "list<f64>"),
        ("last_n(ts, 3)", "list<timestamp>"),
        ("last_n(distinct id, 3)", "list<string>"),
        ("top_k(n, 1000)", "list<i64>"),
        ("any(amount > 1)", "bool"),
        ("all(ok)", "bool"),
    ] {
        let definitions = compiled(&text(call));
        let found = definitions.views[0].feature("x").unwrap().data_type;
        assert_eq!(found.name(), expected, "{call}");
    }
}

#[test]
fn the_design_compiles_in_full() {
    let definitions = compiled(DESIGN);
    let [transactions, merchants] = definitions.sources.as_slice() else {
        panic!()
    };
    assert!(matches!(&transactions.origin, SourceOrigin::Stream { topic, .. } if topic == "transactions"));
    assert_eq!(
        (transactions.late_us, transactions.arrival),
        (300_000_000, Arrival::Ingest)
    );
    let columns: Vec<_> = transactions.schema.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(
        columns,
        ["txn_id", "card_id", "merchant_id", "amount", "declined", "ts"]
    );
    assert_eq!(merchants.arrival, Arrival::EventTime { delay_us: 0 });
    let [card, merchant] = definitions.views.as_slice() else {
        panic!()
    };
    assert_eq!(merchant.ttl_us, Some(30 * 86_400_000_000));
    let declined = card.feature("declined_7d").unwrap();
    let hour = 3_600_000_000;
    assert_eq!(
        declined.kind,
        FeatureKind::Aggregate {
            function: Aggregation::Count,
            argument: None,
            parameters: Vec::new(),
            filter: Some("declined".into()),
            window: Some(Window {
                width_us: 7 * 24 * hour,
                hop_us: hour
            }),
        }
    );
    let types: Vec<_> = card.features.iter().map(|feature| feature.data_type).collect();
    assert_eq!(types, [DataType::I64, DataType::F64, DataType::I64, DataType::F64]);
    assert_eq!(
        merchant.features[0].kind,
        FeatureKind::LatestRow {
            expression: "country".into()
        }
    );
    let [fraud] = definitions.models.as_slice() else {
        panic!()
    };
    let names: Vec<_> = fraud.features.iter().map(|feature| feature.name.as_str()).collect();
    let expected = [
        "card.n_1h",
        "card.spend_24h",
        "card.declined_7d",
        "card.last_amount",
        "merchant.country",
        "merchant.risk",
        "amount",
        "derived.ratio",
    ];
    assert_eq!(names, expected);
    assert_eq!(fraud.features[6].origin, FeatureOrigin::Input { name: "amount".into() });
    assert_eq!(fraud.derived[0].data_type, DataType::F64);
    assert_eq!(
        fraud.derived_needs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["card.spend_24h"]
    );
}

#[test]
fn equal_files_give_equal_definitions() {
    assert_eq!(compiled(DESIGN), compiled(DESIGN));
    let json = serde_json::to_string(&compiled(DESIGN).models).unwrap();
    assert_eq!(json, serde_json::to_string(&compiled(DESIGN).models).unwrap());
}

#[test]
fn files_may_use_each_other_in_any_order() {
    let (sources, rest) = DESIGN.split_at(DESIGN.find("[view.card]").unwrap());
    let definitions = compile(&files(&[rest, sources])).unwrap();
    assert_eq!(definitions, compiled(DESIGN));
}

#[test]
fn derived_features_stand_after_what_they_use_and_unused_ones_are_left_out() {
    let text = format!(
        "{BASE}{}",
        r#"
[model.m]
inputs = { id = "string", x = "f64" }
features = ["derived.c", "v.n"]
derived.c = "derived.b + derived.a"
derived.b = "derived.a * v.total"
derived.unused = "v.n + 1"
derived.a = "x / 2"
"#
    );
    let model = &compiled(&text).models[0];
    let order: Vec<_> = model.derived.iter().map(|derived| derived.name.as_str()).collect();
    assert_eq!(order, ["a", "b", "c"]);
    let needs: Vec<_> = model.view_features().iter().map(ToString::to_string).collect();
    assert_eq!(needs, ["v.n", "v.total"]);
}

#[test]
fn integers_of_both_widths_name_an_entity() {
    let text = r#"
[source.s]
kafka = "s"
time = "ts"
schema = { id = "i64", ts = "timestamp" }
[view.v]
from = "s"
key = "id"
features.n = "count() over 1h"
[model.m]
inputs = { id = "i32" }
features = ["v.*"]
"#;
    assert_eq!(compiled(text).models[0].inputs[0].data_type, DataType::I32);
}

#[test]
fn positions_are_bytes_lines_and_characters() {
    let text = "# 온돌\n[view.v]\nfrom = \"nowhere\"\nkey = \"id\"\nfeatures.a = '1'\n";
    let found = compile(&files(&[text])).unwrap_err();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].line, found[0].column), (3, 8));
    assert_eq!(&text[found[0].start as usize..found[0].end as usize], "\"nowhere\"");
    assert_eq!(found[0].code, "unknown-source");
}

/// One snapshot for each error text, so that a reader sees what a user sees.
macro_rules! shows {
    ($($name:ident: $rendered:expr;)*) => {
        $(#[test]
        fn $name() {
            insta::assert_snapshot!($rendered);
        })*
    };
}

shows! {
    error_syntax: errors("[source.s]\nkafka = \"s\nlate = 5m\n");
    error_unknown_noun: errors("[sources.s]\nkafka = \"s\"\n");
    error_unknown_key: errors("[source.s]\nkafka = \"s\"\ntimee = \"ts\"\nschema = { ts = \"timestamp\" }\n");
    error_origin: errors(
        "[source.a]\ntime = \"ts\"\nschema = { ts = \"timestamp\" }\n[source.b]\nkafka = \"b\"\nparquet = \"b/\"\ntime = \"ts\"\nschema = { ts = \"timestamp\" }\n"
    );
    error_source_options: errors(
        "[source.s]\nkafka = \"s t\"\nformat = \"avro\"\ntime = \"id\"\nlate = \"5 minutes\"\narrival = \"evnt-time\"\nschema = { id = \"string\", ts = \"timestmp\", _x = \"i64\", d = \"double\" }\n"
    );
    error_table_options: errors(
        "[source.t]\nparquet = \"t/\"\nformat = \"json\"\nlate = \"1h\"\narrival = \"ingest\"\ntime = \"id\"\nschema = { id = \"string\", at = \"timestamp\" }\n"
    );
    error_columns: errors(
        r#"
[source.s]
kafka = "s"
time = "ts"
[source.s.schema]
a = { type = "string", path = "a", header = "a" }
b = { type = "string", path = "a..b" }
c = { type = "string", path = [] }
d = { type = "string", key = false }
e = { type = "string", meta = "offset" }
f = { type = "i64", meta = "ofset" }
g = { type = "i64", unit = "ms" }
h = { type = "timestamp", unit = "minutes" }
i = { path = "i" }
j = { type = "string", pth = "j" }
k = { type = "string", path = 5 }
l = { type = "string", header = "" }
ts = { type = "timestamp", envelope = "ts_ms" }
"#
    );
    error_messages: errors(
        r#"
[source.a]
kafka = "a"
format = "avor"
time = "ts"
schema = { ts = { type = "timestamp", envelope = "ts_ms" } }
[source.b]
kafka = "b"
format = "avro"
framing = "none"
time = "ts"
schema = { ts = "timestamp" }
[source.c]
kafka = "c"
schema-text = "{}"
message = "x.Y"
changes = "debezum"
tombstones = "drop"
unnest = ""
time = "ts"
schema = { ts = "timestamp" }
[source.d]
kafka = "d"
format = "protobuf"
schema-file = "d.proto"
time = "ts"
schema = { ts = "timestamp" }
[source.e]
kafka = "e"
changes = "debezium"
unnest = "items"
tombstones = "delete"
time = "ts"
schema = { ts = "timestamp" }
[source.f]
kafka = "f"
tombstones = "delete"
unnest = "items"
framing = "confluant"
time = "ts"
schema = { ts = "timestamp" }
[source.g]
kafka = "g"
tombstones = "delete"
time = "ts"
schema = { id = "string", ts = "timestamp" }
[source.h]
parquet = "h/"
unnest = "items"
time = "ts"
schema = { ts = { type = "timestamp", path = "at" } }
"#
    );
    error_changes: errors(
        r#"
[source.customers]
kafka = "customers"
changes = "debezium"
time = "at"
schema = { id = "i64", at = "timestamp" }
[source.prices]
kafka = "prices"
tombstones = "delete"
time = "at"
schema = { sku = { type = "string", key = "sku" }, shop = "string", at = "timestamp" }
[view.customer]
from = "customers"
key = "id"
features.n = "count() over 1h"
[view.price]
from = "prices"
key = ["shop", "sku"]
features.at = "at"
"#
    );
    error_wrong_types: errors("[source.s]\nkafka = 5\ntime = [\"ts\"]\nlate = 300\nschema = \"all\"\n");
    error_lists: errors(
        "[source.s]\nkafka = \"s\"\ntime = \"ts\"\nschema = { id = \"string\", ts = \"timestamp\", tags = \"list<string>\" }\n[model.m]\ninputs = { id = \"string\", recent = \"list<f64>\" }\nfeatures = [\"id\"]\n"
    );
    error_names: errors(
        "[source.Big]\nkafka = \"s\"\ntime = \"ts\"\nschema = { ts = \"timestamp\" }\n[source.decisions]\nkafka = \"d\"\n[source._x]\nkafka = \"s\"\ntime = \"ts\"\nschema = { ts = \"timestamp\" }\n"
    );
    error_defined_twice: errors_of(&[BASE, "[view.v]\nfrom = \"s\"\nkey = \"id\"\nfeatures.n = \"n\"\n"]);
    error_unknown_source: with_base("[view.w]\nfrom = \"ss\"\nkey = \"id\"\nfeatures.n = \"n\"\n");
    error_view_keys: with_base(
        "[view.w]\nfrom = \"s\"\nkey = [\"id\", \"amonut\"]\nfeatures.n = \"n\"\n[view.x]\nfrom = \"s\"\nkey = \"amount\"\nttl = \"0s\"\nfeatures.n = \"n\"\n"
    );
    error_missing_keys: with_base("[view.w]\nfrom = \"s\"\n[model.m]\nfeatures = [\"v.*\"]\n");
    error_filter: with_base("[view.w]\nfrom = \"s\"\nkey = \"id\"\nfilter = \"amount\"\nwhere = \"ok\"\nfeatures.n = \"n\"\n");
    error_expressions: with_base(
        "[view.w]\nfrom = \"s\"\nkey = \"id\"\nfeatures.a = \"abs(amonut) + 1\"\nfeatures.b = \"abss(amount)\"\nfeatures.c = \"amount + id\"\nfeatures.d = \"now()\"\nfeatures.e = \"amount *\"\nfeatures.f = \"1 + sum(amount)\"\n"
    );
    error_aggregations: with_base(
        "[view.w]\nfrom = \"s\"\nkey = \"id\"\nfeatures.a = \"sum(amount) / count()\"\nfeatures.b = \"summ(amount) over 1h\"\nfeatures.c = \"sum(id) over 1h\"\nfeatures.d = \"sum() over 1h\"\nfeatures.e = \"count() filter (where n) over 1h\"\nfeatures.f = \"max(amuont) filter (where okk) over 1 hour\"\n"
    );
    error_parameters: with_base(
        "[view.w]\nfrom = \"s\"\nkey = \"id\"\nfeatures.a = \"last_n(amount) over 1h\"\nfeatures.b = \"top_k(amount, 5000)\"\nfeatures.c = \"quantiles(amount, 0.5, 99) over 1h\"\nfeatures.d = \"any(amount)\"\nfeatures.e = \"sum(distinct amount)\"\nfeatures.f = \"stdev(amount) over 1h\"\nfeatures.g = \"median(id)\"\nfeatures.h = \"last_n(distinct amuont, 3)\"\n"
    );
    error_hops: with_base(
        "[view.w]\nfrom = \"s\"\nkey = \"id\"\nfeatures.a = { expr = \"count() over 1h\", hop = \"2h\" }\nfeatures.b = { expr = \"count() over 30d\", hop = \"1s\" }\nfeatures.c = { expr = \"n\", hop = \"1m\" }\nfeatures.d = { exp = \"n\" }\nfeatures.e = 5\n"
    );
    error_aggregate_of_table: errors(
        "[source.t]\nparquet = \"t/\"\ntime = \"at\"\nschema = { id = \"string\", at = \"timestamp\" }\n[view.t]\nfrom = \"t\"\nkey = \"id\"\nfeatures.n = \"count() over 1h\"\n"
    );
    error_vector: with_base(
        "[model.m]\ninputs = { id = \"string\", amount = \"f64\" }\nfeatures = [\"v.*\", \"v.total\", \"v.totl\", \"w.*\", \"amont\", \"derived.ratoi\", \"v\", 5]\nderived.ratio = \"amount / v.total\"\n"
    );
    error_keys_of_model: with_base(
        "[model.a]\ninputs = { amount = \"f64\" }\nfeatures = [\"v.*\"]\n[model.b]\ninputs = { id = \"i64\" }\nfeatures = [\"v.n\"]\n[model.c]\ninputs = { x = \"f64\" }\nfeatures = [\"derived.y\"]\nderived.y = \"x / v.total\"\n"
    );
    error_derived: with_base(
        "[model.m]\ninputs = { id = \"string\" }\nfeatures = [\"derived.*\"]\nderived.a = \"derived.b + 1\"\nderived.b = \"derived.c\"\nderived.c = \"derived.a\"\nderived.d = \"derived.c + 1\"\nderived.e = \"total + 1\"\nderived.f = \"sum(v.total)\"\nderived.g = \"v.totl\"\n"
    );
    error_multiline_expression: with_base(
        "[view.w]\nfrom = \"s\"\nkey = \"id\"\nfeatures.a = \"\"\"\ncase\n  when okk then 1\nend\"\"\"\nfeatures.b = \"name like \\\"x\\\"\"\n"
    );
}

#[test]
fn errors_that_follow_from_others_are_not_reported() {
    // The source is broken, so nothing is said of its views, nor of the models on them.
    let text = r#"
[source.s]
kafka = "s"
time = "ts"
schema = { id = "strnig", ts = "timestamp" }
[view.v]
from = "s"
key = "id"
features.n = "count() over 1h"
[model.m]
inputs = { id = "string" }
features = ["v.*", "v.n", "derived.x"]
derived.x = "v.n + 1"
"#;
    let found = compile(&files(&[text])).unwrap_err();
    assert_eq!(found.len(), 1, "{found:?}");
    // One feature is broken: models may name it without an error of their own.
    let text = format!(
        "{BASE}features.bad = \"nn\"\n[model.m]\ninputs = {{ id = \"string\" }}\nfeatures = [\"v.bad\", \"v.n\"]\nderived.x = \"v.bad + 1\"\n"
    );
    let found = compile(&files(&[&text])).unwrap_err();
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn colour_is_only_there_when_asked_for() {
    let files = files(&["[sources.s]\n"]);
    let found = compile(&files).unwrap_err();
    assert!(render(&files, &found, true).contains('\u{1b}'));
    assert!(!render(&files, &found, false).contains('\u{1b}'));
}

#[test]
fn any_cut_of_a_file_is_compiled_without_a_panic() {
    for (end, _) in DESIGN.char_indices() {
        let files = files(&[&DESIGN[..end]]);
        if let Err(found) = compile(&files) {
            assert!(!render(&files, &found, false).is_empty());
        }
    }
}

proptest::proptest! {
    #[test]
    fn a_damaged_file_is_compiled_without_a_panic(
        at in 0..DESIGN.len(),
        length in 0_usize..12,
        put in "[a-z0-9_.\"'(){}=\\[\\] \n온]{0,6}",
    ) {
        let end = (at + length).min(DESIGN.len());
        let text = format!("{}{put}{}", &DESIGN[..at], &DESIGN[end..]);
        let files = files(&[&text]);
        if let Err(found) = compile(&files) {
            assert!(!found.is_empty());
            for diagnostic in &found {
                assert!(text.get(diagnostic.start as usize..diagnostic.end as usize).is_some(), "{diagnostic:?}");
            }
            render(&files, &found, true);
        }
    }
}
