//! `[view.NAME]`: features of one entity from one source.

use super::aggregate;
use super::default;
use super::duration;
use super::name;
use super::report::{Reports, choose};
use super::source::micros;
use super::tree::{Node, Section, Text, Word};
use super::typed::{self, arrow_schema};
use crate::row::result_type;
use arrow::datatypes::SchemaRef;
use ondol_vocabulary::{
    ColumnOrigin, ColumnReading, DataType, FeatureDefinition, FeatureKind, Field, SourceDefinition, SourceOrigin,
    Tombstones, ViewDefinition, Window,
};

const KEYS: [&str; 6] = ["from", "key", "filter", "where", "ttl", "features"];

/// What a view's text came to.
pub(super) struct CompiledView {
    pub(super) definition: ViewDefinition,
    /// Features that were written but are wrong: a model that names them has no error of its own.
    pub(super) broken: Vec<String>,
}

/// Compiles a view. `sources` are those that compiled, and `broken_sources` the names of those that did not. `None`
/// when it is too broken for models to be checked against it.
pub(super) fn compile(
    name: &Word<'_>,
    section: &Section<'_>,
    sources: &[SourceDefinition],
    broken_sources: &[&str],
    reports: &mut Reports<'_>,
) -> Option<CompiledView> {
    name::check("view", name, reports);
    if name.text == "derived" {
        let help = "in a model, `derived.x` is a derived feature: choose another name";
        reports.add(
            &name.place,
            "reserved-name",
            "a view can't be called `derived`",
            Some(help.to_owned()),
        );
        return None;
    }
    section.only(&KEYS, reports);
    let ttl_us = ttl(section, reports);
    let key_node = section.require("key", "key = \"column\", the column that names the entity", reports);
    let features_node = section.require("features", "features.NAME = \"expression\"", reports);
    let source = source(section, sources, broken_sources, reports)?;
    let schema = arrow_schema(&source.schema);
    let key = key_node.and_then(|node| key(node, source, reports));
    let filter = filter(section, &schema, reports);
    let scope = FeatureScope {
        view: name.text,
        source,
        schema: &schema,
        has_ttl: section.get("ttl").is_some(),
    };
    let features = features(section, features_node?, &scope, reports)?;
    let definition = ViewDefinition {
        name: name.text.to_owned(),
        source: source.name.clone(),
        key: key?,
        filter,
        ttl_us,
        features: features.0,
    };
    Some(CompiledView {
        definition,
        broken: features.1,
    })
}

fn source<'s>(
    section: &Section<'_>,
    sources: &'s [SourceDefinition],
    broken_sources: &[&str],
    reports: &mut Reports<'_>,
) -> Option<&'s SourceDefinition> {
    let text = section
        .require("from", "from = \"source\"", reports)?
        .string("`from`", reports)?;
    let found = sources.iter().find(|source| source.name == text.value);
    if found.is_none() && !broken_sources.contains(&text.value) {
        let names = sources
            .iter()
            .map(|source| source.name.as_str())
            .chain(broken_sources.iter().copied());
        let help = choose(text.value, "sources", names);
        reports.add(
            &text.place(),
            "unknown-source",
            format!("there is no source `{}`", text.value),
            help,
        );
    }
    found
}

fn key(node: Node<'_>, source: &SourceDefinition, reports: &mut Reports<'_>) -> Option<Vec<Field>> {
    let columns = match (node.as_string(), node.as_array()) {
        (Some(column), _) => vec![column],
        (None, Some(columns)) => {
            let columns = columns.iter().map(|column| column.string("a key column", reports));
            columns.collect::<Option<Vec<_>>>()?
        }
        (None, None) => {
            node.wrong_type("`key`", "a column or a list of columns", reports);
            return None;
        }
    };
    if columns.is_empty() {
        let help = "name the columns that name the entity";
        reports.add(
            &node.place(),
            "empty-value",
            "`key` has no columns",
            Some(help.to_owned()),
        );
        return None;
    }
    let mut key: Vec<Field> = Vec::with_capacity(columns.len());
    for column in &columns {
        let field = key_column(*column, source, reports)?;
        if key.contains(&field) {
            let message = format!("`{}` is in the key twice", field.name);
            reports.add(&column.place(), "duplicate-name", message, None);
            return None;
        }
        key.push(field);
    }
    Some(key)
}

