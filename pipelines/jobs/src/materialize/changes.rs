//! What became of a Delta table since a view was last given its rows, from its commits. Pure: commits in, files out.
//!
//! Rows may be given to a view any number of times: a table's view keeps the latest row of an entity, and the latest of
//! the same rows is the same. So it is enough to name files of the present version that hold at least every new row, and
//! a compaction that mixes new rows with old ones costs a second reading, nothing more. What no further rows can mend is
//! a row that is gone.

use crate::table::commits::Commit;
use std::collections::HashSet;

/// What a view needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// The rows of these files of the present version; of none, if nothing is new.
    Files(HashSet<String>),
    /// Everything anew: the commit of this version took rows away that the view may have been given.
    Rewritten(i64),
}

/// What a view needs that was given the rows of all commits before `commits`. A run that did not end may have given it
/// some of those up to version `begun`.
pub(super) fn since(commits: &[Commit], begun: i64) -> Since {
    // Files whose rows are new, or among which there are new ones; and those of them whose rows nobody has been given.
    let mut wanted: HashSet<String> = HashSet::new();
    let mut unseen: HashSet<String> = HashSet::new();
    for commit in commits {
        for path in &commit.removed {
            if !unseen.remove(path) {
                return Since::Rewritten(commit.version);
            }
            wanted.remove(path);
        }
        let replaced = || commit.replaced.iter();
        let any_wanted = replaced().any(|path| wanted.contains(path));
        let all_unseen = replaced().all(|path| unseen.contains(path));
        for path in &commit.replaced {
            wanted.remove(path);
            unseen.remove(path);
        }
        if any_wanted {
            wanted.extend(commit.rearranged.iter().cloned());
            if all_unseen {
                unseen.extend(commit.rearranged.iter().cloned());
            }
        }
        wanted.extend(commit.added.iter().cloned());
        if commit.version > begun {
            unseen.extend(commit.added.iter().cloned());
        }
    }
    Since::Files(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(paths: &str) -> HashSet<String> {
        paths.split_whitespace().map(str::to_owned).collect()
    }

    /// `+` adds, `-` removes, `>` replaces and `=` is what holds the replaced rows.
    fn commits(lines: &[&str]) -> Vec<Commit> {
        let commit = |(version, line): (i64, &&str)| {
            let marked = |mark: char| {
                let words = line.split_whitespace().filter_map(|word| word.strip_prefix(mark));
                words.map(str::to_owned).collect()
            };
            Commit {
                version,
                added: marked('+'),
                rearranged: marked('='),
                removed: marked('-'),
                replaced: marked('>'),
                changed: Vec::new(),
            }
        };
        (1..).zip(lines).map(commit).collect()
    }

    #[track_caller]
    fn check(lines: &[&str], begun: i64, expected: &str) {
        let expected = match expected.strip_prefix("rewritten ") {
            Some(version) => Since::Rewritten(version.parse().unwrap()),
            None => Since::Files(set(expected)),
        };
        assert_eq!(since(&commits(lines), begun), expected);
    }

    #[test]
    fn what_was_added_is_new() {
        check(&[], 0, "");
        check(&["+a", "+b +c"], 0, "a b c");
    }

    #[test]
    fn a_compaction_of_old_files_is_skipped() {
        check(&[">x >y =z", "+a"], 0, "a");
        check(&["=x"], 0, "");
    }

    #[test]
    fn new_rows_are_found_where_a_compaction_has_put_them() {
        check(&["+a", ">a >x =z"], 0, "z");
        check(&["+a", ">a >x =z", "+b", ">z >b =y"], 0, "y");
    }

    #[test]
    fn rows_that_are_gone_make_the_table_another() {
        check(&["+a", "-x"], 0, "rewritten 2");
        check(&["-x +y"], 0, "rewritten 1");
        check(&["+a", ">a >x =z", "-z +y"], 0, "rewritten 3");
    }

    #[test]
    fn rows_that_came_and_went_unseen_do_not() {
        check(&["+a", "-a +b"], 0, "b");
        check(&["+a +c", ">a >c =z", "-z +y"], 0, "y");
        check(&["+a", "-a"], 1, "rewritten 2");
    }
}
