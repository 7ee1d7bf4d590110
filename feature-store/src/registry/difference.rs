//! What differs between two versions of a definition, as lines for people.

use super::catalog::Definition;
use ondol_vocabulary::definition::Field;
use ondol_vocabulary::{
    Arrival, Audit, DecisionPolicy, FeatureDefault, FeatureDefinition, ModelDefinition, ModelPolicy, SourceDefinition,
    SourceOrigin, StreamFormat, ViewDefinition,
};
use xxhash_rust::xxh3::xxh3_64;

/// A definition as labelled values, in the order shown: comparing two of these lists gives the lines.
type Traits = Vec<(String, String)>;

/// Lines such as `feature spend_24h: sum(amount) over 12h → sum(amount) over 24h`. `before` none: what a new one has.
pub(super) fn lines(before: Option<&Definition>, after: &Definition) -> Vec<String> {
    let after = traits(after);
    let Some(before) = before.map(traits) else {
        return after
            .into_iter()
            .map(|(label, value)| format!("{label}: {value}"))
            .collect();
    };
    let find = |list: &Traits, label: &str| list.iter().find(|entry| entry.0 == label).map(|entry| entry.1.clone());
    let mut lines = Vec::new();
    for (label, value) in &after {
        match find(&before, label) {
            Some(old) if old == *value => {}
            Some(old) => lines.push(format!("{label}: {old} → {value}")),
            None => lines.push(format!("{label}: added: {value}")),
        }
    }
    for (label, old) in &before {
        if find(&after, label).is_none() {
            lines.push(format!("{label}: removed (was {old})"));
        }
    }
    if lines.is_empty() && before != after {
        lines.push("order of columns or features".to_owned());
    }
    lines
}

fn traits(definition: &Definition) -> Traits {
    match definition {
        Definition::Source(source) => of_source(source),
        Definition::View(view) => of_view(view),
        Definition::Model(model) => of_model(model),
    }
}

fn of_source(source: &SourceDefinition) -> Traits {
    let origin = match &source.origin {
        SourceOrigin::Stream { topic, format, .. } => ("stream", format!("{topic} ({})", format.name())),
        SourceOrigin::Table { location, format } => (
            "table",
            format!("{location} ({})", format!("{format:?}").to_lowercase()),
        ),
    };
    let arrival = match source.arrival {
        Arrival::Ingest => "when ingested".to_owned(),
        Arrival::EventTime { delay_us: 0 } => "at event time".to_owned(),
        Arrival::EventTime { delay_us } => format!("at event time + {}", duration(delay_us)),
    };
    let mut traits = vec![
        (origin.0.to_owned(), origin.1),
        ("time".to_owned(), source.time.clone()),
        ("late".to_owned(), duration(source.late_us)),
        ("arrival".to_owned(), arrival),
    ];
    let SourceOrigin::Stream { format, shape, .. } = &source.origin else {
        traits.extend(fields("column", &source.schema));
        return traits;
    };
    traits.extend(of_schema(format));
    let options = shape.options().into_iter();
    traits.extend(options.map(|(key, value)| (key.to_owned(), value)));
    traits.extend(source.schema.iter().map(|field| {
        let place = shape.columns.get(&field.name);
        let place = place.map_or(String::new(), |reading| format!(" from {reading}"));
        (format!("column {}", field.name), format!("{}{place}", field.data_type))
    }));
    traits
}

/// The schema that comes with the source: too long to show, so that its length and its message tell it.
fn of_schema(format: &StreamFormat) -> Traits {
    let schema = |text: &String| {
        let digest = xxh3_64(text.as_bytes());
        let lines = text.lines().count();
        (
            "message schema".to_owned(),
            format!("{lines} lines, digest {digest:016x}"),
        )
    };
    match format {
        StreamFormat::Json => Traits::new(),
        StreamFormat::Avro { schema: text } => text.iter().map(schema).collect(),
        StreamFormat::Protobuf { schema: text, message } => {
            let message = message.iter().map(|name| ("message".to_owned(), name.clone()));
            text.iter().map(schema).chain(message).collect()
        }
    }
}

