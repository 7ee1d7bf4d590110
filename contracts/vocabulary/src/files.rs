//! Definition files as the user wrote them, and what is wrong with them.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// The definition files of a project, as the user wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DefinitionFiles {
    /// In the order in which they were named.
    pub files: Vec<DefinitionFile>,
}

/// One definition file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DefinitionFile {
    /// The path shown in diagnostics.
    pub path: String,
    /// Its TOML text.
    pub text: String,
}

/// One error in a definition file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Diagnostic {
    /// A stable name in kebab case, such as `unknown-column`.
    pub code: String,
    /// The file's path.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// First byte of the offending text in the file.
    pub start: u32,
    /// First byte after it.
    pub end: u32,
    /// What is wrong, with the offending value.
    pub message: String,
    /// What to do, for example the nearest valid name.
    pub help: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}
