use super::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Write;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    listen: String,
    batch_rows: u32,
    token: Option<String>,
    online: Online,
    labels: BTreeMap<String, String>,
    limits: Limits,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Online {
    Embedded { path: String },
    Redis { url: String, pool: Option<u32> },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct Limits {
    max_age_s: f64,
    verbose: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            batch_rows: 500,
            token: None,
            online: Online::Embedded {
                path: "data".to_owned(),
            },
            labels: BTreeMap::new(),
            limits: Limits::default(),
        }
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect()
}

fn from_file(text: &str) -> Result<Config, ConfigError> {
    ConfigLayers::new().file(file(text).path()).load()
}

fn from_environment(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    ConfigLayers::new().environment("ONDOL_", variables(pairs)).load()
}

#[test]
fn each_layer_overrides_the_one_below() {
    let file = file("listen = \"file\"\nbatch_rows = 1\n[limits]\nmax-age-s = 1.5\n");
    let flags = serde_json::json!({ "listen": "flag", "batch_rows": null, "limits": { "verbose": null } });
    let layers = ConfigLayers::new()
        .file(file.path())
        .environment(
            "ONDOL_",
            variables(&[("ONDOL_LISTEN", "env"), ("ONDOL_BATCH_ROWS", "2"), ("PATH", "x")]),
        )
        .flags(flags.as_object().unwrap().clone());
    let config: Config = layers.load().unwrap();
    assert_eq!(config.listen, "flag");
    assert_eq!(config.batch_rows, 2);
    assert_eq!(config.limits.max_age_s, 1.5);
}

#[test]
fn without_layers_the_defaults_stand() {
    assert_eq!(ConfigLayers::new().load::<Config>().unwrap(), Config::default());
}

#[test]
fn another_variant_replaces_the_whole_section() {
    let config = from_file("[online]\nkind = \"redis\"\nurl = \"redis://r\"\npool = 4").unwrap();
    assert_eq!(
        config.online,
        Online::Redis {
            url: "redis://r".to_owned(),
            pool: Some(4)
        }
    );
    let config = from_environment(&[("ONDOL_ONLINE__KIND", "redis"), ("ONDOL_ONLINE__URL", "redis://e")]).unwrap();
    assert_eq!(
        config.online,
        Online::Redis {
            url: "redis://e".to_owned(),
            pool: None
        }
    );
}

#[test]
fn an_unknown_key_of_a_file_is_named_with_the_nearest_one() {
    let error = from_file("batch_row = 1").unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("unknown key `batch_row`: did you mean `batch_rows`?"),
        "{error}"
    );
    let error = from_file("[online]\nkind = \"redis\"\nurl = \"r\"\npoool = 4").unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("unknown key `online.poool`: did you mean `online.pool`?"),
        "{error}"
    );
    let error = from_file("[limits]\nmax-age = 1").unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("unknown key `limits.max-age`: did you mean `limits.max-age-s`?"),
        "{error}"
    );
}

#[test]
fn an_unknown_section_without_a_near_one_is_named_alone() {
    let error = from_file("[telemetry.export]\nurl = \"x\"").unwrap_err();
    assert!(error.to_string().ends_with("unknown key `telemetry`"), "{error}");
}

#[test]
fn an_unknown_variable_is_named() {
    let error = from_environment(&[("ONDOL_LIMITS__VERBOS", "true")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "ONDOL_LIMITS__VERBOS: unknown key `limits.verbos`: did you mean `limits.verbose`?"
    );
    let flags = serde_json::json!({ "listn": "x" });
    let error = ConfigLayers::new()
        .flags(flags.as_object().unwrap().clone())
        .load::<Config>()
        .unwrap_err();
    assert_eq!(error.to_string(), "flags: unknown key `listn`: did you mean `listen`?");
}

#[test]
fn a_variable_of_somebody_else_is_left_alone() {
    assert_eq!(
        from_environment(&[("ONDOL_TEST_KAFKA", "localhost:9092")]).unwrap(),
        Config::default()
    );
}

#[test]
fn a_value_of_the_wrong_type_names_its_key_and_origin() {
    let error = from_environment(&[("ONDOL_BATCH_ROWS", "many"), ("ONDOL_LISTEN", "x")]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("ONDOL_BATCH_ROWS: `batch_rows`: invalid type"),
        "{error}"
    );
    let error = from_file("batch_rows = -1").unwrap_err();
    assert!(error.to_string().contains("`batch_rows`: invalid value"), "{error}");
}

#[test]
fn a_variable_takes_the_type_of_its_key() {
    let pairs = [
        ("ONDOL_LISTEN", "8080"),
        ("ONDOL_TOKEN", "12345"),
        ("ONDOL_LIMITS__MAX_AGE_S", "2"),
        ("ONDOL_LIMITS__VERBOSE", "true"),
        ("ONDOL_LABELS__TEAM", "risk"),
    ];
    let config = from_environment(&pairs).unwrap();
    assert_eq!(
        (config.listen.as_str(), config.token.as_deref()),
        ("8080", Some("12345"))
    );
    assert_eq!(
        config.limits,
        Limits {
            max_age_s: 2.0,
            verbose: true
        }
    );
    assert_eq!(config.labels.get("team").map(String::as_str), Some("risk"));
}

#[test]
fn a_file_that_is_absent_or_malformed_is_named() {
    let error = ConfigLayers::new()
        .file("/nonexistent/ondol.toml")
        .load::<Config>()
        .unwrap_err();
    assert!(matches!(&error, ConfigError::Read { .. }), "{error}");
    let error = from_file("listen = ").unwrap_err();
    assert!(
        matches!(&error, ConfigError::Syntax { detail, .. } if detail.contains("line 1")),
        "{error}"
    );
}
