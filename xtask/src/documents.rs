//! The committed OpenAPI documents are those of the code, and one process can serve all of them together.

use crate::violation::Violation;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use utoipa::openapi::OpenApi;

/// Where the documents are committed.
const FOLDER: &str = "contracts/openapi";

fn documents() -> [(&'static str, OpenApi); 4] {
    [
        ("feature-store", ondol_feature_store_api::server::openapi()),
        ("ingest", ondol_ingest_api::server::openapi()),
        ("model-gateway", ondol_model_gateway_api::server::openapi()),
        ("pipelines", ondol_pipelines_api::server::openapi()),
    ]
}

fn text(document: &OpenApi) -> Result<String> {
    Ok(document.to_pretty_json()? + "\n")
}

/// Writes every document; returns their paths.
pub(crate) fn write(root: &Path) -> Result<Vec<PathBuf>> {
    let folder = root.join(FOLDER);
    std::fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    let mut written = Vec::new();
    for (name, document) in documents() {
        let path = folder.join(format!("{name}.json"));
        std::fs::write(&path, text(&document)?).with_context(|| format!("can't write {}", path.display()))?;
        written.push(path);
    }
    Ok(written)
}

pub(crate) fn check(root: &Path) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    for (name, document) in documents() {
        let place = format!("{FOLDER}/{name}.json");
        let committed = std::fs::read_to_string(root.join(&place)).unwrap_or_default();
        if committed != text(&document)? {
            let what = "differs from the document of the code";
            violations.push(Violation::new("contract-drift", place, what, "cargo run -p xtask -- openapi"));
        }
    }
    violations.extend(clashes(&documents())?);
    Ok(violations)
}

/// `ondol dev` merges the documents: a path or an operation id in two of them, or one schema name for two schemas,
/// would vanish from the merged one.
fn clashes(documents: &[(&'static str, OpenApi)]) -> Result<Vec<Violation>> {
    let mut seen: BTreeMap<String, (&str, serde_json::Value)> = BTreeMap::new();
    let mut violations = Vec::new();
    for (name, document) in documents {
        let tree = serde_json::to_value(document)?;
        let paths = tree["paths"].as_object().into_iter().flatten();
        let operations = paths.clone().flat_map(|(_, item)| item.as_object().into_iter().flatten()).filter_map(
            |(_, operation)| Some((format!("operation {}", operation["operationId"].as_str()?), None)),
        );
        let schemas = tree["components"]["schemas"].as_object().into_iter().flatten();
        let entries = paths
            .clone()
            .map(|(path, _)| (format!("path {path}"), None))
            .chain(operations)
            .chain(schemas.map(|(schema, body)| (format!("schema {schema}"), Some(body.clone()))));
        for (key, body) in entries {
            // The same schema in two documents is one noun on two wires; other entries must be unique.
            match seen.get(&key) {
                Some((_, first)) if body.as_ref() == Some(first) => {}
                Some((first, _)) => violations.push(Violation::new(
                    "contract-clash",
                    format!("{FOLDER}/{name}.json"),
                    format!("{key} is also in {first}"),
                    "rename one of the two: one process must be able to serve both",
                )),
                None => {
                    seen.insert(key, (name, body.unwrap_or_default()));
                }
            }
        }
    }
    Ok(violations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contracts_can_be_served_by_one_process() {
        assert_eq!(clashes(&documents()).unwrap(), []);
    }

    #[test]
    fn a_document_merged_with_itself_clashes() {
        let [first, ..] = documents();
        assert!(!clashes(&[first.clone(), first]).unwrap().is_empty());
    }
}
