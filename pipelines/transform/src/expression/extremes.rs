//! Every function on the values that break functions: none may panic, fail a batch, or grow without bound.

use super::functions::{CATALOG, Meaning, meaning};
use super::*;
use arrow::array::{BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::Field;
use datafusion_expr::planner::ContextProvider;
use ondol_vocabulary::DataType;
use std::panic::{AssertUnwindSafe, catch_unwind};

const FLOATS: [f64; 7] = [f64::NAN, f64::INFINITY, f64::MAX, -1e300, 0.0, 1e19, -5.5];
const INTEGERS: [i64; 7] = [i64::MAX, i64::MIN, 0, -1, 1, 1 << 33, 64];
const TEXTS: [&str; 7] = ["", "é온", "2013-01-01", "a", "%Y", "(", "9223372036854775808"];
const MOMENTS: [i64; 7] = [
    i64::MAX,
    i64::MIN,
    0,
    -1,
    1_357_017_420_000_000,
    253_402_300_800_000_000,
    -62_135_596_800_000_001,
];

fn batch() -> RecordBatch {
    // Different strides, so that the columns meet in many pairs.
    let pick = |stride: usize| (0..49_usize).map(move |row| (row / 7 * stride + row) % 7);
    let columns: [(&str, ArrayRef); 5] = [
        (
            "f",
            Arc::new(pick(0).map(|index| FLOATS[index]).collect::<Float64Array>()),
        ),
        (
            "n",
            Arc::new(pick(1).map(|index| INTEGERS[index]).collect::<Int64Array>()),
        ),
        (
            "s",
            Arc::new(StringArray::from_iter_values(pick(2).map(|index| TEXTS[index]))),
        ),
        (
            "b",
            Arc::new(pick(4).map(|index| Some(index % 2 == 0)).collect::<BooleanArray>()),
        ),
        (
            "t",
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(pick(3).map(|index| MOMENTS[index])).with_timezone("UTC"),
            ),
        ),
    ];
    let schema = columns
        .each_ref()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), true));
    RecordBatch::try_new(
        Arc::new(Schema::new(schema.to_vec())),
        columns.map(|(_, column)| column).to_vec(),
    )
    .unwrap()
}

fn expressions() -> Vec<String> {
    let atoms = ["f", "n", "s", "b", "t", "'day'", "interval '1 month'", "3"];
    let mut texts = vec![
        "-n".to_owned(),
        "extract(hour from t at time zone 'America/New_York')".to_owned(),
    ];
    for operator in [
        "+", "-", "*", "/", "%", "||", "=", "<", "&", "|", "<<", ">>", "^", "like", "~",
    ] {
        texts.extend(atoms.iter().flat_map(|a| atoms.map(|b| format!("{a} {operator} {b}"))));
    }
    for data_type in DataType::ALL
        .map(DataType::name)
        .into_iter()
        .chain(["date", "decimal(10, 2)", "time"])
    {
        texts.extend(atoms.map(|a| format!("cast({a} as {data_type})")));
    }
    for part in ["year", "epoch", "dow", "hour", "doy", "week", "microsecond", "quarter"] {
        texts.extend([format!("extract({part} from t)"), format!("date_trunc('{part}', t)")]);
    }
    for name in CATALOG
        .udf_names()
        .into_iter()
        .filter(|name| matches!(meaning(name), Meaning::RowWise))
    {
        texts.push(format!("{name}()"));
        for a in atoms {
            texts.push(format!("{name}({a})"));
            texts.extend(atoms.map(|b| format!("{name}({a}, {b})")));
            texts.extend(
                ["n", "s", "t"]
                    .into_iter()
                    .flat_map(|b| ["n", "s", "f"].map(|c| format!("{name}({a}, {b}, {c})"))),
            );
        }
    }
    texts
}

#[test]
fn no_function_panics_or_fails_a_batch() {
    let batch = batch();
    let mut planned = 0;
    for text in expressions() {
        let run = || {
            Expression::plan(&text, &batch.schema())
                .ok()
                .map(|expression| (expression.evaluate(&batch), expression))
        };
        let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| panic!("`{text}` panicked"));
        let Some((values, expression)) = outcome else { continue };
        let values = values.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            (values.len(), values.data_type()),
            (batch.num_rows(), expression.data_type()),
            "{text}"
        );
        assert!(values.get_array_memory_size() < 1 << 20, "{text}");
        planned += 1;
    }
    assert!(planned > 1_000, "{planned}");
}
