//! A dead letter's message, corrected: field by field, or in an editor.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::process::Command;

/// `message`, a JSON object, with each `FIELD=VALUE` set.
pub(crate) fn set(message: &[u8], assignments: &[String]) -> Result<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(message)
        .context("the message is no JSON, so fields can't be set: use --payload-file or --edit")?;
    for assignment in assignments {
        let (path, value) = assignment
            .split_once('=')
            .with_context(|| format!("`{assignment}` sets nothing: write FIELD=VALUE"))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        *place(&mut document, path)? = value;
    }
    Ok(serde_json::to_vec(&document)?)
}

/// The place of `path`, made where it is missing.
fn place<'d>(document: &'d mut Value, path: &str) -> Result<&'d mut Value> {
    let mut at = document;
    for name in path.split('.') {
        at = match at {
            Value::Object(fields) => fields
                .entry(name)
                .or_insert_with(|| Value::Object(serde_json::Map::new())),
            Value::Array(elements) => {
                let count = elements.len();
                let index: Option<usize> = name.parse().ok();
                let element = index.and_then(|index| elements.get_mut(index));
                element.with_context(|| format!("`{path}`: `{name}` is no element of an array of {count}"))?
            }
            _ => bail!("`{path}`: what stands before `{name}` is neither an object nor an array"),
        };
    }
    Ok(at)
}

/// `message` as the user's editor leaves it.
pub(crate) fn edit(message: &[u8]) -> Result<Vec<u8>> {
    let editor = std::env::var("VISUAL")
        .or_else(|_| std::env::var("EDITOR"))
        .unwrap_or_else(|_| "vi".to_owned());
    let file = tempfile::Builder::new()
        .prefix("ondol-letter-")
        .suffix(".json")
        .tempfile()
        .context("no file can be made for the editor")?;
    let laid_out = serde_json::from_slice::<Value>(message).and_then(|value| serde_json::to_vec_pretty(&value));
    std::fs::write(file.path(), laid_out.unwrap_or_else(|_| message.to_vec()))?;
    // Editors are configured with arguments: `code --wait`.
    let status = Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(file.path())
        .status()
        .with_context(|| format!("the editor `{editor}` can't be started: set EDITOR"))?;
    if !status.success() {
        bail!("the editor ended with {status}: the letter stays as it was");
    }
    let edited = std::fs::read(file.path()).context("the edited message can't be read")?;
    // Compact again, if it still is JSON.
    let compact = serde_json::from_slice::<Value>(&edited).and_then(|value| serde_json::to_vec(&value));
    Ok(compact.unwrap_or(edited))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, assignments: &[&str]) -> Result<String> {
        let assignments: Vec<String> = assignments.iter().map(|text| (*text).to_owned()).collect();
        Ok(String::from_utf8(set(message.as_bytes(), &assignments)?)?)
    }

    #[test]
    fn fields_are_set_wherever_they_stand() {
        let message = r#"{"amount":"x","card":{"id":1},"items":[{"n":1}]}"#;
        let set = ["amount=12.5", "card.id=c1", "items.0.n=2", "a.b=null", "text=a=b"];
        // The order of a JSON object's fields has no meaning, and is not kept.
        let corrected: Value = serde_json::from_str(&check(message, &set).unwrap()).unwrap();
        let expected = r#"{"amount":12.5,"card":{"id":"c1"},"items":[{"n":2}],"a":{"b":null},"text":"a=b"}"#;
        assert_eq!(corrected, serde_json::from_str::<Value>(expected).unwrap());
    }

    #[test]
    fn what_cannot_be_set_is_said() {
        assert!(check("[1", &["a=1"]).unwrap_err().to_string().contains("--edit"));
        assert!(check("{}", &["a"]).unwrap_err().to_string().contains("FIELD=VALUE"));
        assert!(
            check(r#"{"a":[]}"#, &["a.0=1"])
                .unwrap_err()
                .to_string()
                .contains("array of 0")
        );
        assert!(check(r#"{"a":1}"#, &["a.b=1"]).is_err());
    }
}
