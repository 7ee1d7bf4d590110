//! The embedded log loses nothing that it acknowledged: kill -9, torn tails, damage.

use crate::setup::{embedded, keyed, record};
use ondol_ingest::source::embedded::{EmbeddedOptions, EmbeddedStream, Retention};
use ondol_ingest::source::scan::tail;
use ondol_ingest::source::{Stream, StreamError};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CHILD_DIR: &str = "ONDOL_TEST_CHILD_DIR";

/// Not a test of its own: the process that `kill_9_loses_nothing_acknowledged` kills.
#[test]
#[ignore = "run as a child process by another test"]
fn child_appends_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let start: u64 = std::env::var("ONDOL_TEST_CHILD_START").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = embedded(Path::new(&dir));
        for n in start.. {
            // Appends of different sizes, keyed and not, so that torn tails vary.
            let mut records = vec![record(n.to_string())];
            records
                .extend((0..n % 5).map(|k| keyed(&k.to_string(), format!("filler{}", "x".repeat(n as usize % 3000)))));
            stream.append("t", records).await.unwrap();
            let mut out = std::io::stdout().lock();
            writeln!(out, "ack {n}").unwrap();
            out.flush().unwrap();
        }
    });
}

fn run_and_kill(dir: &Path, start: u64, acks: usize) -> BTreeSet<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "durability::child_appends_until_it_is_killed",
            "--nocapture",
        ])
        .env(CHILD_DIR, dir)
        .env("ONDOL_TEST_CHILD_START", start.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let parse = |line: String| line.strip_prefix("ack ").and_then(|n| n.parse().ok());
    let mut acknowledged: BTreeSet<u64> = lines
        .by_ref()
        .map_while(Result::ok)
        .filter_map(parse)
        .take(acks)
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    // What was printed before the kill was acknowledged too; a last line may be torn.
    let mut rest: Vec<String> = lines.map_while(Result::ok).collect();
    rest.pop();
    acknowledged.extend(rest.into_iter().filter_map(parse));
    acknowledged
}

#[test]
fn kill_9_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..6 {
        acknowledged.extend(run_and_kill(dir.path(), round * 1_000_000, 40 + round as usize * 17));
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stored: BTreeSet<u64> = runtime.block_on(async {
        let tail = tail(embedded(dir.path()).as_ref(), "t", usize::MAX >> 1).await.unwrap();
        let number = |value: &[u8]| std::str::from_utf8(value).unwrap().parse().ok();
        tail.iter()
            .filter_map(|record| number(record.value.as_deref().unwrap()))
            .collect()
    });
    assert!(acknowledged.len() > 200);
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    assert_eq!(lost, Vec::<&u64>::new());
}

/// One segment with three appends of two records each.
async fn three_appends(dir: &Path) -> PathBuf {
    let stream = embedded(dir);
    for n in 0..3 {
        stream
            .append("t", vec![keyed("k", format!("a{n}")), keyed("k", format!("b{n}"))])
            .await
            .unwrap();
    }
    let ends = stream.ends("t").await.unwrap();
    let partition = ends.iter().find(|end| end.next_offset == 6).unwrap().partition;
    dir.join("t").join(partition.to_string()).join(format!("{:020}.log", 0))
}

async fn values(dir: &Path) -> Result<Vec<String>, StreamError> {
    let tail = tail(embedded(dir).as_ref(), "t", 100).await?;
    Ok(tail
        .iter()
        .map(|record| String::from_utf8(record.value.as_ref().unwrap().to_vec()).unwrap())
        .collect())
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_is_cut_off_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = three_appends(dir.path()).await;
    let whole = std::fs::read(&file).unwrap();
    let all = ["a0", "b0", "a1", "b1", "a2", "b2"];
    let frame = (whole.len() - 8) / 6;
    for cut in 8 + 4 * frame..=whole.len() {
        std::fs::write(&file, &whole[..cut]).unwrap();
        let kept = (cut - 8) / frame;
        assert_eq!(values(dir.path()).await.unwrap(), &all[..kept], "cut at byte {cut}");
        embedded(dir.path())
            .append("t", vec![keyed("k", "next")])
            .await
            .unwrap();
        assert_eq!(values(dir.path()).await.unwrap().last().unwrap(), "next");
    }
}

