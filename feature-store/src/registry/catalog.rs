//! Everything the registry knows, in memory: every version of every definition, and the snapshot in force.

use ondol_vocabulary::{
    EventTime, ModelDefinition, ModelVersion, Snapshot, SourceDefinition, SourceVersion, ViewDefinition, ViewState,
    ViewVersion,
};
use std::fmt;

/// What a definition defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Noun {
    Source,
    View,
    Model,
}

impl Noun {
    pub(super) const ALL: [Self; 3] = [Self::Source, Self::View, Self::Model];

    /// The name in files, plans and the database.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::View => "view",
            Self::Model => "model",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|noun| noun.name() == text)
    }
}

impl fmt::Display for Noun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A definition of any noun.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Definition {
    Source(SourceDefinition),
    View(ViewDefinition),
    Model(ModelDefinition),
}

impl Definition {
    pub(super) fn noun(&self) -> Noun {
        match self {
            Self::Source(_) => Noun::Source,
            Self::View(_) => Noun::View,
            Self::Model(_) => Noun::Model,
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Source(definition) => &definition.name,
            Self::View(definition) => &definition.name,
            Self::Model(definition) => &definition.name,
        }
    }

    /// The form stored, and shown in histories.
    pub(super) fn to_json(&self) -> serde_json::Result<serde_json::Value> {
        match self {
            Self::Source(definition) => serde_json::to_value(definition),
            Self::View(definition) => serde_json::to_value(definition),
            Self::Model(definition) => serde_json::to_value(definition),
        }
    }

    pub(super) fn from_json(noun: Noun, text: &str) -> serde_json::Result<Self> {
        match noun {
            Noun::Source => serde_json::from_str(text).map(Self::Source),
            Noun::View => serde_json::from_str(text).map(Self::View),
            Noun::Model => serde_json::from_str(text).map(Self::Model),
        }
    }
}

/// One version of one definition. Only `state` ever changes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    /// Counts from 1 for each noun and name.
    pub(super) version: u32,
    /// Views only: the number in stored rows.
    pub(super) view_id: Option<u32>,
    /// Views only: the version of the source whose events it computes from.
    pub(super) source_version: Option<u32>,
    /// Sources and models are active or retired.
    pub(super) state: ViewState,
    pub(super) definition: Definition,
    pub(super) applied_at: EventTime,
}

impl Record {
    pub(super) fn noun(&self) -> Noun {
        self.definition.noun()
    }

    pub(super) fn name(&self) -> &str {
        self.definition.name()
    }
}

/// The registry's contents at one version.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Catalog {
    pub(super) version: u64,
    /// The number the next view version gets.
    pub(super) next_view_id: u32,
    pub(super) records: Vec<Record>,
    /// Rows that are being built anew.
    pub(super) rebuilds: Vec<OpenRebuild>,
}

/// Rows that are being built to take the place of those of a view version that serves.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OpenRebuild {
    /// Names the new rows.
    pub(super) view_id: u32,
    pub(super) name: String,
    pub(super) version: u32,
}

impl Catalog {
    /// Every version of one definition, oldest first.
    pub(super) fn versions<'s>(&'s self, noun: Noun, name: &str) -> impl Iterator<Item = &'s Record> {
        self.records
            .iter()
            .filter(move |record| record.noun() == noun && record.name() == name)
    }

    /// The version that counts as current: the newest that is not retired.
    pub(super) fn current<'s>(&'s self, noun: Noun, name: &str) -> Option<&'s Record> {
        self.versions(noun, name)
            .filter(|record| record.state != ViewState::Retired)
            .max_by_key(|record| record.version)
    }

    /// The version that serves.
    pub(super) fn active<'s>(&'s self, noun: Noun, name: &str) -> Option<&'s Record> {
        self.versions(noun, name)
            .find(|record| record.state == ViewState::Active)
    }

    /// Every definition that is not retired.
    pub(super) fn living(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| record.state != ViewState::Retired)
    }

    /// The version that the next definition of this name gets.
    pub(super) fn next_version(&self, noun: Noun, name: &str) -> u32 {
        self.versions(noun, name)
            .map(|record| record.version)
            .max()
            .unwrap_or(0)
            + 1
    }

    /// The definitions in force, by name.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            version: self.version,
            ..Snapshot::default()
        };
        for record in self.living() {
            let version = record.version;
            match &record.definition {
                Definition::Source(definition) => {
                    snapshot.sources.push(SourceVersion {
                        version,
                        definition: definition.clone(),
                    });
                }
                Definition::View(definition) => snapshot.views.push(ViewVersion {
                    id: record.view_id.unwrap_or_default(),
                    version,
                    state: record.state,
                    definition: definition.clone(),
                }),
                Definition::Model(definition) => {
                    snapshot.models.push(ModelVersion {
                        version,
                        definition: definition.clone(),
                    });
                }
            }
        }
        snapshot
            .sources
            .sort_by(|a, b| a.definition.name.cmp(&b.definition.name));
        for rebuild in &self.rebuilds {
            let serving = self
                .active(Noun::View, &rebuild.name)
                .filter(|record| record.version == rebuild.version);
            if let Some(Record {
                version,
                definition: Definition::View(definition),
                ..
            }) = serving
            {
                snapshot.views.push(ViewVersion {
                    id: rebuild.view_id,
                    version: *version,
                    state: ViewState::Provisioning,
                    definition: definition.clone(),
                });
            }
        }
        // Of one version, the rows that serve stand last: whoever looks for the newest version finds them.
        let order = |view: &ViewVersion| (view.version, view.state == ViewState::Active);
        snapshot
            .views
            .sort_by(|a, b| (&a.definition.name, order(a)).cmp(&(&b.definition.name, order(b))));
        snapshot
            .models
            .sort_by(|a, b| a.definition.name.cmp(&b.definition.name));
        snapshot
    }
}
