//! Small files in, few large ones out: the rows of one event date and generation, in the order that every file has.
//!
//! A stream that commits every second makes thousands of small files an hour; each costs every reader an open and every
//! listing an entry. Files of a date are merged by size: many of one size become one of the next, so that a row is
//! rewritten once per size and not at each merge. The commit takes the small files out and puts the large ones in
//! without changing data: positions, application transactions and the table's configuration stay what they are. It is
//! refused when one of the files is gone, and tried again when other commits came between; files that no commit refers
//! to are left to the vacuum, here as after a crash.
//!
//! Memory: one file being written (at most the target size and a row group), a batch and a row group of each file read.

use super::data_file::{DataFile, FileWriter};
use super::layout::FileNames;
use super::log_file::{Files, LogFile};
use super::merge::{Merge, Reader, Run};
use arrow::datatypes::DataType;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Sizes are told apart by this factor below the target.
const SIZES: u64 = 32;
/// A date that nothing was written to for so long is tidied up sooner.
const QUIET: Duration = Duration::from_secs(3600);

/// When small files are merged, and how large they may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionConfig {
    /// Files of about one size and of one event date that make a merge due; at least 2.
    pub files: usize,
    /// Size up to which files are merged, in bytes.
    pub target_bytes: u64,
}

impl Default for CompactionConfig {
    fn default() -> Self {
        Self {
            files: 32,
            target_bytes: 64 << 20,
        }
    }
}

/// Which files to merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Those of dates that have many of about one size.
    Due,
    /// All that are small.
    Everything,
}

/// Files to be merged into one: of one event date and one generation.
#[derive(Debug)]
pub(super) struct Merging {
    pub(super) date: String,
    pub(super) files: Vec<Arc<LogFile>>,
}

/// The merges that are due, the oldest dates first.
pub(super) fn plan(files: &Files, config: CompactionConfig, extent: Extent, now_ms: i64) -> Vec<Merging> {
    let mut dates: BTreeMap<(&str, &str), Vec<&Arc<LogFile>>> = BTreeMap::new();
    for file in files.values().filter(|file| is_small(file, config)) {
        if let (Some(date), Some(generation)) = (&file.date, &file.generation) {
            dates.entry((date, generation)).or_default().push(file);
        }
    }
    let mut merges = Vec::new();
    for ((date, _), mut small) in dates {
        small.sort_by(|a, b| (a.commits, &a.path).cmp(&(b.commits, &b.path)));
        let groups = match extent {
            Extent::Everything => vec![small],
            Extent::Due => due(small, config, now_ms),
        };
        for group in groups {
            merges.extend(packed(group, config).into_iter().map(|files| Merging {
                date: date.to_owned(),
                files,
            }));
        }
    }
    merges
}

/// A file of half the target is done: merged with another of its size it would pass the target.
fn is_small(file: &LogFile, config: CompactionConfig) -> bool {
    file.size < config.target_bytes / 2 && file.commits.1 != u64::MAX
}

/// The files of one date and generation that are to be merged now.
fn due(small: Vec<&Arc<LogFile>>, config: CompactionConfig, now_ms: i64) -> Vec<Vec<&Arc<LogFile>>> {
    let many = config.files.max(2);
    let newest = small.iter().map(|file| file.written_ms).max().unwrap_or_default();
    let quiet = now_ms.saturating_sub(newest) >= i64::try_from(QUIET.as_millis()).unwrap_or(i64::MAX);
    if quiet && small.len() >= (many / 4).max(2) {
        return vec![small];
    }
    let mut sizes: BTreeMap<u32, Vec<&Arc<LogFile>>> = BTreeMap::new();
    for file in small {
        sizes.entry(size_class(file.size, config)).or_default().push(file);
    }
    sizes.into_values().filter(|files| files.len() >= many).collect()
}

/// 0 for files just below the target, one more for each factor below that.
fn size_class(size: u64, config: CompactionConfig) -> u32 {
    let mut class = 0;
    let mut bound = config.target_bytes / SIZES;
    while size < bound && bound > 0 {
        class += 1;
        bound /= SIZES;
    }
    class
}