fn of_view(view: &ViewDefinition) -> Traits {
    let key: Vec<String> = view
        .key
        .iter()
        .map(|field| format!("{} ({})", field.name, field.data_type))
        .collect();
    let mut traits = vec![
        ("from".to_owned(), view.source.clone()),
        ("key".to_owned(), key.join(", ")),
    ];
    traits.extend(view.filter.iter().map(|filter| ("where".to_owned(), filter.clone())));
    traits.extend(view.ttl_us.iter().map(|ttl| ("ttl".to_owned(), duration(*ttl))));
    traits.extend(features("feature", &view.features));
    traits
}

fn of_model(model: &ModelDefinition) -> Traits {
    let mut traits: Traits = fields("input", &model.inputs).collect();
    let vector = model
        .features
        .iter()
        .map(|feature| (format!("vector entry {}", feature.name), feature.data_type.to_string()));
    traits.extend(vector);
    traits.extend(features("derived", &model.derived));
    let (policy, decisions) = (&model.policy, &model.decisions);
    let usual = ModelPolicy::default();
    let remedies = [
        ("policy stale", policy.stale, usual.stale),
        ("policy missing", policy.missing, usual.missing),
        ("policy unavailable", policy.unavailable, usual.unavailable),
        ("policy changed", policy.changed, usual.changed),
    ];
    let unusual = remedies.into_iter().filter(|(_, remedy, usual)| remedy != usual);
    traits.extend(unusual.map(|(name, remedy, _)| (name.to_owned(), remedy.to_string())));
    traits.extend(
        policy
            .lookup_ms
            .map(|ms| ("policy lookup".to_owned(), format!("{ms}ms"))),
    );
    if decisions.sample_ppm != DecisionPolicy::EVERY {
        let percent = f64::from(decisions.sample_ppm) / 10_000.0;
        traits.push(("decisions sample".to_owned(), format!("{percent}%")));
    }
    if decisions.audit == Audit::Required {
        traits.push(("decisions audit".to_owned(), "required".to_owned()));
    }
    traits
}

fn fields<'a>(label: &'a str, fields: &'a [Field]) -> impl Iterator<Item = (String, String)> + 'a {
    fields
        .iter()
        .map(move |field| (format!("{label} {}", field.name), field.data_type.to_string()))
}

/// A feature's line shows its expression; the type and the compiled window only when the text alone can't tell.
fn features<'a>(label: &'a str, features: &'a [FeatureDefinition]) -> impl Iterator<Item = (String, String)> + 'a {
    features.iter().map(move |feature| {
        let default = match &feature.default {
            Some(FeatureDefault(default)) => format!(", default {default}"),
            None => String::new(),
        };
        (
            format!("{label} {}", feature.name),
            format!("{} ({}{default})", feature.expression, feature.data_type),
        )
    })
}

/// `90s`, `5m`, `36h`, `30d`: the largest unit that divides it.
pub(super) fn duration(micros: i64) -> String {
    const UNITS: [(i64, &str); 5] = [
        (86_400_000_000, "d"),
        (3_600_000_000, "h"),
        (60_000_000, "m"),
        (1_000_000, "s"),
        (1_000, "ms"),
    ];
    if micros == 0 {
        return "0s".to_owned();
    }
    match UNITS.into_iter().find(|(size, _)| micros % size == 0) {
        Some((size, unit)) => format!("{}{unit}", micros / size),
        None => format!("{micros}us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_in_their_largest_unit() {
        let texts = [0, 90_000_000, 300_000_000, 2_592_000_000_000, 1_500].map(duration);
        assert_eq!(texts, ["0s", "90s", "5m", "30d", "1500us"]);
    }
}
