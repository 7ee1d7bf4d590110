//! The name that a wrong one most likely meant.

/// The candidate nearest to `name`, if a third of it or less is wrong.
pub(crate) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    let allowed = (name.chars().count() / 3).max(1);
    let distances = candidates.map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate));
    let best = distances.min_by_key(|(distance, _)| *distance)?;
    (best.0 <= allowed).then(|| best.1.to_owned())
}