#[tokio::test]
async fn a_tail_of_zeros_or_garbage_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let file = three_appends(dir.path()).await;
    let whole = std::fs::read(&file).unwrap();
    let garbage: Vec<u8> = (0..5000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for tail in [vec![0; 4096], vec![0xff; 100], garbage] {
        std::fs::write(&file, [whole.clone(), tail].concat()).unwrap();
        assert_eq!(values(dir.path()).await.unwrap().len(), 6);
    }
}

#[tokio::test]
async fn damage_before_an_acknowledged_append_is_an_error_and_not_a_cut() {
    let dir = tempfile::tempdir().unwrap();
    let file = three_appends(dir.path()).await;
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = 8 + (bytes.len() - 8) / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    assert!(matches!(values(dir.path()).await, Err(StreamError::Corrupt { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "the file is left as it is");
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let first = EmbeddedStream::open(dir.path(), EmbeddedOptions::default()).unwrap();
    let second = EmbeddedStream::open(dir.path(), EmbeddedOptions::default());
    assert!(matches!(second, Err(StreamError::Unavailable(_))));
    drop(first);
    EmbeddedStream::open(dir.path(), EmbeddedOptions::default()).unwrap();
}

#[tokio::test]
async fn segments_roll_by_size_and_a_reopened_log_reads_them_all() {
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions {
        segment_bytes: 2000,
        partitions: 1,
        ..EmbeddedOptions::default()
    };
    let stream = EmbeddedStream::open(dir.path(), options).unwrap();
    for n in 0..100 {
        stream.append("t", vec![record(format!("{n:100}"))]).await.unwrap();
    }
    drop(stream);
    let files = std::fs::read_dir(dir.path().join("t/0")).unwrap().count();
    assert!(files > 5, "{files} segments");
    let stream = EmbeddedStream::open(dir.path(), options).unwrap();
    let tail = tail(&stream, "t", 1000).await.unwrap();
    assert_eq!(
        tail.iter().map(|r| r.position.offset).collect::<Vec<_>>(),
        (0..100).collect::<Vec<_>>()
    );
    assert_eq!(stream.append("t", vec![record("x")]).await.unwrap()[0].offset, 100);
}

#[tokio::test]
async fn retention_deletes_the_oldest_segments_and_offsets_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let retention = Retention {
        bytes: Some(6000),
        age: None,
    };
    let options = EmbeddedOptions {
        segment_bytes: 2000,
        partitions: 1,
        retention,
    };
    let stream = EmbeddedStream::open(dir.path(), options).unwrap();
    for n in 0..200 {
        stream.append("t", vec![record(format!("{n:100}"))]).await.unwrap();
    }
    let tail = tail(&stream, "t", 1000).await.unwrap();
    let offsets: Vec<_> = tail.iter().map(|record| record.position.offset).collect();
    assert!(offsets[0] > 100, "the oldest are gone: {offsets:?}");
    assert_eq!(offsets, (offsets[0]..200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_appends_are_all_kept_and_their_receipts_are_distinct() {
    let dir = tempfile::tempdir().unwrap();
    let stream = embedded(dir.path());
    let append = |n: usize| {
        let stream = std::sync::Arc::clone(&stream);
        async move { stream.append("t", vec![record(n.to_string())]).await.unwrap()[0] }
    };
    let positions = futures::future::join_all((0..200).map(append)).await;
    assert_eq!(positions.iter().collect::<std::collections::HashSet<_>>().len(), 200);
    let tail = tail(stream.as_ref(), "t", 1000).await.unwrap();
    for (n, position) in positions.iter().enumerate() {
        let record = tail.iter().find(|record| record.position == *position).unwrap();
        assert_eq!(record.value.as_deref(), Some(n.to_string().as_bytes()));
    }
}
