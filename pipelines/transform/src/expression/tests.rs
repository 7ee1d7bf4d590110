use super::*;
use arrow::array::{BooleanArray, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::Field;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use ondol_vocabulary::DataType;

fn schema() -> SchemaRef {
    let columns = [
        ("amount", DataType::F64),
        ("n", DataType::I64),
        ("small", DataType::I32),
        ("zero", DataType::I64),
        ("name", DataType::String),
        ("ok", DataType::Bool),
        ("ts", DataType::Timestamp),
        ("card.spend_24h", DataType::F64),
        ("Case", DataType::I64),
        ("user", DataType::String),
    ];
    Arc::new(Schema::new(
        columns
            .map(|(name, data_type)| Field::new(name, data_type.arrow(), false))
            .to_vec(),
    ))
}

/// Two rows: a Tuesday, 2013-01-01T05:17:00Z, and a row of nulls.
fn rows() -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Float64Array::from(vec![Some(2.5), None])),
        Arc::new(Int64Array::from(vec![Some(7), None])),
        Arc::new(Int32Array::from(vec![Some(2), None])),
        Arc::new(Int64Array::from(vec![Some(0), None])),
        Arc::new(StringArray::from(vec![Some("Ondol"), None])),
        Arc::new(BooleanArray::from(vec![Some(true), None])),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(1_357_017_420_000_000), None]).with_timezone("UTC")),
        Arc::new(Float64Array::from(vec![Some(10.0), None])),
        Arc::new(Int64Array::from(vec![Some(1), None])),
        Arc::new(StringArray::from(vec![Some("kim"), None])),
    ];
    let fields: Vec<_> = schema()
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn evaluate(text: &str) -> (DataType, Vec<String>) {
    let expression = Expression::plan(text, &schema()).unwrap_or_else(|error| panic!("{text}: {error}"));
    let values = expression.evaluate(&rows()).unwrap();
    assert_eq!(values.data_type(), expression.data_type(), "{text}");
    let data_type = DataType::from_arrow(values.data_type()).unwrap_or_else(|| panic!("{text}"));
    let options = FormatOptions::default().with_null("null");
    let formatter = ArrayFormatter::try_new(&values, &options).unwrap();
    (
        data_type,
        (0..values.len()).map(|row| formatter.value(row).to_string()).collect(),
    )
}

#[track_caller]
fn check(text: &str, data_type: DataType, first: &str, of_nulls: &str) {
    assert_eq!(
        evaluate(text),
        (data_type, vec![first.to_owned(), of_nulls.to_owned()]),
        "{text}"
    );
}

/// The message, the text at its offset, and the suggestion.
#[track_caller]
fn refused(text: &str) -> (String, Option<String>, Option<String>) {
    match Expression::plan(text, &schema()) {
        Ok(plan) => panic!("{text} was accepted: {plan:?}"),
        Err(error) => {
            let message = error.to_string();
            let (offset, suggestion) = match error {
                ExpressionError::Plan { offset, suggestion, .. }
                | ExpressionError::Unknown { offset, suggestion, .. } => (offset, suggestion),
                ExpressionError::Evaluate { .. } => panic!("{message}"),
            };
            (message, offset.map(|offset| text[offset..].to_owned()), suggestion)
        }
    }
}

#[test]
fn numbers_follow_their_widest_operand() {
    check("amount", DataType::F64, "2.5", "null");
    check("amount * 2", DataType::F64, "5.0", "null");
    check("n + small", DataType::I64, "9", "null");
    check("small", DataType::I32, "2", "null");
    check("-n", DataType::I64, "-7", "null");
    check("abs(-amount)", DataType::F64, "2.5", "null");
    check("round(ln(amount), 3)", DataType::F64, "0.916", "null");
    check("power(small, 3)", DataType::F64, "8.0", "null");
    check("cast(amount as decimal(10, 2))", DataType::F64, "2.5", "null");
    check("1", DataType::I64, "1", "1");
    check("0.1", DataType::F64, "0.1", "0.1");
}

#[test]
fn integer_division_by_zero_is_null_and_float_division_is_ieee() {
    check("n / zero", DataType::I64, "null", "null");
    check("n % zero", DataType::I64, "null", "null");
    check("n / 2", DataType::I64, "3", "null");
    check("small / (small - 2)", DataType::I64, "null", "null");
    check("amount / zero", DataType::F64, "inf", "null");
    check("n / 0", DataType::I64, "null", "null");
    check("coalesce(n / zero, -1)", DataType::I64, "-1", "-1");
}

