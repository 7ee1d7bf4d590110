//! From definitions in force and definitions wanted to what must change. Pure: plan shows it, apply stores it.

use super::catalog::{Catalog, Definition, Noun, Record};
use super::compatibility::{self, Refusal};
use super::difference;
use super::row_bytes;
use ondol_feature_store_api::wire::{Change, ChangeAction};
use ondol_transform::definition::{Definitions, built_in_sources, is_built_in};
use ondol_vocabulary::{EventTime, ModelDefinition, VersionedName, ViewDefinition, ViewState};

/// What an apply changes.
#[derive(Debug, Default)]
pub(super) struct ChangeSet {
    /// For people, in the order sources, views, models.
    pub(super) changes: Vec<Change>,
    /// Versions that no longer count, as (noun, name, version).
    pub(super) retire: Vec<(Noun, String, u32)>,
    /// New versions.
    pub(super) insert: Vec<Record>,
}

impl ChangeSet {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.retire.is_empty() && self.insert.is_empty()
    }
}

/// Compares `catalog` with `wanted`. What is in force and not wanted is removed, but for the built-in source.
pub(super) fn compare(
    catalog: &Catalog,
    wanted: &Definitions,
    rows: &dyn Fn(&str) -> Option<u64>,
    now: EventTime,
) -> Result<ChangeSet, Vec<Refusal>> {
    let mut comparison = Comparison {
        catalog,
        wanted,
        rows,
        now,
        next_view_id: catalog.next_view_id,
        set: ChangeSet::default(),
    };
    comparison.sources();
    comparison.views();
    comparison.models();
    comparison.removals();
    let set = comparison.set;
    let refusals = compatibility::check(catalog, &set);
    if refusals.is_empty() { Ok(set) } else { Err(refusals) }
}

struct Comparison<'a> {
    catalog: &'a Catalog,
    wanted: &'a Definitions,
    rows: &'a dyn Fn(&str) -> Option<u64>,
    now: EventTime,
    next_view_id: u32,
    set: ChangeSet,
}

