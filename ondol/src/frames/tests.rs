//! Every form brings its rows back, the same bytes for the same rows, whole or not at all.

use super::folder::EVENT_DATE;
use super::*;
use arrow::array::{Array as _, ArrayRef, AsArray as _, DictionaryArray, Float64Array, ListArray, StringArray};
use arrow::datatypes::{DataType as ArrowType, Field, Float64Type, Int32Type};
use ondol_vocabulary::DataType;
use std::sync::Arc;

fn write(path: &Path, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<()> {
    let mut writer = Target::new(path, Layout::default(), None)?.begin(schema, "time")?;
    for batch in batches {
        writer.write(batch.clone())?;
    }
    writer.finish()
}

fn sample() -> (SchemaRef, Vec<RecordBatch>) {
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("card_id", ArrowType::Utf8, true),
        Field::new("amount", ArrowType::Float64, true),
    ]));
    let batch = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![
            Arc::new(StringArray::from(vec![Some("007"), None])),
            Arc::new(Float64Array::from(vec![Some(0.1 + 0.2), Some(1e300)])),
        ],
    )
    .unwrap();
    (schema, vec![batch])
}

#[test]
fn every_form_brings_the_same_rows_back() {
    let folder = tempfile::tempdir().unwrap();
    let (schema, batches) = sample();
    let typed = [NamedField {
        name: "card_id".to_owned(),
        data_type: DataType::String,
    }];
    for name in ["a.parquet", "a.csv", "a.arrow"] {
        let path = folder.path().join(name);
        write(&path, &schema, &batches).unwrap();
        let (_, read) = read(&path, &typed).unwrap();
        assert_eq!(read, batches, "{name}");
    }
}

/// `batches`, cut after every `rows` rows.
fn cut(batches: &[RecordBatch], rows: usize) -> Vec<RecordBatch> {
    let slices = |batch: &RecordBatch| {
        let starts = (0..batch.num_rows()).step_by(rows);
        starts
            .map(|at| batch.slice(at, rows.min(batch.num_rows() - at)))
            .collect::<Vec<_>>()
    };
    batches.iter().flat_map(slices).collect()
}

fn many() -> (SchemaRef, Vec<RecordBatch>) {
    let rows = 150_000i64;
    let words: DictionaryArray<Int32Type> = (0..rows).map(|row| Some(["a", "b", "c"][row as usize % 3])).collect();
    let days: ArrayRef = Arc::new(StringArray::from_iter_values(
        (0..rows).map(|row| format!("2026-01-0{}T10:00:00+09:00", 1 + row % 2)),
    ));
    let numbers: ArrayRef = Arc::new(Float64Array::from_iter(
        (0..rows).map(|row| (row % 7 > 0).then_some(row as f64)),
    ));
    let columns: [(&str, ArrayRef, bool); 3] = [
        ("word", Arc::new(words), true),
        ("time", days, true),
        ("x", numbers, true),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    (batch.schema(), vec![batch])
}

#[test]
fn the_same_rows_are_the_same_bytes_however_they_come() {
    let folder = tempfile::tempdir().unwrap();
    let (schema, batches) = many();
    for ending in ["parquet", "csv", "arrow"] {
        let bytes = [1_000_000, 65_536, 1_001, 70_000].map(|rows| {
            let path = folder.path().join(format!("{rows}.{ending}"));
            write(&path, &schema, &cut(&batches, rows)).unwrap();
            std::fs::read(&path).unwrap()
        });
        assert!(bytes.iter().all(|other| *other == bytes[0]), "{ending}");
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        12,
        "nothing unfinished is left"
    );
}

fn write_folder(path: &Path, layout: Layout, form: Form, batches: &[RecordBatch]) -> Result<Vec<String>> {
    let schema = batches[0].schema();
    let target = Target::new(path, layout, Some(form))?;
    target.check(&schema)?;
    let mut writer = target.begin(&schema, "time")?;
    for batch in batches {
        writer.write(batch.clone())?;
    }
    assert!(
        !path.is_dir() || std::fs::read_dir(path)?.next().is_none(),
        "nothing is seen before the end"
    );
    writer.finish()?;
    let mut files = Vec::new();
    names(path, path, &mut files);
    files.sort();
    Ok(files)
}

fn names(root: &Path, folder: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            names(root, &entry, files);
        } else {
            files.push(entry.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn a_folder_is_cut_by_values_and_by_rows() {
    let folder = tempfile::tempdir().unwrap();
    let (_, batches) = many();
    let layout = |partition_by: &[&str], rows_per_file| Layout {
        partition_by: partition_by.iter().map(|&name| name.to_owned()).collect(),
        rows_per_file,
    };
    let at = |name: &str| folder.path().join(name);
    let by_rows = write_folder(&at("rows"), layout(&[], Some(40_000)), Form::Csv, &batches).unwrap();
    assert_eq!(
        by_rows,
        ["part-00000.csv", "part-00001.csv", "part-00002.csv", "part-00003.csv"]
    );
    let both = layout(&["word", EVENT_DATE], Some(20_000));
    let cut_in_two = write_folder(&at("both"), both, Form::Parquet, &batches).unwrap();
    // Ten in the morning in Seoul is one at night in Greenwich: the same day.
    assert_eq!(cut_in_two.len(), 12);
    assert_eq!(cut_in_two[0], "word=a/event_date=2026-01-01/part-00000.parquet");
    assert_eq!(cut_in_two[11], "word=c/event_date=2026-01-02/part-00001.parquet");
    let (schema, read) = read(&at("both").join(&cut_in_two[1]), &[]).unwrap();
    let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(
        columns,
        ["time", "x"],
        "a column that names folders is not in the files"
    );
    assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 5_000);

    // However the rows come, the files are the same.
    let again = layout(&["word", EVENT_DATE], Some(20_000));
    assert_eq!(
        write_folder(&at("again"), again, Form::Parquet, &cut(&batches, 999)).unwrap(),
        cut_in_two
    );
    for file in &cut_in_two {
        assert!(std::fs::read(at("both").join(file)).unwrap() == std::fs::read(at("again").join(file)).unwrap());
    }
}

#[test]
fn names_of_folders_are_escaped_and_null_has_one_too() {
    let folder = tempfile::tempdir().unwrap();
    let words: ArrayRef = Arc::new(StringArray::from(vec![Some("a/b=c"), None, Some("한 글")]));
    let x: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0]));
    let batch = RecordBatch::try_from_iter_with_nullable([("w.x", words, true), ("x", x, true)]).unwrap();
    let layout = Layout {
        partition_by: vec!["w.x".to_owned()],
        rows_per_file: None,
    };
    let found = write_folder(&folder.path().join("t"), layout, Form::Csv, &[batch]).unwrap();
    assert_eq!(
        found,
        ["w.x=__HIVE_DEFAULT_PARTITION__", "w.x=a%2Fb%3Dc", "w.x=한 글"].map(|name| format!("{name}/part-00000.csv"))
    );
}