#[test]
fn a_row_that_fails_is_null_and_spares_the_others() {
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", ArrowType::Int64, true)]));
    let values: Vec<i64> = (0..100).map(|n| if n % 33 == 7 { -1 } else { n % 5 }).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(values.clone()))]).unwrap();
    let expression = Expression::plan("factorial(n)", &schema).unwrap();
    let found = expression.evaluate(&batch).unwrap();
    for (row, n) in values.iter().enumerate() {
        assert_eq!(found.is_null(row), *n < 0, "factorial({n})");
    }
}

#[test]
fn a_cast_that_does_not_fit_is_null() {
    check("cast(name as int)", DataType::I32, "null", "null");
    check("cast('12' as i64)", DataType::I64, "12", "12");
    check("cast(n as string)", DataType::String, "7", "null");
    check("cast(n as f64)", DataType::F64, "7.0", "null");
    check("cast(n as f32)", DataType::F32, "7.0", "null");
    check("n::double", DataType::F64, "7.0", "null");
    check(
        "cast('2013-01-01T05:17:00Z' as timestamp) = ts",
        DataType::Bool,
        "true",
        "null",
    );
}

#[test]
fn a_constant_that_does_not_fit_is_an_error_of_the_definition() {
    let (message, ..) = refused("cast('abc' as int)");
    assert!(message.contains("abc"), "{message}");
    let (message, ..) = refused("ts > 'yesterday'");
    assert!(message.contains("yesterday"), "{message}");
}

#[test]
fn moments_give_their_parts() {
    check("extract(hour from ts)", DataType::I32, "5", "null");
    check("date_part('dow', ts)", DataType::I32, "2", "null");
    check("extract(epoch from ts)", DataType::F64, "1357017420.0", "null");
    check(
        "date_trunc('day', ts)",
        DataType::Timestamp,
        "2013-01-01T00:00:00Z",
        "null",
    );
    check(
        "ts + interval '1 hour'",
        DataType::Timestamp,
        "2013-01-01T06:17:00Z",
        "null",
    );
    check("ts > '2013-01-01T00:00:00Z'", DataType::Bool, "true", "null");
    check("cast(ts as date)", DataType::Timestamp, "2013-01-01T00:00:00Z", "null");
    check(
        "extract(hour from ts at time zone 'America/New_York')",
        DataType::I32,
        "0",
        "null",
    );
}

#[test]
fn conditions_and_nulls_follow_sql() {
    check(
        "case when amount > 2 then 'big' else 'small' end",
        DataType::String,
        "big",
        "small",
    );
    check("coalesce(amount, 0)", DataType::F64, "2.5", "0.0");
    check("nullif(n, 7)", DataType::I64, "null", "null");
    check("amount is null", DataType::Bool, "false", "true");
    check("amount / nullif(card.spend_24h, 0)", DataType::F64, "0.25", "null");
    check("n in (1, 7)", DataType::Bool, "true", "null");
    check("n between 1 and 6", DataType::Bool, "false", "null");
    check("ok and not (n = 3)", DataType::Bool, "true", "null");
    check("n is distinct from 7", DataType::Bool, "false", "true");
    check("greatest(n, 9)", DataType::I64, "9", "9");
}

#[test]
fn text_functions_work_and_give_plain_strings() {
    check("concat(name, '-', n)", DataType::String, "Ondol-7", "-");
    check("name || '!'", DataType::String, "Ondol!", "null");
    check("substr(name, 2, 3)", DataType::String, "ndo", "null");
    check("substring(name from 2 for 2)", DataType::String, "nd", "null");
    check("upper(name)", DataType::String, "ONDOL", "null");
    check("name like 'On%'", DataType::Bool, "true", "null");
    check("name ilike 'on%'", DataType::Bool, "true", "null");
    check("length(name)", DataType::I32, "5", "null");
    check("trim('  x ')", DataType::String, "x", "x");
    check("position('d' in name)", DataType::I32, "3", "null");
    check("regexp_like(name, '^O.*l$')", DataType::Bool, "true", "null");
    check("split_part(name, 'd', 1)", DataType::String, "On", "null");
}

