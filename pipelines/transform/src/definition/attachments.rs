//! Files beside the definitions: message schemas, which definitions name and which travel with them.

use toml::de::{DeTable, DeValue};

/// How the name of a file ends that holds a message's schema, and no definitions.
const ENDINGS: [&str; 3] = [".avsc", ".proto", ".json"];

/// Whether the file at `path` holds a message's schema, and no definitions.
pub fn is_attachment(path: &str) -> bool {
    ENDINGS.iter().any(|ending| path.ends_with(ending))
}

/// The files that the definitions in `text` name, as they name them: relative to their own file. Text that is no TOML
/// names none.
pub fn attachments(text: &str) -> Vec<String> {
    let (document, _) = DeTable::parse_recoverable(text);
    let mut names = Vec::new();
    let Some(DeValue::Table(sources)) = document.get_ref().get("source").map(|node| node.get_ref()) else {
        return names;
    };
    for source in sources.values() {
        let DeValue::Table(source) = source.get_ref() else {
            continue;
        };
        if let Some(DeValue::String(name)) = source.get("schema-file").map(|node| node.get_ref())
            && !names.iter().any(|known| known == name)
        {
            names.push(name.to_string());
        }
    }
    names
}

/// The path of the file `name` beside the definition file at `path`.
pub fn beside(path: &str, name: &str) -> String {
    match path.rfind('/') {
        Some(slash) if !name.starts_with('/') => format!("{}/{name}", path.get(..slash).unwrap_or_default()),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_beside_the_one_that_names_it() {
        assert_eq!(beside("ondol.toml", "tx.avsc"), "tx.avsc");
        assert_eq!(beside("defs/ondol.toml", "schemas/tx.avsc"), "defs/schemas/tx.avsc");
        assert_eq!(beside("defs/ondol.toml", "/schemas/tx.avsc"), "/schemas/tx.avsc");
    }

    #[test]
    fn the_files_that_sources_name_are_told_once() {
        let text =
            "[source.a]\nschema-file = \"x.avsc\"\n[source.b]\nschema-file = \"x.avsc\"\n[source.c]\nkafka = 1\n";
        assert_eq!(attachments(text), ["x.avsc"]);
        assert!(attachments("[source").is_empty());
    }
}
