//! How two ordered lists of named, typed columns differ, a readable line each.

use ondol_vocabulary::DataType;

/// `card.n_1h` as an identifier: `card_n_1h`.
pub(crate) fn plain(name: &str) -> String {
    name.chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' })
        .collect()
}

/// A column: its name and, where known, its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) data_type: Option<DataType>,
}

impl Column {
    pub(crate) fn new(name: impl Into<String>, data_type: Option<DataType>) -> Self {
        Self {
            name: name.into(),
            data_type,
        }
    }

    /// `card.n_1h (i64)`.
    fn words(&self) -> String {
        match self.data_type {
            Some(data_type) => format!("{} ({data_type})", self.name),
            None => self.name.clone(),
        }
    }
}

/// What must change in `found` to be `expected`; empty when nothing must. Positions count from 1. A column that is in
/// both lists is `~` (moved or retyped), one that is missing is `-`, one too many is `+`.
pub(crate) fn differences(expected: &[Column], found: &[Column]) -> Vec<String> {
    let place = |columns: &[Column], name: &str| columns.iter().position(|column| column.name == name);
    // Columns that are in both lists, in each list's own order: only those whose turn differs have moved. Otherwise
    // one missing column at the front would be reported as all the others having moved.
    let common = |columns: &[Column], others: &[Column]| -> Vec<String> {
        columns
            .iter()
            .filter(|column| place(others, &column.name).is_some())
            .map(|column| column.name.clone())
            .collect()
    };
    let (expected_turns, found_turns) = (common(expected, found), common(found, expected));
    let mut lines = Vec::new();
    for (index, column) in expected.iter().enumerate() {
        let Some((at, other)) = place(found, &column.name).and_then(|at| found.get(at).map(|other| (at, other))) else {
            lines.push(format!("- expected {}: {}", index + 1, column.words()));
            continue;
        };
        let turn = |turns: &[String]| turns.iter().position(|name| *name == column.name);
        if turn(&expected_turns) != turn(&found_turns) {
            lines.push(format!(
                "~ moved {}: expected at {}, found at {}",
                column.words(),
                index + 1,
                at + 1
            ));
        }
        if let (Some(wanted), Some(got)) = (column.data_type, other.data_type)
            && wanted != got
        {
            lines.push(format!("~ retyped {}: expected {wanted}, found {got}", column.name));
        }
    }
    for (index, column) in found.iter().enumerate() {
        if place(expected, &column.name).is_none() {
            lines.push(format!("+ found {}: {}", index + 1, column.words()));
        }
    }
    let mut seen = std::collections::HashSet::new();
    for column in found {
        if !seen.insert(&column.name) {
            lines.push(format!("+ found twice: {}", column.words()));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(text: &str) -> Vec<Column> {
        let column = |part: &str| match part.split_once(':') {
            Some((name, data_type)) => Column::new(name, data_type.parse().ok()),
            None => Column::new(part, None),
        };
        text.split_whitespace().map(column).collect()
    }

    fn check(expected: &str, found: &str, lines: &[&str]) {
        assert_eq!(differences(&columns(expected), &columns(found)), lines);
    }

    #[test]
    fn equal_lists_do_not_differ() {
        check("a:i64 b:f64", "a:i64 b:f64", &[]);
        check("a:i64 b:f64", "a b", &[]);
    }

    #[test]
    fn a_missing_column_does_not_make_the_others_moved() {
        check("a:i64 b:f64 c:f64", "b:f64 c:f64", &["- expected 1: a (i64)"]);
    }

    #[test]
    fn an_extra_column_is_named_with_its_place() {
        check("a:i64", "x:bool a:i64", &["+ found 1: x (bool)"]);
    }

    #[test]
    fn swapped_and_retyped_columns_are_told_apart() {
        check(
            "a:i64 b:f64 c:i64",
            "b:f64 a:i64 c:f64",
            &[
                "~ moved a (i64): expected at 1, found at 2",
                "~ moved b (f64): expected at 2, found at 1",
                "~ retyped c: expected i64, found f64",
            ],
        );
    }

    #[test]
    fn a_column_that_stands_twice_is_reported() {
        check("a b", "a b a", &["+ found twice: a"]);
    }
}