#[test]
fn a_layout_that_can_not_be_written_is_refused_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let (_, batches) = many();
    let by = |name: &str| Layout {
        partition_by: vec![name.to_owned()],
        rows_per_file: None,
    };
    let path = folder.path().join("t");
    let fails = |layout, batches: &[RecordBatch]| {
        let error = write_folder(&path, layout, Form::Parquet, batches).unwrap_err();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        format!("{error:#}")
    };
    assert!(fails(by("x"), &batches).contains("text, integers, booleans and dates name folders"));
    assert!(fails(by("y"), &batches).contains("there is no such column"));
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..600).map(|id| id.to_string())));
    let alone = RecordBatch::try_from_iter([("id", Arc::clone(&ids))]).unwrap();
    assert!(fails(by("id"), &[alone]).contains("none would be left in the files"));
    let batch = RecordBatch::try_from_iter([("id", Arc::clone(&ids)), ("other", ids)]).unwrap();
    let error = fails(by("id"), &[batch]);
    assert!(error.contains("more than 500 values"), "{error}");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("mine"), "").unwrap();
    let error = Target::new(&path, by("word"), None).unwrap_err();
    assert!(error.to_string().contains("it exists"), "{error}");
}

#[test]
fn a_list_is_a_list_in_parquet_and_arrow_and_json_text_in_csv() {
    let folder = tempfile::tempdir().unwrap();
    let lists = [Some(vec![Some(0.1), Some(f64::NAN)]), None, Some(vec![])];
    let column: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(lists));
    let batch = RecordBatch::try_from_iter_with_nullable([("card.recent", column, true)]).unwrap();
    for name in ["a.parquet", "a.arrow"] {
        let path = folder.path().join(name);
        write(&path, &batch.schema(), std::slice::from_ref(&batch)).unwrap();
        let (_, read) = read(&path, &[]).unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", [&batch]), "{name}");
    }
    let path = folder.path().join("a.csv");
    write(&path, &batch.schema(), std::slice::from_ref(&batch)).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, "card.recent\n\"[0.1,\"\"NaN\"\"]\"\n\"\"\n[]\n");
}

#[test]
fn a_moment_in_csv_stays_text_until_its_zone_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv");
    std::fs::write(&path, "time\n2013-01-01T05:17:00Z\n").unwrap();
    let (_, batches) = read(&path, &[]).unwrap();
    assert_eq!(batches[0].column(0).as_string::<i32>().value(0), "2013-01-01T05:17:00Z");
    assert_eq!(batches[0].column(0).null_count(), 0);
}

#[test]
fn an_unknown_ending_is_refused() {
    assert!(
        Form::of(Path::new("spine.xlsx"))
            .unwrap_err()
            .to_string()
            .contains(".parquet, .csv or .arrow")
    );
}