#[test]
fn names_of_columns_keep_their_case_and_functions_have_none() {
    check("Case", DataType::I64, "1", "null");
    check("\"Case\" + 1", DataType::I64, "2", "null");
    check("user", DataType::String, "kim", "null");
    check("ABS(-1)", DataType::I64, "1", "1");
    let (message, at, suggestion) = refused("1 + case");
    assert!(at.is_some() || !message.is_empty(), "{suggestion:?}");
    assert_eq!(
        refused("Amount"),
        (
            "there is no column `Amount`".into(),
            Some("Amount".into()),
            Some("amount".into())
        )
    );
}

#[test]
fn an_unknown_name_is_shown_where_it_stands() {
    assert_eq!(
        refused("abs(amonut) + 1"),
        (
            "there is no column `amonut`".into(),
            Some("amonut) + 1".into()),
            Some("amount".into())
        )
    );
    assert_eq!(
        refused("amount / card.spend_24"),
        (
            "there is no column `card.spend_24`".into(),
            Some("card.spend_24".into()),
            Some("card.spend_24h".into())
        )
    );
    assert_eq!(
        refused("1 + coalesc(amount, 0)"),
        (
            "there is no function `coalesc`".into(),
            Some("coalesc(amount, 0)".into()),
            Some("coalesce".into())
        )
    );
}

#[test]
fn what_is_not_row_wise_is_refused() {
    for text in [
        "now()",
        "random()",
        "uuid()",
        "current_timestamp",
        "current_date",
        "today()",
    ] {
        let (message, ..) = refused(text);
        assert!(message.contains("not deterministic"), "{text}: {message}");
    }
    for text in ["sum(amount)", "1 + count(n)", "avg(amount)", "count(*)"] {
        let (message, ..) = refused(text);
        assert!(message.contains("is an aggregation"), "{text}: {message}");
    }
    for text in ["(select 1)", "n in (select 1)", "exists (select 1)"] {
        let (message, ..) = refused(text);
        assert!(message.contains("subquery"), "{text}: {message}");
    }
    assert!(refused("lag(n) over (order by ts)").0.contains("over"));
    assert!(refused("*").0.contains('*'));
}

#[test]
fn what_grows_without_bound_is_refused() {
    check("lpad(name, 7, '*')", DataType::String, "**Ondol", "null");
    check("repeat(name, 2)", DataType::String, "OndolOndol", "null");
    for text in [
        "lpad(name, n)",
        "rpad(name, n, '*')",
        "repeat(name, n)",
        "repeat(name, 1000000)",
    ] {
        let (message, ..) = refused(text);
        assert!(message.contains("constant length"), "{text}: {message}");
    }
}

#[test]
fn functions_of_the_engine_itself_are_unknown() {
    assert_eq!(refused("version()").0, "there is no function `version`");
}

#[test]
fn results_that_are_no_feature_type_are_refused() {
    assert!(refused("null").0.contains("always null"));
    assert!(refused("ts - ts").0.contains("span of time"));
    assert!(refused("struct(n, amount)").0.contains("no feature type"));
}