fn key_column(column: Text<'_>, source: &SourceDefinition, reports: &mut Reports<'_>) -> Option<Field> {
    let Some(field) = source.field(column.value) else {
        let names = source.schema.iter().map(|field| field.name.as_str());
        let message = format!("source `{}` has no column `{}`", source.name, column.value);
        reports.add(
            &column.place(),
            "unknown-column",
            message,
            choose(column.value, "columns", names),
        );
        return None;
    };
    if !field.data_type.is_key() {
        let message = format!("`{}` is {}, which can't name an entity", field.name, field.data_type);
        let help = "a key column is a string, i32, i64, bool or timestamp";
        reports.add(&column.place(), "invalid-key", message, Some(help.to_owned()));
        return None;
    }
    if !outlives_its_value(&source.origin, column.value) {
        let message = format!(
            "`{}` is read from the message's value, which the markers that delete rows do not have",
            field.name
        );
        let help = format!(
            "read it from the record's key: {} = {{ type = \"{}\", key = true }}",
            field.name, field.data_type
        );
        reports.add(&column.place(), "invalid-key", message, Some(help));
        return None;
    }
    Some(field.clone())
}

/// Whether a record that is only a deletion marker still has the column.
fn outlives_its_value(origin: &SourceOrigin, column: &str) -> bool {
    match origin {
        SourceOrigin::Stream { shape, .. } if shape.tombstones == Tombstones::Delete => {
            let of_value = |reading: &ColumnReading| matches!(reading.origin, ColumnOrigin::Field(_));
            shape.columns.get(column).is_some_and(|reading| !of_value(reading))
        }
        SourceOrigin::Stream { .. } | SourceOrigin::Table { .. } => true,
    }
}

fn filter(section: &Section<'_>, schema: &SchemaRef, reports: &mut Reports<'_>) -> Option<String> {
    if let (Some(_), Some((word, _))) = (section.get("filter"), section.get("where")) {
        let help = "they mean the same: keep one, and join the conditions with `and`";
        let message = format!("`{}` has both `filter` and `where`", section.title);
        reports.add(&word.place, "duplicate-name", message, Some(help.to_owned()));
    }
    let key = if section.get("filter").is_some() {
        "filter"
    } else {
        "where"
    };
    let text = section.text(key, reports)?;
    typed::condition(text, 0..text.value.len(), schema, reports).map(|typed| typed.text)
}

fn ttl(section: &Section<'_>, reports: &mut Reports<'_>) -> Option<i64> {
    let (_, node) = section.get("ttl")?;
    let ttl_us = micros("ttl", *node, reports)?;
    if ttl_us == 0 {
        let help = "remove `ttl` for values that do not expire";
        reports.add(
            &node.place(),
            "invalid-duration",
            "a `ttl` of 0 makes every value stale",
            Some(help.to_owned()),
        );
        return None;
    }
    Some(ttl_us)
}

/// What a feature is compiled with.
struct FeatureScope<'v> {
    view: &'v str,
    source: &'v SourceDefinition,
    schema: &'v SchemaRef,
    /// Values of the view can be stale.
    has_ttl: bool,
}