impl Comparison<'_> {
    fn sources(&mut self) {
        let built_in = built_in_sources();
        let wanted = self.wanted;
        let user = wanted.sources.iter().filter(|source| !is_built_in(&source.name));
        for source in user.chain(&built_in) {
            let definition = Definition::Source(source.clone());
            let current = self.catalog.current(Noun::Source, &source.name);
            if current.is_some_and(|current| current.definition == definition) {
                continue;
            }
            let affected = self.models_of(|view| view.source == source.name);
            self.retire_living(Noun::Source, &source.name);
            // A built-in source comes with the program, not with anybody's files: no news in a plan.
            if !is_built_in(&source.name) {
                self.change(
                    &definition,
                    difference::lines(current.map(|found| &found.definition), &definition),
                    None,
                    affected,
                );
            }
            self.insert(definition, ViewState::Active, None);
        }
    }

    fn views(&mut self) {
        for view in &self.wanted.views {
            let definition = Definition::View(view.clone());
            let source_version = self.source_version(&view.source);
            let same =
                |record: &&Record| record.definition == definition && record.source_version == Some(source_version);
            if self.catalog.current(Noun::View, &view.name).as_ref().is_some_and(same) {
                continue;
            }
            if let Some(serving) = self.catalog.active(Noun::View, &view.name).filter(same) {
                self.take_back(view, serving);
                continue;
            }
            let current = self.catalog.current(Noun::View, &view.name);
            let mut lines = difference::lines(current.map(|found| &found.definition), &definition);
            if let Some(old) = current
                .and_then(|found| found.source_version)
                .filter(|old| *old != source_version)
            {
                lines.push(format!(
                    "reads {}@{old} → {}@{source_version}",
                    view.source, view.source
                ));
            }
            let affected = self.models_of(|candidate| candidate.name == view.name);
            self.change(&definition, lines, (self.rows)(&view.source), affected);
            // The version that serves goes on serving until the new one is provisioned.
            self.retire_provisioning(&view.name);
            self.insert(definition, ViewState::Provisioning, Some(source_version));
        }
    }

    /// The files are back at the version that serves, while another one is being provisioned: that one is dropped.
    fn take_back(&mut self, view: &ViewDefinition, serving: &Record) {
        self.retire_provisioning(&view.name);
        let change = Change {
            noun: Noun::View.name().to_owned(),
            name: VersionedName::new(&view.name, serving.version),
            action: ChangeAction::Update,
            differences: vec![format!("back to version {}, which still serves", serving.version)],
            rows_to_backfill: Some(0),
            models_affected: self.models_of(|candidate| candidate.name == view.name),
            row_bytes: row_bytes::of(view, self.wanted),
        };
        self.set.changes.push(change);
    }

    fn models(&mut self) {
        for model in &self.wanted.models {
            let definition = Definition::Model(model.clone());
            let current = self.catalog.current(Noun::Model, &model.name);
            if current.is_some_and(|current| current.definition == definition) {
                continue;
            }
            let lines = difference::lines(current.map(|found| &found.definition), &definition);
            self.change(&definition, lines, None, vec![model.name.clone()]);
            self.retire_living(Noun::Model, &model.name);
            self.insert(definition, ViewState::Active, None);
        }
    }

    fn removals(&mut self) {
        let is_wanted = |record: &Record| match record.noun() {
            Noun::Source => {
                is_built_in(record.name()) || self.wanted.sources.iter().any(|source| source.name == record.name())
            }
            Noun::View => self.wanted.views.iter().any(|view| view.name == record.name()),
            Noun::Model => self.wanted.models.iter().any(|model| model.name == record.name()),
        };
        let gone: Vec<&Record> = self.catalog.living().filter(|record| !is_wanted(record)).collect();
        for record in &gone {
            self.set
                .retire
                .push((record.noun(), record.name().to_owned(), record.version));
        }
        for noun in Noun::ALL {
            let mut names: Vec<&str> = gone
                .iter()
                .filter(|record| record.noun() == noun)
                .map(|record| record.name())
                .collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                let Some(current) = self.catalog.current(noun, name) else {
                    continue;
                };
                self.set.changes.push(Change {
                    noun: noun.name().to_owned(),
                    name: VersionedName::new(name, current.version),
                    action: ChangeAction::Remove,
                    differences: Vec::new(),
                    rows_to_backfill: None,
                    models_affected: self.models_that_had(noun, name),
                    row_bytes: None,
                });
            }
        }
    }

    fn change(
        &mut self,
        definition: &Definition,
        differences: Vec<String>,
        rows_to_backfill: Option<u64>,
        models_affected: Vec<String>,
    ) {
        let (noun, name) = (definition.noun(), definition.name());
        let action = match self.catalog.current(noun, name) {
            Some(_) => ChangeAction::Update,
            None => ChangeAction::Create,
        };
        self.set.changes.push(Change {
            noun: noun.name().to_owned(),
            name: VersionedName::new(name, self.catalog.next_version(noun, name)),
            action,
            differences,
            rows_to_backfill,
            models_affected,
            row_bytes: match definition {
                Definition::View(view) => row_bytes::of(view, self.wanted),
                Definition::Source(_) | Definition::Model(_) => None,
            },
        });
    }

    fn insert(&mut self, definition: Definition, state: ViewState, source_version: Option<u32>) {
        let version = self.catalog.next_version(definition.noun(), definition.name());
        let view_id = matches!(definition, Definition::View(_)).then_some(self.next_view_id);
        if view_id.is_some() {
            self.next_view_id += 1;
        }
        let applied_at = self.now;
        self.set.insert.push(Record {
            version,
            view_id,
            source_version,
            state,
            definition,
            applied_at,
        });
    }

    fn retire_living(&mut self, noun: Noun, name: &str) {
        let living = self
            .catalog
            .versions(noun, name)
            .filter(|record| record.state != ViewState::Retired);
        self.set
            .retire
            .extend(living.map(|record| (noun, name.to_owned(), record.version)));
    }

    fn retire_provisioning(&mut self, name: &str) {
        let building = self
            .catalog
            .versions(Noun::View, name)
            .filter(|record| record.state == ViewState::Provisioning);
        self.set
            .retire
            .extend(building.map(|record| (Noun::View, name.to_owned(), record.version)));
    }

    /// The version that `source` will have once this is applied.
    fn source_version(&self, source: &str) -> u32 {
        let new = self
            .set
            .insert
            .iter()
            .find(|record| record.noun() == Noun::Source && record.name() == source);
        new.or_else(|| self.catalog.current(Noun::Source, source))
            .map_or(0, |record| record.version)
    }

    /// Wanted models that use a wanted view which meets `condition`.
    fn models_of(&self, condition: impl Fn(&ViewDefinition) -> bool) -> Vec<String> {
        let views: Vec<&str> = self
            .wanted
            .views
            .iter()
            .filter(|view| condition(view))
            .map(|view| view.name.as_str())
            .collect();
        let wanted = self.wanted.models.iter();
        wanted
            .filter(|model| uses(model, &views))
            .map(|model| model.name.clone())
            .collect()
    }

    /// Models in force that use what is removed.
    fn models_that_had(&self, noun: Noun, name: &str) -> Vec<String> {
        let reads = |view: &ViewDefinition| match noun {
            Noun::Source => view.source == name,
            Noun::View => view.name == name,
            Noun::Model => false,
        };
        let views: Vec<&str> = self
            .catalog
            .living()
            .filter_map(|record| match &record.definition {
                Definition::View(view) if reads(view) => Some(view.name.as_str()),
                Definition::Source(_) | Definition::View(_) | Definition::Model(_) => None,
            })
            .collect();
        let models = self.catalog.living().filter_map(|record| match &record.definition {
            Definition::Model(model) => Some(model),
            Definition::Source(_) | Definition::View(_) => None,
        });
        let is_it = |model: &ModelDefinition| noun == Noun::Model && model.name == name;
        models
            .filter(|model| is_it(model) || uses(model, &views))
            .map(|model| model.name.clone())
            .collect()
    }
}

fn uses(model: &ModelDefinition, views: &[&str]) -> bool {
    model
        .view_features()
        .iter()
        .any(|feature| views.contains(&feature.view.as_str()))
}
