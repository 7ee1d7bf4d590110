//! A registry's snapshot of definitions as somebody writes them.

use ondol_vocabulary::{
    DefinitionFile, DefinitionFiles, ModelVersion, Snapshot, SourceVersion, ViewState, ViewVersion,
};

/// Version 7 of a registry with the definitions of `text`: sources at 3, views at 2 (ids from 1) in `state`, models at 5.
pub(crate) fn snapshot(text: &str, state: ViewState) -> Snapshot {
    let file = DefinitionFile {
        path: "ondol.toml".to_owned(),
        text: text.to_owned(),
    };
    let definitions = ondol_transform::definition::compile(&DefinitionFiles { files: vec![file] }).unwrap();
    let sources = definitions
        .sources
        .into_iter()
        .map(|definition| SourceVersion { version: 3, definition });
    let views = (definitions.views.into_iter().zip(1..)).map(|(definition, id)| ViewVersion {
        id,
        version: 2,
        state,
        definition,
    });
    let models = definitions
        .models
        .into_iter()
        .map(|definition| ModelVersion { version: 5, definition });
    Snapshot {
        version: 7,
        sources: sources.collect(),
        views: views.collect(),
        models: models.collect(),
    }
}