#[test]
fn messages_are_for_people() {
    let texts = [
        "",
        "amount +",
        "amount amount",
        "'open",
        "amount + name",
        "substr(n)",
        "upper(",
        "ok + 1",
        "abs(name)",
        "cast(n as colour)",
        "name > 3 and amount",
        "not amount",
        "extract(colour from ts)",
        "$1",
        "n[1]",
        "a.b.c",
    ];
    let messages = texts.map(|text| {
        let (message, at, suggestion) = refused(text);
        format!("{text}\n    {message} @ {at:?} -> {suggestion:?}")
    });
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn columns_are_those_it_reads_in_order_of_use() {
    let expression = Expression::plan("card.spend_24h + n * card.spend_24h - small", &schema()).unwrap();
    assert_eq!(expression.columns(), ["card.spend_24h", "n", "small"]);
    assert!(Expression::plan("1 + 1", &schema()).unwrap().columns().is_empty());
}

#[test]
fn a_batch_may_have_its_columns_in_any_order() {
    let expression = Expression::plan("n - small", &schema()).unwrap();
    let batch = rows().project(&[2, 1]).unwrap();
    assert_eq!(expression.evaluate(&batch).unwrap().len(), 2);
    let absent = expression.evaluate(&rows().project(&[1]).unwrap()).unwrap_err();
    assert_eq!(
        absent.to_string(),
        "`n - small` failed: the batch has no column `small`"
    );
}

#[test]
fn an_empty_batch_has_no_values() {
    let expression = Expression::plan("n + 1", &schema()).unwrap();
    assert_eq!(expression.evaluate(&rows().slice(0, 0)).unwrap().len(), 0);
}

#[test]
fn a_deep_expression_is_refused_not_overflowed() {
    let text = format!("{}1{}", "(".repeat(5000), ")".repeat(5000));
    assert!(refused(&text).0.contains("nests more than"));
    for link in ["+n", " or ok", "::i64", " is null", "/n"] {
        let chain = |links: usize| format!("{}{}", if link == " or ok" { "ok" } else { "n" }, link.repeat(links));
        assert!(refused(&chain(2_000)).0.contains("more than 200 operations"), "{link}");
        assert!(refused(&chain(20_000)).0.contains("16384 is the most"), "{link}");
        assert_eq!(evaluate(&chain(190)).1.len(), rows().num_rows(), "{link}");
    }
}

#[test]
fn an_expression_that_doubles_as_it_nests_is_refused_not_planned() {
    for (open, close) in [
        ("coalesce(", ", 1)"),
        ("nvl(", ", 1)"),
        ("case when ", " is null then 1 else 0 end"),
    ] {
        let nested = |levels: usize| format!("{}n{}", open.repeat(levels), close.repeat(levels));
        assert!(refused(&nested(40)).0.contains("nest more than 10"), "{open}");
        assert_eq!(evaluate(&nested(9)).1.len(), rows().num_rows(), "{open}");
    }
    let nested = |levels: usize| format!("ok{}", " between false and true".repeat(levels));
    assert!(refused(&nested(40)).0.contains("nest more than 10"));
    assert_eq!(evaluate(&nested(9)).1.len(), rows().num_rows());
}

/// Pieces from which nonsense is made: what parses by luck must be planned or refused, never panic.
const PIECES: [&str; 48] = [
    "amount",
    "n",
    "name",
    "ts",
    "ok",
    "card.spend_24h",
    "1",
    "0",
    "2.5",
    "'x'",
    "''",
    "null",
    "true",
    "(",
    ")",
    ",",
    "+",
    "-",
    "*",
    "/",
    "%",
    "=",
    "<",
    "||",
    "::",
    "and",
    "or",
    "not",
    "is",
    "in",
    "between",
    "like",
    "case",
    "when",
    "then",
    "else",
    "end",
    "cast(",
    "as",
    "i64",
    "abs(",
    "coalesce(",
    "substr(",
    "date_part(",
    "interval",
    "'1 day'",
    "[",
    "->",
];

proptest::proptest! {
    #[test]
    fn nonsense_is_refused_without_a_panic(pieces in proptest::collection::vec(0..PIECES.len(), 1..12)) {
        let text = pieces.into_iter().map(|piece| PIECES[piece]).collect::<Vec<_>>().join(" ");
        if let Ok(expression) = Expression::plan(&text, &schema()) {
            assert_eq!(expression.evaluate(&rows()).unwrap().len(), 2, "{text}");
        }
    }

    #[test]
    fn any_text_is_refused_without_a_panic(text in "\\PC{0,40}") {
        if let Err(ExpressionError::Plan { offset: Some(offset), .. } | ExpressionError::Unknown { offset: Some(offset), .. })
            = Expression::plan(&text, &schema())
        {
            assert!(text.is_char_boundary(offset), "{text} at {offset}");
        }
    }

    #[test]
    fn the_split_of_a_batch_changes_no_value(values in proptest::collection::vec(-3_i64..25, 1..40), cut in 0_usize..40) {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", ArrowType::Int64, true)]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(values))]).unwrap();
        let cut = cut.min(batch.num_rows());
        // It fails on negative numbers and overflows above 20.
        let expression = Expression::plan("factorial(n) / (n - 1)", &schema).unwrap();
        let whole = expression.evaluate(&batch).unwrap();
        let parts = [batch.slice(0, cut), batch.slice(cut, batch.num_rows() - cut)];
        let parts = parts.map(|part| expression.evaluate(&part).unwrap());
        let joined = concat(&[parts[0].as_ref(), parts[1].as_ref()]).unwrap();
        assert_eq!(&whole, &joined);
    }
}