/// The features that are right, and the names of those that are not.
fn features(
    section: &Section<'_>,
    node: Node<'_>,
    scope: &FeatureScope<'_>,
    reports: &mut Reports<'_>,
) -> Option<(Vec<FeatureDefinition>, Vec<String>)> {
    let (word, _) = section.get("features")?;
    let entries = node.section(word, &format!("{}.features", section.title), reports)?;
    if entries.entries().is_empty() {
        let help = "add features.NAME = \"expression\"";
        reports.add(
            &word.place,
            "empty-value",
            format!("`{}` has no features", section.title),
            Some(help.to_owned()),
        );
    }
    let (mut features, mut broken) = (Vec::new(), Vec::new());
    for (word, node) in entries.entries() {
        let named = name::check("feature", word, reports);
        match feature(word, *node, &entries.title, scope, reports) {
            Some(feature) if named => features.push(feature),
            _ => broken.push(word.text.to_owned()),
        }
    }
    Some((features, broken))
}

fn feature(
    word: &Word<'_>,
    node: Node<'_>,
    title: &str,
    scope: &FeatureScope<'_>,
    reports: &mut Reports<'_>,
) -> Option<FeatureDefinition> {
    let FeatureScope { source, schema, .. } = *scope;
    let title = format!("{title}.{}", word.text);
    let (text, hop, default) = match (node.as_string(), node.as_section(title.clone(), word.place.clone())) {
        (Some(text), _) => (text, None, None),
        (None, Some(table)) => {
            table.only(&["expr", "hop", "default"], reports);
            let text = table
                .require("expr", "expr = \"expression\"", reports)?
                .string("`expr`", reports)?;
            (text, table.get("hop").cloned(), table.get("default").cloned())
        }
        (None, None) => {
            node.wrong_type(
                &format!("`{title}`"),
                "an expression or a table { expr, hop, default }",
                reports,
            );
            return None;
        }
    };
    let syntax = match aggregate::parse(text.value) {
        Ok(syntax) => syntax,
        Err(error) => {
            reports.add(&text.part(error.at), error.code, error.message, error.help);
            return None;
        }
    };
    let (kind, data_type) = match syntax {
        Some(syntax) => aggregation(text, syntax, hop.as_ref(), source, schema, reports)?,
        None => {
            no_hop(hop.as_ref(), reports)?;
            let typed = typed::plan(text, 0..text.value.len(), schema, reports)?;
            (FeatureKind::LatestRow { expression: typed.text }, typed.data_type)
        }
    };
    let mut definition = FeatureDefinition {
        name: word.text.to_owned(),
        expression: text.value.to_owned(),
        kind,
        data_type,
        default: None,
    };
    if let Some(written) = &default {
        definition.default = Some(default::compile(
            scope.view,
            &definition,
            written,
            scope.has_ttl,
            reports,
        )?);
    }
    Some(definition)
}

fn aggregation(
    text: Text<'_>,
    syntax: aggregate::Syntax,
    hop: Option<&(Word<'_>, Node<'_>)>,
    source: &SourceDefinition,
    schema: &SchemaRef,
    reports: &mut Reports<'_>,
) -> Option<(FeatureKind, DataType)> {
    let aggregate::Syntax {
        function,
        name,
        argument,
        parameters,
        filter,
        width,
    } = syntax;
    if !source.is_stream() {
        let message = format!(
            "`{}` can't aggregate: source `{}` is a table",
            function.name(),
            source.name
        );
        let help = "a table gives the latest row of each entity: write a column or an expression of it";
        reports.add(&text.part(name), "aggregate-of-table", message, Some(help.to_owned()));
        return None;
    }
    if source.origin.has_deletions() {
        let message = format!(
            "`{}` can't aggregate: rows of source `{}` are deleted by later messages",
            function.name(),
            source.name
        );
        let help = "such a source gives the latest row of each entity: write a column or an expression of it";
        reports.add(&text.part(name), "aggregate-of-changes", message, Some(help.to_owned()));
        return None;
    }
    // All three are planned before any of them ends the feature, so that all errors are found at once.
    let argument = argument.map(|part| typed::plan(text, part, schema, reports));
    let filter = filter.map(|part| typed::condition(text, part, schema, reports));
    let window = match width {
        Some((width_us, at)) => Some(window(text, width_us, at, hop, reports)),
        None => {
            no_hop(hop, reports)?;
            None
        }
    };
    // An absent part is fine; a broken one is not.
    let argument = argument.map_or(Some(None), |typed| typed.map(Some))?;
    let filter = filter.map_or(Some(None), |typed| typed.map(Some))?;
    let window = window.map_or(Some(None), |window| window.map(Some))?;
    match result_type(function, argument.as_ref().map(|typed| typed.data_type)) {
        Ok(data_type) => {
            let argument = argument.map(|typed| typed.text);
            let filter = filter.map(|typed| typed.text);
            Some((
                FeatureKind::Aggregate {
                    function,
                    argument,
                    parameters,
                    filter,
                    window,
                },
                data_type,
            ))
        }
        Err(error) => {
            reports.add(&text.part(name), "invalid-argument", error.to_string(), None);
            None
        }
    }
}

