//! The committed OpenAPI documents are those of the code, and one process can serve all of them together.

use crate::violation::Violation;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use utoipa::openapi::OpenApi;

/// Where the documents are committed.
const FOLDER: &str = "contracts/openapi";

/// The document that no code generates: the gateway's surfaces whose wire is fixed by a specification elsewhere.
const BY_HAND: &str = "open-inference";

fn by_hand(root: &Path) -> Result<OpenApi> {
    let path = root.join(FOLDER).join(format!("{BY_HAND}.json"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no OpenAPI document", path.display()))
}

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
            violations.push(Violation::new(
                "contract-drift",
                place,
                what,
                "cargo run -p xtask -- openapi",
            ));
        }
    }
    let mut together = documents().to_vec();
    together.push((BY_HAND, by_hand(root)?));
    violations.extend(clashes(&together)?);
    Ok(violations)
}

/// `ondol dev` serves all contracts on one port and merges their documents. What two of them share under one name would
/// panic (a route) or vanish from the merged document (the rest).
fn clashes(documents: &[(&'static str, OpenApi)]) -> Result<Vec<Violation>> {
    let mut seen: BTreeMap<String, (&str, serde_json::Value)> = BTreeMap::new();
    let mut violations = Vec::new();
    for (name, document) in documents {
        for (key, body) in entries(&serde_json::to_value(document)?) {
            match seen.get(&key) {
                // The same schema in two documents is one noun on two wires; everything else must be unique.
                Some((first, same)) if first == name || (!body.is_null() && *same == body) => {}
                Some((first, _)) => violations.push(Violation::new(
                    "contract-clash",
                    format!("{FOLDER}/{name}.json"),
                    format!("{key} is also in {first}"),
                    "rename one of the two: one process must be able to serve both",
                )),
                None => {
                    seen.insert(key, (name, body));
                }
            }
        }
    }
    Ok(violations)
}

/// What a document puts into the merged one: its routes, operation ids and schemas (with their bodies).
fn entries(document: &serde_json::Value) -> Vec<(String, serde_json::Value)> {
    let mut entries = Vec::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            entries.push((format!("route {method} {}", route(path)), serde_json::Value::Null));
            entries.push((
                format!("operation {}", operation["operationId"]),
                serde_json::Value::Null,
            ));
        }
    }
    for (schema, body) in document["components"]["schemas"].as_object().into_iter().flatten() {
        entries.push((format!("schema {schema}"), body.clone()));
    }
    entries
}

/// The path as the router sees it: a parameter's name means nothing, and it takes a verb after itself as its own.
fn route(path: &str) -> String {
    let segments = path
        .split('/')
        .map(|segment| if segment.starts_with('{') { "{}" } else { segment });
    segments.collect::<Vec<_>>().join("/")
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
        let [(_, first), ..] = documents();
        assert!(!clashes(&[("one", first.clone()), ("other", first)]).unwrap().is_empty());
    }

    #[test]
    fn a_verb_is_part_of_its_parameter() {
        assert_eq!(route("/v1/models/{model}:predict"), "/v1/models/{}");
        assert_eq!(route("/v1/features:read"), "/v1/features:read");
    }
}
