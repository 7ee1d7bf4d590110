//! A setting that may be a secret: never shown, and kept elsewhere if one likes.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The text of a setting. `${file:PATH}` in it stands for what the file holds, without the line's end, and `${env:NAME}`
/// for what the variable holds.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text, with what it refers to. Read anew each time, so that a file may change.
    ///
    /// # Errors
    /// Which file or variable can't be read. The message holds no secret.
    pub fn reveal(&self) -> Result<String, String> {
        let mut revealed = String::with_capacity(self.0.len());
        let mut rest = self.0.as_str();
        while let Some((before, reference)) = rest.split_once("${") {
            revealed.push_str(before);
            match reference
                .split_once('}')
                .and_then(|(inner, after)| Some((read(inner)?, after)))
            {
                Some((value, after)) => {
                    revealed.push_str(&value?);
                    rest = after;
                }
                // Not ours: passwords may hold such signs.
                None => {
                    revealed.push_str("${");
                    rest = reference;
                }
            }
        }
        revealed.push_str(rest);
        Ok(revealed)
    }
}

/// What `reference` stands for; none when it is no reference.
fn read(reference: &str) -> Option<Result<String, String>> {
    match reference.split_once(':')? {
        ("file", path) => Some(
            std::fs::read_to_string(path)
                .map(|text| text.trim_end_matches(['\n', '\r']).to_owned())
                .map_err(|error| format!("the file `{path}` can't be read: {error}")),
        ),
        ("env", name) => Some(std::env::var(name).map_err(|_| format!("the variable `{name}` is not set"))),
        _ => None,
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_replaced_by_what_the_file_holds() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "pa$$word\n").unwrap();
        let secret = Secret::from(format!("user=x password=${{file:{}}}!", file.path().display()));
        assert_eq!(secret.reveal().unwrap(), "user=x password=pa$$word!");
        for plain in ["", "a", "${", "${x}", "}${unknown:x}$"] {
            assert_eq!(Secret::from(plain).reveal().unwrap(), plain);
        }
    }

    #[test]
    fn a_missing_file_or_variable_is_named() {
        let error = Secret::from("${file:/nowhere/secret}").reveal().unwrap_err();
        assert!(error.contains("`/nowhere/secret` can't be read"), "{error}");
        let error = Secret::from("${env:ONDOL_NO_SUCH_VARIABLE}").reveal().unwrap_err();
        assert_eq!(error, "the variable `ONDOL_NO_SUCH_VARIABLE` is not set");
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert_eq!(format!("{:?}", Secret::from("hunter2")), "***");
    }
}