/// `hop` is the step of a window's tail: without a window it means nothing.
fn no_hop(hop: Option<&(Word<'_>, Node<'_>)>, reports: &mut Reports<'_>) -> Option<()> {
    let Some((word, _)) = hop else { return Some(()) };
    let help = "add `over …` to the expression, or remove `hop`";
    reports.add(
        &word.place,
        "misplaced-key",
        "`hop` is for windows",
        Some(help.to_owned()),
    );
    None
}

/// The most tiles that a window may keep in every entity's row.
const MAX_TILES: i64 = 4_096;

fn window(
    text: Text<'_>,
    width_us: i64,
    at: std::ops::Range<usize>,
    hop: Option<&(Word<'_>, Node<'_>)>,
    reports: &mut Reports<'_>,
) -> Option<Window> {
    let (hop_us, place) = match hop {
        Some((_, node)) => (micros("hop", *node, reports)?, node.place()),
        None => (default_hop(width_us), text.part(at)),
    };
    let width = duration::text(width_us);
    if hop_us == 0 || hop_us > width_us {
        let message = format!("a hop of {} does not fit a window of {width}", duration::text(hop_us));
        reports.add(&place, "invalid-hop", message, Some(format!("use 1s to {width}")));
        return None;
    }
    let tiles = width_us / hop_us;
    if tiles > MAX_TILES {
        let message = format!(
            "a window of {width} in hops of {} keeps {tiles} tiles for every entity; {MAX_TILES} is the most",
            duration::text(hop_us)
        );
        reports.add(
            &place,
            "too-many-tiles",
            message,
            Some("set a longer `hop`, or a shorter window".to_owned()),
        );
        return None;
    }
    Some(Window { width_us, hop_us })
}

/// From 12 days on a day, from 12 hours on an hour, from 1 hour on 5 minutes; below, a twelfth of the window in whole
/// microseconds, but at least a second and at most the window.
pub(super) fn default_hop(width_us: i64) -> i64 {
    const SECOND: i64 = 1_000_000;
    const HOUR: i64 = 3_600 * SECOND;
    const DAY: i64 = 24 * HOUR;
    match width_us {
        width if width >= 12 * DAY => DAY,
        width if width >= 12 * HOUR => HOUR,
        width if width >= HOUR => 300 * SECOND,
        width => (width / 12).max(SECOND).min(width),
    }
}

#[cfg(test)]
mod tests {
    use super::default_hop;
    use crate::definition::duration::parse;

    #[test]
    fn a_hop_follows_from_its_window() {
        let pairs = [
            ("1s", "1s"),
            ("12s", "1s"),
            ("24s", "2s"),
            ("30m", "150s"),
            ("1h", "5m"),
            ("11h", "5m"),
            ("12h", "1h"),
            ("7d", "1h"),
            ("12d", "1d"),
            ("365d", "1d"),
        ];
        for (width, hop) in pairs {
            assert_eq!(parse(width).map(default_hop), parse(hop), "{width}");
        }
        assert_eq!(default_hop(30_000_000), 2_500_000);
    }
}
