//! The last words of the command line: what went wrong and what to do, for people or as one JSON document.

use crate::cli::Output;
use anyhow::Error;
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::Diagnostic;
use ondol_ingest_api::IngestError;
use ondol_model_gateway_api::{AccessError, ModelGatewayError};
use ondol_pipelines_api::PipelinesError;
use serde::Serialize;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Definitions with errors: pictures of the lines for people, the errors themselves for programs.
#[derive(Debug, thiserror::Error)]
#[error("the definitions have errors\n\n{picture}")]
pub(crate) struct WrongDefinitions {
    /// The lines and what is wrong with them.
    pub(crate) picture: String,
    /// Every error found.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// Prints `error` and its causes: to standard error, or to standard output where results are JSON.
#[allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the last words of the command line"
)]
pub(crate) fn report(error: &Error, output: Output) -> ExitCode {
    match output {
        Output::Json => println!("{}", document(error)),
        Output::Text => {
            eprintln!("error: {error:#}");
            if let Some(help) = help(error) {
                eprintln!("  = help: {help}");
            }
        }
    }
    ExitCode::FAILURE
}

/// Prints what is wrong with the command itself; `--help` and `--version` are no errors.
#[allow(clippy::print_stdout, reason = "the last words of the command line")]
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    if code != 0 && json_is_asked_for(std::env::args(), std::env::var("ONDOL_OUTPUT").ok().as_deref()) {
        let text = error.render().to_string();
        let message = text.trim().strip_prefix("error: ").unwrap_or(text.trim());
        println!("{}", json!({"error": message, "code": "usage"}));
    } else {
        // Nothing is left to tell of a message that can't be printed.
        let _ = error.print();
    }
    ExitCode::from(code)
}

/// Read by hand: the command line as a whole did not parse.
fn json_is_asked_for(arguments: impl Iterator<Item = String>, variable: Option<&str>) -> bool {
    let arguments: Vec<String> = arguments.collect();
    let spaced = arguments
        .windows(2)
        .any(|pair| matches!(pair, [name, value] if name == "--output" && value == "json"));
    spaced || arguments.iter().any(|argument| argument == "--output=json") || variable == Some("json")
}

/// `error` in words; of an error that a service returned also its code and fields.
fn document(error: &Error) -> Value {
    let mut document = json!({"error": format!("{error:#}")});
    let details = details::<FeatureStoreError>(error)
        .or_else(|| details::<IngestError>(error))
        .or_else(|| details::<PipelinesError>(error))
        .or_else(|| details::<ModelGatewayError>(error))
        .or_else(|| details::<AccessError>(error));
    if let Some(details) = details {
        document["code"] = details["code"].clone();
        document["details"] = details;
    }
    if let Some(wrong) = error.downcast_ref::<WrongDefinitions>() {
        document["code"] = json!("invalid-definitions");
        document["details"] = json!({"code": "invalid-definitions", "diagnostics": wrong.diagnostics});
    }
    if let Some(help) = help(error) {
        document["help"] = json!(help);
    }
    document
}

fn details<T: std::error::Error + Serialize + Send + Sync + 'static>(error: &Error) -> Option<Value> {
    serde_json::to_value(error.downcast_ref::<T>()?).ok()
}

/// What to do about a service that does not answer, or asks who calls: the first things a new user meets.
fn help(error: &Error) -> Option<&'static str> {
    let text = format!("{error:#}");
    if text.contains("can't be reached") {
        return Some(
            "is it running? `ondol dev` starts every service; --server or ONDOL_SERVER says where one answers",
        );
    }
    text.contains("who calls?").then_some(
        "set ONDOL_TOKEN (or --token) to an API key or a JWT; on the server's machine `ondol key bootstrap` makes a first key",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_recognized_in_each_way_to_ask_for_it() {
        let asked = |line: &str, variable| json_is_asked_for(line.split(' ').map(str::to_owned), variable);
        assert!(asked("ondol ls --output json", None));
        assert!(asked("ondol --output=json ls", None));
        assert!(asked("ondol ls", Some("json")));
        assert!(!asked("ondol ls --output text", None));
    }

    #[test]
    fn an_error_of_a_service_keeps_its_code_and_fields() {
        let unknown = IngestError::UnknownSource {
            name: "a".to_owned(),
            suggestion: Some("b".to_owned()),
        };
        let document = document(&Error::from(unknown).context("while pushing"));
        assert_eq!(document["code"], "unknown-source");
        assert_eq!(document["details"]["suggestion"], "b");
        assert_eq!(
            document["error"],
            "while pushing: unknown stream source `a`: did you mean `b`?"
        );
    }
}
