//! Definition files and their expressions: compiled, or refused with diagnostics that point into the text.

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Field, Schema};
use ondol_transform::ViewEngine;
use ondol_transform::definition::{compile, render};
use ondol_transform::expression::Expression;
use ondol_vocabulary::{DataType, DefinitionFile, DefinitionFiles, SourceOrigin};
use std::sync::{Arc, LazyLock};

/// One definition file of any text. What compiles is what engines take.
pub fn file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = DefinitionFile {
        path: "ondol.toml".to_owned(),
        text: text.to_owned(),
    };
    let files = DefinitionFiles { files: vec![file] };
    match compile(&files) {
        Err(diagnostics) => {
            assert!(!diagnostics.is_empty(), "a refusal has a reason");
            render(&files, &diagnostics, false);
        }
        Ok(definitions) => {
            for view in &definitions.views {
                let source = definitions.sources.iter().find(|source| source.name == view.source);
                let source = source.expect("a view has a source");
                if matches!(source.origin, SourceOrigin::Stream { .. }) {
                    ViewEngine::compile(view, source).expect("what the definitions take, the engine takes");
                }
            }
        }
    }
}

/// One expression of any text, over columns of every type: refused, or total.
pub fn expression(data: &[u8]) {
    static SCHEMA: LazyLock<Arc<Schema>> = LazyLock::new(|| {
        let field = |data_type: DataType| Field::new(data_type.name(), data_type.arrow(), true);
        let short = ["s", "b", "i", "n", "f", "x", "t"];
        let shortly =
            std::iter::zip(short, DataType::ALL).map(|(name, data_type)| Field::new(name, data_type.arrow(), true));
        Arc::new(Schema::new(
            DataType::ALL.map(field).into_iter().chain(shortly).collect::<Vec<_>>(),
        ))
    });
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(expression) = Expression::plan(text, &SCHEMA) else {
        return;
    };
    assert!(DataType::from_arrow(expression.data_type()).is_some());
    let columns = SCHEMA
        .fields()
        .iter()
        .map(|field| new_null_array(field.data_type(), 3))
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(3));
    let nulls = RecordBatch::try_new_with_options(Arc::clone(&SCHEMA), columns, &options).unwrap();
    let values = expression.evaluate(&nulls).expect("an expression is total");
    assert_eq!(values.len(), 3);
}
