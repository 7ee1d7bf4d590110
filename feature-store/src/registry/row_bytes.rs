//! How large the rows of a view would be, as a plan shows it.

use super::difference::duration;
use ondol_feature_store_api::wire::{RowBytes, RowPartBytes};
use ondol_transform::ViewEngine;
use ondol_transform::definition::{Definitions, built_in_sources};
use ondol_transform::row::{RowPart, RowPartKind};
use ondol_vocabulary::ViewDefinition;

/// Of a view whose source is among `wanted`, or built in.
pub(super) fn of(view: &ViewDefinition, wanted: &Definitions) -> Option<RowBytes> {
    let built_in = built_in_sources();
    let mut sources = built_in.iter().chain(&wanted.sources);
    let source = sources.find(|source| source.name == view.source)?;
    // What is wanted has been compiled before: it compiles again.
    let size = ViewEngine::compile(view, source).ok()?.row_size();
    Some(RowBytes {
        typical: size.total.typical,
        most: size.total.most,
        parts: size.parts.iter().map(part).collect(),
    })
}

fn part(part: &RowPart) -> RowPartBytes {
    let count = part.count;
    let name = match part.kind {
        RowPartKind::Header => "every row".to_owned(),
        RowPartKind::Latest => "latest row".to_owned(),
        RowPartKind::Ever => "aggregations over all time".to_owned(),
        RowPartKind::Tiles { hop_us, .. } => format!("up to {count} tiles of {}", duration(hop_us)),
        RowPartKind::Newest => format!("up to {count} newest values"),
        RowPartKind::Distinct => "distinct values".to_owned(),
    };
    RowPartBytes {
        part: name,
        typical: part.bytes.typical,
        most: part.bytes.most,
    }
}
