//! Which event dates have changed since statistics were last computed.

use super::DAY_US;
use crate::error::JobError;
use crate::table::commits::commits;
use crate::table::{Scan, Table};
use ondol_vocabulary::SourceDefinition;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What statistics were computed of, as far as a later state must be told from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// The table and its columns: when these change, everything is computed anew.
    of: Of,
    extent: Extent,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Of {
    location: String,
    lineage: Option<String>,
    time: String,
    /// Name and type.
    columns: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Extent {
    /// A Delta table's version.
    Version(i64),
    /// Files without a log.
    Files(BTreeMap<String, FileDays>),
}

/// A file: what changes when it is written again, and its first and last day, where known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileDays {
    print: String,
    days: Option<(i64, i64)>,
}

/// What has to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// Every date.
    Everything,
    /// These, in days since 1970.
    Days(BTreeSet<i64>),
}

/// A file may hold rows of so many days; of more, everything is read.
const MOST_DAYS: i64 = 36_525;

/// What has changed in `table` since `known`, and what is known once that was read.
pub(super) async fn changed(
    table: &Table,
    source: &SourceDefinition,
    known: Option<&Known>,
    batch_rows: usize,
) -> Result<(Changed, Known), JobError> {
    let of = Of {
        location: table.location.clone(),
        lineage: table.lineage.clone(),
        time: source.time.clone(),
        columns: (source.schema.iter())
            .map(|field| (field.name.clone(), field.data_type.name().to_owned()))
            .collect(),
    };
    let extent = match table.version() {
        Some(version) => Extent::Version(version),
        None => Extent::Files(files(table, source, batch_rows).await?),
    };
    let changed = match known.filter(|known| known.of == of) {
        None => Changed::Everything,
        Some(known) => match (&known.extent, &extent) {
            (Extent::Version(before), Extent::Version(now)) if before <= now => {
                since(&table.location, *before, *now, &source.time).await?
            }
            (Extent::Files(before), Extent::Files(now)) => between(before, now),
            _ => Changed::Everything,
        },
    };
    Ok((changed, Known { of, extent }))
}

/// By the commits after `before`. One that only arranges rows anew changes nothing.
async fn since(place: &str, before: i64, now: i64, time: &str) -> Result<Changed, JobError> {
    let Some(commits) = commits(place, before.saturating_add(1)..=now).await? else {
        return Ok(Changed::Everything);
    };
    let mut days = BTreeSet::new();
    for commit in commits {
        for file in &commit.changed {
            if !add(&mut days, file.time_bounds(time).map(day_bounds)) {
                return Ok(Changed::Everything);
            }
        }
    }
    Ok(Changed::Days(days))
}

fn between(before: &BTreeMap<String, FileDays>, now: &BTreeMap<String, FileDays>) -> Changed {
    let differs = |other: &BTreeMap<String, FileDays>, path: &String, file: &FileDays| {
        other.get(path).is_none_or(|held| held.print != file.print)
    };
    let gone = before.iter().filter(|(path, file)| differs(now, path, file));
    let come = now.iter().filter(|(path, file)| differs(before, path, file));
    let mut days = BTreeSet::new();
    for (_, file) in gone.chain(come) {
        if !add(&mut days, file.days) {
            return Changed::Everything;
        }
    }
    Changed::Days(days)
}

/// Adds the days of a file; false if they are not known.
fn add(days: &mut BTreeSet<i64>, bounds: Option<(i64, i64)>) -> bool {
    match bounds {
        Some((first, last)) if last.saturating_sub(first) < MOST_DAYS => {
            days.extend(first..=last);
            true
        }
        _ => false,
    }
}

fn day_bounds((least, greatest): (i64, i64)) -> (i64, i64) {
    (least.div_euclid(DAY_US), greatest.div_euclid(DAY_US))
}

/// The files of a table without a log, with the days that their footers tell.
async fn files(
    table: &Table,
    source: &SourceDefinition,
    batch_rows: usize,
) -> Result<BTreeMap<String, FileDays>, JobError> {
    let (schema, time) = (source.schema.clone(), source.time.clone());
    let scan = Scan::new(table.clone(), schema, time, true, batch_rows.max(1));
    let bounds = scan.file_bounds().await?;
    let files = table.files.iter().zip(bounds).map(|(file, bounds)| {
        let file_days = FileDays {
            print: file.fingerprint(),
            days: bounds.map(day_bounds),
        };
        (file.path().to_owned(), file_days)
    });
    Ok(files.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path, a print, and the first and last day.
    type File<'a> = (&'a str, &'a str, Option<(i64, i64)>);

    fn files(files: &[File<'_>]) -> BTreeMap<String, FileDays> {
        let file = |(path, print, days): &File<'_>| {
            let print = (*print).to_owned();
            ((*path).to_owned(), FileDays { print, days: *days })
        };
        files.iter().map(file).collect()
    }

    #[test]
    fn days_of_files_that_came_went_or_changed_are_read() {
        let before = files(&[("a", "1", Some((1, 2))), ("b", "1", Some((5, 5))), ("c", "1", None)]);
        let now = files(&[("a", "2", Some((2, 3))), ("c", "1", None), ("d", "1", Some((9, 9)))]);
        assert_eq!(between(&before, &now), Changed::Days(BTreeSet::from([1, 2, 3, 5, 9])));
        assert_eq!(between(&now, &now), Changed::Days(BTreeSet::new()));
    }

    #[test]
    fn a_file_of_unknown_days_makes_everything_be_read() {
        let one = files(&[("c", "1", None)]);
        assert_eq!(between(&one, &files(&[])), Changed::Everything);
        let ages = files(&[("c", "1", Some((0, MOST_DAYS)))]);
        assert_eq!(between(&files(&[]), &ages), Changed::Everything);
    }
}
