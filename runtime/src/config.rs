//! Configuration in layers: defaults < TOML file < environment < flags, into one struct.
//!
//! A variable names its key by path, sections separated by two underscores: `ONDOL_ONLINE__URL` is `online.url`.
//! A variable without `__` counts only where it names a key at the top (`ONDOL_LISTEN`); others belong to somebody
//! else. A key that the struct does not have is refused with the nearest one it has, whichever layer set it.
//!
//! How unknown keys are found: the struct that came out is written back, and a key that was set and is not there was
//! dropped on the way in. So this works for optional fields and tagged enums without any annotation, as long as the
//! struct serializes every field it accepts (no `skip_serializing`, no `alias`).

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

mod tree;

use tree::{Leaf, get, leaves, overlay, without};

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not TOML: {detail}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong.
        detail: String,
    },
    /// A key that does not exist.
    #[error("{origin}: unknown key `{key}`{}", suggestion.as_ref().map(|s| format!(": did you mean `{s}`?")).unwrap_or_default())]
    UnknownKey {
        /// The file, the variable or `flags`.
        origin: String,
        /// Its path, sections separated by dots.
        key: String,
        /// The nearest key that exists.
        suggestion: Option<String>,
    },
    /// A value that does not fit its key.
    #[error("{origin}: {}{detail}", key.as_ref().map(|key| format!("`{key}`: ")).unwrap_or_default())]
    Invalid {
        /// The file, the variable or `flags`.
        origin: String,
        /// The key's path, where one key alone is to blame.
        key: Option<String>,
        /// What is wrong.
        detail: String,
    },
}

/// The layers over a struct's defaults, lowest first. Nothing is read from the process's environment unless it is
/// handed in, so that tests decide what it holds.
#[derive(Clone, Debug, Default)]
pub struct ConfigLayers {
    file: Option<PathBuf>,
    prefix: String,
    variables: Vec<(String, String)>,
    flags: Map<String, Value>,
}

/// One layer: a tree of keys, and where each of them was set.
struct Layer {
    tree: Map<String, Value>,
    origin: Origin,
}

enum Origin {
    File(PathBuf),
    /// Key paths and the variables that set them.
    Environment(Vec<(Vec<String>, String)>),
    Flags,
}

impl ConfigLayers {
    /// Only the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a TOML file, which must exist.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Adds those of `variables` that start with `prefix` (`ONDOL_`).
    #[must_use]
    pub fn environment(mut self, prefix: &str, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        prefix.clone_into(&mut self.prefix);
        self.variables = variables
            .into_iter()
            .filter(|(name, _)| name.starts_with(prefix))
            .collect();
        self.variables.sort();
        self
    }

    /// Adds flags: keys as in the file, sections nested. A null is a flag that was not given.
    #[must_use]
    pub fn flags(mut self, flags: Map<String, Value>) -> Self {
        self.flags = flags;
        self
    }

    /// The struct that results.
    ///
    /// # Errors
    /// Names the file, variable or flag, the key and the remedy.
    pub fn load<T: Serialize + DeserializeOwned + Default>(&self) -> Result<T, ConfigError> {
        let mut tree = object_of(&T::default(), "defaults")?;
        if let Some(path) = &self.file {
            apply::<T>(
                &mut tree,
                &Layer {
                    tree: read_file(path)?,
                    origin: Origin::File(path.clone()),
                },
            )?;
        }
        if !self.variables.is_empty() {
            let layer = self.environment_layer::<T>(&tree);
            apply::<T>(&mut tree, &layer)?;
        }
        let flags = tree::without_nulls(&self.flags);
        if !flags.is_empty() {
            apply::<T>(
                &mut tree,
                &Layer {
                    tree: flags,
                    origin: Origin::Flags,
                },
            )?;
        }
        parse(&tree).map_err(|detail| ConfigError::Invalid {
            origin: "configuration".to_owned(),
            key: None,
            detail,
        })
    }

    /// The environment's keys. A variable's text is taken as TOML (`true`, `5`, `["a"]`) unless the key holds a
    /// string; where that is unknown (an optional key), as whichever of the two the struct takes.
    fn environment_layer<T: DeserializeOwned>(&self, below: &Map<String, Value>) -> Layer {
        let mut layer = Map::new();
        let mut names = Vec::new();
        let mut undecided = Vec::new();
        for (name, text) in &self.variables {
            let Some(path) = self.key_path(name, below) else {
                continue;
            };
            let value = match get(below, &path) {
                Some(Value::String(_)) => Value::String(text.clone()),
                known => {
                    let value = tree::toml_value(text);
                    if matches!(known, None | Some(Value::Null)) && !value.is_string() {
                        undecided.push((path.clone(), text.clone()));
                    }
                    value
                }
            };
            tree::set(&mut layer, &path, value);
            names.push((path, name.clone()));
        }
        for (path, text) in undecided {
            if parse::<T>(&overlay(below, &layer)).is_ok() {
                break;
            }
            tree::set(&mut layer, &path, Value::String(text));
        }
        Layer {
            tree: layer,
            origin: Origin::Environment(names),
        }
    }

