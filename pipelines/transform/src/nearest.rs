//! The nearest valid name to one that is not: what an error suggests.

/// The candidate that `name` most likely meant, if any is near enough to be worth suggesting. A name without its
/// qualifier (`n_1h` for `card.n_1h`) is near. Ties go to the first candidate, so that messages are stable.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    // A third of the name may be wrong: more than that and a suggestion is a guess.
    let allowed = (lower.chars().count() / 3).max(1);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let unqualified = candidate.rsplit_once('.').is_some_and(|(_, last)| last == name);
        let distance = match unqualified {
            true => 0,
            false => strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()),
        };
        let near = distance <= allowed && distance < candidate.chars().count();
        if near && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_of_the_pen_finds_its_name() {
        assert_eq!(nearest("amonut", ["amount", "account"]), Some("amount"));
        assert_eq!(nearest("Amount", ["amount"]), Some("amount"));
        assert_eq!(nearest("timestmp", ["string", "timestamp"]), Some("timestamp"));
    }

    #[test]
    fn a_name_without_its_qualifier_finds_the_qualified_one() {
        assert_eq!(nearest("n_1h", ["card.n_2h", "card.n_1h"]), Some("card.n_1h"));
    }

    #[test]
    fn a_different_word_finds_nothing() {
        assert_eq!(nearest("colour", ["amount", "card_id"]), None);
        assert_eq!(nearest("x", ["y"]), None);
    }
}
