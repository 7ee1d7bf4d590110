//! `sql`: a query over offline tables, its rows printed or written to a file as they come.

use crate::cli::{Output, SqlArgs};
use crate::frames::Outlet;
use crate::{frames, print};
use anyhow::{Context as _, Result, bail};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::{StreamExt as _, TryStreamExt as _};
use ondol_pipelines_api::Rows;
use ondol_pipelines_api::sql::SqlRequest;
use serde_json::json;
use std::io::Read as _;

/// Rows of a table on the screen, unless asked for more.
const SCREEN_ROWS: u64 = 100;

/// `ondol sql`.
pub(crate) async fn run(args: &SqlArgs, output: Output) -> Result<()> {
    let target = match &args.out {
        Some(path) => {
            let outlet = Outlet::new(path, args.config.as_deref())?;
            let target = frames::Target::new(outlet.path(), frames::Layout::default(), None)?;
            outlet.check(false).await?;
            Some((outlet, target))
        }
        None => None,
    };
    let query = match args.query.as_str() {
        "-" => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("can't read the query from standard input")?;
            text
        }
        given => given.to_owned(),
    };
    if query.trim().is_empty() {
        bail!("the query is empty: try `ondol sql \"show tables\"`");
    }
    let on_screen = target.is_none() && output == Output::Text;
    let max_rows = match args.max_rows {
        // One more, to tell whether there are more.
        None if on_screen => Some(SCREEN_ROWS + 1),
        asked => asked,
    };
    let rows = args.connect.sql()?.sql(SqlRequest { query, max_rows }).await?;
    match target {
        Some((outlet, target)) => write(rows, outlet, &target, output).await,
        None if output == Output::Json => print_json(rows).await,
        None => print_table(rows, args.max_rows.is_none()).await,
    }
}

async fn write(mut rows: Rows, outlet: Outlet, target: &frames::Target, output: Output) -> Result<()> {
    let mut writer = target.begin(&rows.schema, "")?;
    let mut count = 0;
    while let Some(batch) = rows.batches.next().await {
        let batch = batch?;
        count += batch.num_rows();
        writer.write(batch)?;
    }
    writer.finish()?;
    let out = outlet.shown().to_owned();
    outlet.publish().await?;
    print::result(output, &json!({"output": out, "rows": count}), |_| {
        format!("{count} rows → {out}")
    })
}

async fn print_json(mut rows: Rows) -> Result<()> {
    let mut begun = false;
    while let Some(batch) = rows.batches.next().await {
        let mut writer = arrow::json::WriterBuilder::new()
            .with_explicit_nulls(true)
            .build::<_, arrow::json::writer::LineDelimited>(Vec::new());
        writer.write(&batch?)?;
        writer.finish()?;
        let lines = String::from_utf8(writer.into_inner()).context("the service sent text that is not UTF-8")?;
        for line in lines.lines() {
            print::line(format!("{}{line}", if begun { "," } else { "[" }));
            begun = true;
        }
    }
    print::line(if begun { "]" } else { "[]" });
    Ok(())
}

async fn print_table(rows: Rows, may_be_cut: bool) -> Result<()> {
    let schema = rows.schema.clone();
    let batches: Vec<RecordBatch> = rows.batches.try_collect().await?;
    let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let shown = if may_be_cut {
        count.min(SCREEN_ROWS as usize)
    } else {
        count
    };
    print::line(table(&schema, &batches, shown)?);
    print::line(match count {
        _ if shown < count => format!("\nthe first {shown} rows: --max-rows N shows more, --out FILE writes all"),
        1 => "\n1 row".to_owned(),
        _ => format!("\n{count} rows"),
    });
    Ok(())
}

fn table(schema: &SchemaRef, batches: &[RecordBatch], shown: usize) -> Result<String> {
    let header: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let options = FormatOptions::default().with_null("null");
    let mut lines = Vec::with_capacity(shown);
    for batch in batches {
        let columns: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect::<Result<_, _>>()?;
        let rows = (0..batch.num_rows()).take(shown - lines.len());
        lines.extend(rows.map(|row| {
            columns
                .iter()
                .map(|column| column.value(row).to_string())
                .collect::<Vec<_>>()
        }));
    }
    Ok(print::wide_table(header, lines))
}
