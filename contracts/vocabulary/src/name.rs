//! How features and versioned definitions are named.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{fmt, str::FromStr};

/// `view.feature`, for example `card.n_1h`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FeatureRef {
    /// The feature view.
    pub view: String,
    /// The feature within it.
    pub feature: String,
}

/// `name@version`, for example `card@2`. Versions start at 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VersionedName {
    /// The name of the source, view or model.
    pub name: String,
    /// Its version.
    pub version: u32,
}

/// A text that is no name of the expected form.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not of the form `{form}`")]
pub struct NameError {
    text: String,
    form: &'static str,
}

impl FeatureRef {
    /// A reference to `feature` of `view`.
    pub fn new(view: impl Into<String>, feature: impl Into<String>) -> Self {
        Self {
            view: view.into(),
            feature: feature.into(),
        }
    }
}

impl VersionedName {
    /// `name@version`.
    pub fn new(name: impl Into<String>, version: u32) -> Self {
        Self {
            name: name.into(),
            version,
        }
    }
}

impl FromStr for FeatureRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('.') {
            Some((view, feature)) if !view.is_empty() && !feature.is_empty() => Ok(Self::new(view, feature)),
            _ => Err(NameError {
                text: text.to_owned(),
                form: "view.feature",
            }),
        }
    }
}

impl FromStr for VersionedName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = || NameError {
            text: text.to_owned(),
            form: "name@version",
        };
        let (name, version) = text.rsplit_once('@').ok_or_else(error)?;
        let version = version.parse().map_err(|_| error())?;
        if name.is_empty() {
            Err(error())
        } else {
            Ok(Self::new(name, version))
        }
    }
}

impl fmt::Display for FeatureRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.view, self.feature)
    }
}

impl fmt::Display for VersionedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

macro_rules! as_text {
    ($type:ty, $example:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }

        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .examples([$example])
                    .into()
            }
        }

        impl utoipa::ToSchema for $type {}
    };
}

as_text!(FeatureRef, "card.n_1h");
as_text!(VersionedName, "card@2");
