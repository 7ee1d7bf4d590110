//! The stretch of time that a run is about, and the places in a request's texts where it stands.

use ondol_pipelines_api::PipelinesError;
use ondol_pipelines_api::wire::RecurringTrainingSetRequest;
use ondol_vocabulary::EventTime;
use ondol_wire::ContractError;

/// What can stand in braces.
const PLACES: [&str; 4] = ["start", "end", "start_date", "end_date"];

/// From one run of a schedule to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Period {
    /// Its first moment.
    pub start: Option<EventTime>,
    /// The first moment after it.
    pub end: Option<EventTime>,
}

impl Period {
    /// The one that `request` names.
    pub(crate) fn of(request: &RecurringTrainingSetRequest) -> Self {
        Self {
            start: request.start,
            end: request.end,
        }
    }

    /// `text` of `field` with moments and dates in their places.
    pub(super) fn fill(&self, field: &str, text: &str) -> Result<String, PipelinesError> {
        let mut filled = String::with_capacity(text.len());
        for part in parts(text) {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Place(name) => {
                    let moment = if name.starts_with("start") {
                        self.start
                    } else {
                        self.end
                    };
                    let moment = moment.ok_or_else(|| {
                        PipelinesError::invalid(format!(
                            "`{field}` has {{{name}}}, and the request names no such moment: give `start` and `end`, or let \
                             a schedule submit it"
                        ))
                    })?;
                    let text = moment.to_string();
                    let date = text.split('T').next().unwrap_or(&text);
                    filled.push_str(if name.ends_with("_date") { date } else { &text });
                }
            }
        }
        Ok(filled)
    }
}

/// Whether `text` differs from period to period.
pub(super) fn has_places(text: &str) -> bool {
    parts(text).any(|part| matches!(part, Part::Place(_)))
}

/// Refuses braces around what is no place.
pub(super) fn check(field: &str, text: &str) -> Result<(), PipelinesError> {
    for (at, _) in text.match_indices('{') {
        let rest = text.get(at + 1..).unwrap_or_default();
        let name = rest.split('}').next().unwrap_or(rest);
        // Braces of something else, such as JSON in a query.
        let is_word = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if is_word && rest.len() > name.len() && !PLACES.contains(&name) {
            let known = PLACES.map(|place| format!("{{{place}}}")).join(", ");
            return Err(PipelinesError::invalid(format!(
                "`{field}` has {{{name}}}, which stands for nothing: there are {known}"
            )));
        }
    }
    Ok(())
}

enum Part<'t> {
    Text(&'t str),
    Place(&'t str),
}

fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let place = |at: usize| {
            let inside = rest.get(at + 1..)?;
            PLACES
                .into_iter()
                .find(|place| inside.strip_prefix(*place).is_some_and(|after| after.starts_with('}')))
        };
        let found = rest.match_indices('{').find_map(|(at, _)| Some((at, place(at)?)));
        let (part, length) = match found {
            Some((0, place)) => (Part::Place(place), place.len() + 2),
            Some((at, _)) => (Part::Text(rest.get(..at)?), at),
            None => (Part::Text(rest), rest.len()),
        };
        rest = rest.get(length..)?;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn november() -> Period {
        let moment = |text| Some(EventTime::parse(text).unwrap());
        Period {
            start: moment("2026-11-20T03:30:00Z"),
            end: moment("2026-11-21T03:30:00Z"),
        }
    }

    #[test]
    fn moments_and_dates_stand_where_they_are_named_and_other_braces_stay() {
        for (text, expected) in [
            (
                "s3://lake/{end_date}/train.parquet",
                "s3://lake/2026-11-21/train.parquet",
            ),
            (
                "ts >= timestamp '{start}' and ts < timestamp '{end}'",
                "ts >= timestamp '2026-11-20T03:30:00Z' and ts < timestamp '2026-11-21T03:30:00Z'",
            ),
            ("{start_date}{end_date}", "2026-11-202026-11-21"),
            ("'{\"a\": 1}' {", "'{\"a\": 1}' {"),
            ("", ""),
        ] {
            check("output", text).unwrap();
            assert_eq!(november().fill("output", text).unwrap(), expected);
        }
    }

    #[test]
    fn what_stands_for_nothing_is_told_with_what_there_is() {
        let error = check("output", "a/{date}/x.parquet").unwrap_err().to_string();
        assert!(
            error.contains("`output`") && error.contains("{date}") && error.contains("{end_date}"),
            "{error}"
        );
        let error = Period::default()
            .fill("spine", "a/{end}.parquet")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`spine`") && error.contains("`start` and `end`"),
            "{error}"
        );
        assert!(has_places("{end}") && !has_places("{x}"));
    }
}