    /// The path that variable `name` sets, in the spelling of the keys below it; none for a variable of somebody else.
    fn key_path(&self, name: &str, below: &Map<String, Value>) -> Option<Vec<String>> {
        let words: Vec<&str> = name
            .strip_prefix(&self.prefix)?
            .split("__")
            .filter(|word| !word.is_empty())
            .collect();
        let mut path = Vec::with_capacity(words.len());
        let mut section = Some(below);
        for word in &words {
            let word = word.to_lowercase();
            let spelled = section
                .and_then(|section| section.keys().find(|key| key.replace('-', "_") == word))
                .cloned();
            if spelled.is_none() && words.len() == 1 {
                return None;
            }
            let key = spelled.unwrap_or(word);
            section = section.and_then(|section| section.get(&key)).and_then(Value::as_object);
            path.push(key);
        }
        (!path.is_empty()).then_some(path)
    }
}

/// Lays `layer` over `tree`, or says which of its keys is wrong.
fn apply<T: Serialize + DeserializeOwned>(tree: &mut Map<String, Value>, layer: &Layer) -> Result<(), ConfigError> {
    let merged = overlay(tree, &layer.tree);
    let config: T = parse(&merged).map_err(|detail| blame::<T>(tree, layer, detail))?;
    let kept = object_of(&config, "configuration")?;
    for Leaf { path, .. } in leaves(&layer.tree) {
        if let Some(error) = unknown_key(&kept, &path, &layer.origin) {
            return Err(error);
        }
    }
    *tree = merged;
    Ok(())
}

/// Which key of `layer` makes the struct refuse it: the one without which it is taken.
fn blame<T: DeserializeOwned>(below: &Map<String, Value>, layer: &Layer, detail: String) -> ConfigError {
    let guilty = leaves(&layer.tree)
        .into_iter()
        .map(|leaf| leaf.path)
        .find(|path| parse::<T>(&overlay(below, &without(&layer.tree, path))).is_ok());
    // A struct that denies unknown fields itself says so in serde's words: put it in ours.
    if let (Some(path), true) = (&guilty, detail.starts_with("unknown field")) {
        let known = detail.split('`').skip(3).step_by(2);
        let suggestion = path
            .last()
            .and_then(|last| nearest(last, known))
            .map(|key| sibling(path, &key));
        return ConfigError::UnknownKey {
            origin: layer.origin.of(path),
            key: path.join("."),
            suggestion,
        };
    }
    let origin = layer.origin.of(guilty.as_deref().unwrap_or_default());
    ConfigError::Invalid {
        origin,
        key: guilty.map(|path| path.join(".")),
        detail,
    }
}

fn unknown_key(kept: &Map<String, Value>, path: &[String], origin: &Origin) -> Option<ConfigError> {
    let mut section = kept;
    for (depth, key) in path.iter().enumerate() {
        match section.get(key) {
            Some(Value::Object(inner)) => section = inner,
            Some(_) => return None,
            None => {
                let upto = path.get(..=depth).unwrap_or(path);
                let suggestion = nearest(key, section.keys().map(String::as_str)).map(|near| sibling(upto, &near));
                return Some(ConfigError::UnknownKey {
                    origin: origin.of(path),
                    key: upto.join("."),
                    suggestion,
                });
            }
        }
    }
    None
}

/// `path` with `key` in the place of its last part.
fn sibling(path: &[String], key: &str) -> String {
    let mut parts: Vec<&str> = path.iter().map(String::as_str).collect();
    parts.pop();
    parts.push(key);
    parts.join(".")
}

/// The candidate nearest to `key`, if any is near enough to be meant.
fn nearest<'a>(key: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(key, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + key.len().max(candidate.len()) / 3)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

fn parse<T: DeserializeOwned>(tree: &Map<String, Value>) -> Result<T, String> {
    serde_json::from_value(Value::Object(tree.clone())).map_err(|error| error.to_string())
}

fn object_of<T: Serialize>(config: &T, origin: &str) -> Result<Map<String, Value>, ConfigError> {
    let invalid = |detail: String| ConfigError::Invalid {
        origin: origin.to_owned(),
        key: None,
        detail,
    };
    match serde_json::to_value(config) {
        Ok(Value::Object(tree)) => Ok(tree),
        Ok(_) => Err(invalid("is not a table".to_owned())),
        Err(error) => Err(invalid(error.to_string())),
    }
}

fn read_file(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        path: path.to_owned(),
        detail: error.to_string(),
    })?;
    Ok(table
        .into_iter()
        .map(|(key, value)| (key, tree::from_toml(value)))
        .collect())
}

impl Origin {
    /// What set the key at `path`.
    fn of(&self, path: &[String]) -> String {
        match self {
            Self::File(file) => file.display().to_string(),
            Self::Environment(names) => names
                .iter()
                .find(|(set, _)| set == path)
                .map_or_else(|| "environment".to_owned(), |(_, name)| name.clone()),
            Self::Flags => "flags".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