/// Neighbours together, up to the target size, and up to a bounded number: each is open while they are merged.
fn packed(files: Vec<&Arc<LogFile>>, config: CompactionConfig) -> Vec<Vec<Arc<LogFile>>> {
    let most = config.files.max(2).saturating_mul(4);
    let mut packs: Vec<Vec<Arc<LogFile>>> = Vec::new();
    let mut bytes = 0;
    for file in files {
        match packs.last_mut() {
            Some(pack) if pack.len() < most && bytes + file.size <= config.target_bytes => {
                bytes += file.size;
                pack.push(Arc::clone(file));
            }
            Some(_) | None => {
                bytes = file.size;
                packs.push(vec![Arc::clone(file)]);
            }
        }
    }
    packs.retain(|pack| pack.len() > 1);
    packs
}

/// Writes the rows of `merging` as one file. Deterministic, but for the file's name.
pub(super) async fn merge(reader: Reader, merging: &Merging) -> Result<DataFile, String> {
    let runs = merging.files.iter().map(|file| Run {
        file: Arc::clone(file),
        row_groups: None,
        least: file.least,
        partition: None,
    });
    let schema = Arc::clone(&reader.schema);
    let times = schema.fields().iter();
    let times: Vec<&str> = times
        .filter(|field| matches!(field.data_type(), DataType::Timestamp(_, _)))
        .map(|field| field.name().as_str())
        .collect();
    let mut file = FileWriter::new(Arc::clone(&schema), &times);
    let mut rows = Merge::new(reader, runs.collect());
    while let Some(rows) = rows.next().await? {
        file.write(&rows)?;
    }
    let first = merging
        .files
        .iter()
        .map(|file| file.commits.0)
        .min()
        .unwrap_or_default();
    let last = merging
        .files
        .iter()
        .map(|file| file.commits.1)
        .max()
        .unwrap_or_default();
    let path = FileNames::of_commits((first, last)).next(&merging.date);
    file.finish(path, &merging.date, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: CompactionConfig = CompactionConfig {
        files: 4,
        target_bytes: 1_000_000,
    };

    fn files(sizes: &[u64]) -> Files {
        let file = |(version, size): (usize, &u64)| {
            let path = format!("{version:03}");
            let file = LogFile {
                path: path.clone(),
                date: Some("2013-01-31".to_owned()),
                size: *size,
                written_ms: 0,
                rows: Some(1),
                generation: Some("g".to_owned()),
                commits: (version as u64, version as u64),
                least: (0, 0),
            };
            (path, Arc::new(file))
        };
        sizes.iter().enumerate().map(file).collect()
    }

    fn planned(sizes: &[u64], extent: Extent, now_ms: i64) -> Vec<usize> {
        let merges = plan(&files(sizes), CONFIG, extent, now_ms);
        merges.iter().map(|merging| merging.files.len()).collect()
    }

    #[test]
    fn few_files_are_left_alone_and_many_of_one_size_are_merged() {
        assert_eq!(planned(&[10; 3], Extent::Due, 0), [0; 0]);
        assert_eq!(planned(&[10; 4], Extent::Due, 0), [4]);
        assert_eq!(
            planned(&[10, 10, 40_000, 40_000], Extent::Due, 0),
            [0; 0],
            "two of a size"
        );
        assert_eq!(
            planned(&[40_000, 10, 10, 10, 10], Extent::Due, 0),
            [4],
            "the larger one is not rewritten"
        );
    }

    #[test]
    fn files_that_are_large_enough_are_never_rewritten() {
        assert_eq!(planned(&[600_000; 9], Extent::Everything, 0), [0; 0]);
    }

    #[test]
    fn merges_end_at_the_target_size_and_at_a_bounded_number_of_files() {
        assert_eq!(planned(&[300_000; 7], Extent::Everything, 0), [3, 3]);
        assert_eq!(planned(&[1; 33], Extent::Everything, 0), [16, 16]);
    }

    #[test]
    fn a_date_that_went_quiet_is_tidied_up_sooner() {
        let hour_ms = 3_600_000;
        assert_eq!(planned(&[10, 40_000], Extent::Due, hour_ms - 1), [0; 0]);
        assert_eq!(planned(&[10, 40_000], Extent::Due, hour_ms), [2]);
    }
}
