//! Definition files: TOML in, typed definitions or diagnostics out.

use ondol_vocabulary::{DefinitionFiles, Diagnostic, ModelDefinition, SourceDefinition, ViewDefinition};

/// Everything a set of definition files defines, type-checked, in the files' order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Definitions {
    /// Sources.
    pub sources: Vec<SourceDefinition>,
    /// Views.
    pub views: Vec<ViewDefinition>,
    /// Models.
    pub models: Vec<ModelDefinition>,
}

/// Parses and type-checks definition files. All errors found are returned, in the files' order.
pub fn compile(files: &DefinitionFiles) -> Result<Definitions, Vec<Diagnostic>> {
    todo!("{files:?}")
}

/// Diagnostics as text for a terminal: the offending line with a caret under the offending text.
pub fn render(files: &DefinitionFiles, diagnostics: &[Diagnostic], color: bool) -> String {
    todo!("{files:?} {diagnostics:?} {color}")
}
