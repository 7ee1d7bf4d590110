//! The engine's errors in words that say what to do.

use super::catalog::OfflineTables;
use crate::fault::EngineError;
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use ondol_pipelines_api::PipelinesError;

/// The engine's name for the bound of what is spilled.
const SPILL_BOUND: &str = "max_temp_directory_size";

/// `error` as the contract's error.
pub(super) fn explain(error: &DataFusionError, tables: &OfflineTables) -> PipelinesError {
    if let Some(fault) = fault(error) {
        return match fault {
            EngineError::Table { .. }
            | EngineError::Objects(_)
            | EngineError::FeatureStore(_)
            | EngineError::Cluster { .. } => PipelinesError::Unavailable {
                detail: fault.to_string(),
            },
            EngineError::Query(_)
            | EngineError::Events(_)
            | EngineError::Configuration(_)
            | EngineError::Stopped
            | EngineError::Internal(_) => PipelinesError::Internal {
                detail: fault.to_string(),
            },
        };
    }
    match error.find_root() {
        DataFusionError::ResourcesExhausted(cause) => too_much(cause),
        // A write of the spill, which knows its bound by the engine's name for it.
        DataFusionError::ArrowError(cause, _) if cause.to_string().contains(SPILL_BOUND) => too_much(cause.as_ref()),
        DataFusionError::ArrowError(cause, _) if matches!(cause.as_ref(), ArrowError::IoError(..)) => {
            PipelinesError::Unavailable {
                detail: format!("a file can't be read or written: {cause}"),
            }
        }
        DataFusionError::SQL(cause, _) => invalid(format!("the query is not SQL as it is understood here: {cause}")),
        DataFusionError::Plan(text) => invalid(unknown_table(text, tables).unwrap_or_else(|| text.clone())),
        DataFusionError::SchemaError(cause, _) => invalid(cause.to_string()),
        DataFusionError::NotImplemented(text) => invalid(format!("not supported: {text}")),
        DataFusionError::Configuration(text) => invalid(text.clone()),
        // Of the data: a division by zero, a text that is no number.
        DataFusionError::ArrowError(cause, _) => invalid(cause.to_string()),
        DataFusionError::Execution(text) => invalid(text.clone()),
        DataFusionError::ObjectStore(cause) => PipelinesError::Unavailable {
            detail: format!("a file of a table can't be read, start the query again: {cause}"),
        },
        DataFusionError::ParquetError(cause) => PipelinesError::Unavailable {
            detail: format!("a file of a table is unreadable: {cause}"),
        },
        other => PipelinesError::Internal {
            detail: other.strip_backtrace(),
        },
    }
}

fn too_much(cause: &dyn std::fmt::Display) -> PipelinesError {
    PipelinesError::QueryLimit {
        detail: format!(
            "the query needs more than its bounds of memory (`sql.memory_mib`) and disk (`sql.spill_mib`): narrow it, \
             aggregate, or raise them ({cause})"
        ),
    }
}

fn invalid(detail: String) -> PipelinesError {
    PipelinesError::InvalidQuery { detail }
}

/// One of our own errors inside the engine's.
fn fault(error: &DataFusionError) -> Option<&EngineError> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(fault) = inner.downcast_ref::<EngineError>() {
            return Some(fault);
        }
        cause = match inner.downcast_ref::<DataFusionError>() {
            Some(DataFusionError::External(boxed)) => Some(boxed.as_ref()),
            Some(DataFusionError::Context(_, inner)) => Some(inner.as_ref()),
            _ => inner.source(),
        };
    }
    None
}

/// Tells which table is meant, where `text` is the engine's word for one that it does not know.
fn unknown_table(text: &str, tables: &OfflineTables) -> Option<String> {
    let rest = text.strip_prefix("table '")?;
    let (name, _) = rest.split_once("' not found")?;
    let name = name.rsplit('.').next()?;
    let names = tables.names();
    let mut answer = format!("there is no table `{name}`");
    match nearest(name, &names) {
        Some(meant) => answer.push_str(&format!(": did you mean `{meant}`?")),
        None if names.is_empty() => answer.push_str(": the registry has no sources yet, `ondol apply` brings them"),
        None => answer.push_str(&format!(": tables are sources by name, here {}", names.join(", "))),
    }
    Some(answer)
}

/// The candidate nearest to `name`, if a third of it or less is wrong.
fn nearest<'a>(name: &str, candidates: &'a [String]) -> Option<&'a String> {
    let allowed = (name.chars().count() / 3).max(1);
    let distances = candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate));
    let best = distances.min_by_key(|(distance, _)| *distance)?;
    (best.0 <= allowed).then_some(best.1)
}
