//! Bad events go to the dead-letter topic with reason, position and bytes; the stream goes on.

use crate::setup::{Boxed, embedded, event, events, keyed, snapshot, until};
use crate::store::FakeStore;
use base64::Engine;
use ondol_ingest::source::{NewRecord, Stream};
use ondol_ingest_api::wire::{DeadLetter, DeadLetterQuery};
use ondol_ingest_api::{Ingest, IngestError};
use std::collections::BTreeMap;
use std::sync::Arc;

fn bad() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("malformed", b"{\"id\":\"x\"".to_vec()),
        ("malformed", b"[1]".to_vec()),
        ("malformed", b"\xff\xfe".to_vec()),
        ("tombstone", b"".to_vec()),
        (
            "wrong-type",
            br#"{"id":"x","n":"many","ts":"2013-01-01T05:17:00Z"}"#.to_vec(),
        ),
        ("wrong-type", br#"{"id":"x","ts":"2013-01-01T05:17:00"}"#.to_vec()),
        ("missing-time", br#"{"id":"x","n":1}"#.to_vec()),
        ("missing-key", br#"{"n":1,"ts":"2013-01-01T05:17:00Z"}"#.to_vec()),
        ("future", br#"{"id":"x","ts":"2013-01-01T13:00:00.000001Z"}"#.to_vec()),
        (
            "too-large",
            format!("{{\"id\":\"{}\"}}", "x".repeat(1 << 20)).into_bytes(),
        ),
    ]
}

fn mixed(bad: &[(&str, Vec<u8>)]) -> Vec<NewRecord> {
    let mut records = Vec::new();
    for (index, (_, payload)) in bad.iter().enumerate() {
        records.push(keyed(&format!("g{index}"), event(index as i64)));
        records.push(keyed(&format!("b{index}"), payload.clone()));
    }
    records
}

async fn letters(ingest: &Boxed) -> Vec<DeadLetter> {
    ingest
        .service
        .dead_letters("s", DeadLetterQuery::default())
        .await
        .unwrap()
        .letters
        .into_iter()
        .map(|entry| entry.letter)
        .collect()
}

pub(crate) async fn each_bad_event_becomes_one_dead_letter(
    stream: Arc<dyn Stream>,
    topic: &str,
    bad: Vec<(&str, Vec<u8>)>,
) {
    let store = FakeStore::new(snapshot(topic));
    for record in mixed(&bad) {
        stream.append(topic, vec![record]).await.unwrap();
    }
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    until("the good events arrive", async || store.count() == bad.len()).await;
    until("the bad ones are counted", async || {
        ingest.service.status().await.unwrap()[0].dead_letters == bad.len() as u64
    })
    .await;
    let letters = letters(&ingest).await;
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for letter in &letters {
        *seen.entry(letter.reason.as_str()).or_default() += 1;
        assert!(!letter.detail.is_empty() && letter.source == "s");
        let kept = base64::engine::general_purpose::STANDARD
            .decode(&letter.payload_base64)
            .unwrap();
        let original = bad
            .iter()
            .any(|(reason, payload)| *reason == letter.reason && payload.starts_with(&kept));
        assert!(original, "{}: the original bytes are kept", letter.reason);
    }
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    bad.iter()
        .for_each(|(reason, _)| *expected.entry(reason).or_default() += 1);
    assert_eq!(seen, expected);
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_bad_event_becomes_one_dead_letter_on_the_embedded_stream() {
    let dir = tempfile::tempdir().unwrap();
    each_bad_event_becomes_one_dead_letter(embedded(dir.path()), "t", bad()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_bad_event_becomes_one_dead_letter_on_kafka() {
    // A broker takes a message of at most 1 MiB by default: too large for it is too large for us.
    let bad = bad().into_iter().filter(|(reason, _)| *reason != "too-large").collect();
    each_bad_event_becomes_one_dead_letter(crate::setup::kafka(), &crate::setup::topic(), bad).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redelivered_dead_letter_is_listed_once_and_the_limit_holds() {
    let dir = tempfile::tempdir().unwrap();
    let stream = embedded(dir.path());
    let store = FakeStore::new(snapshot("t"));
    stream
        .append("t", vec![keyed("k", "bad"), keyed("k", "worse"), keyed("k", event(0))])
        .await
        .unwrap();
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    until("the good event arrives", async || store.count() == 1).await;
    let partition = store
        .durable()
        .into_iter()
        .find(|place| place.next_offset == 3)
        .map(|place| place.partition);
    let position = letters(&ingest).await[0].position;
    store.forget_from(partition.unwrap_or(position.partition), 0);
    stream.append("t", vec![keyed("k", event(1))]).await.unwrap();
    until("all is delivered again", async || store.count() == 2).await;
    let listed = letters(&ingest).await;
    assert_eq!(
        listed.iter().map(|letter| letter.position.offset).collect::<Vec<_>>(),
        [1, 0],
        "newest first"
    );
    let one = ingest
        .service
        .dead_letters(
            "s",
            DeadLetterQuery {
                limit: 1,
                ..DeadLetterQuery::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(one.letters.len(), 1);
    let refused = ingest
        .service
        .dead_letters(
            "s",
            DeadLetterQuery {
                limit: 1001,
                ..DeadLetterQuery::default()
            },
        )
        .await;
    assert!(matches!(refused, Err(IngestError::InvalidRequest { .. })));
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_nothing_but_bad_events_still_moves_the_position() {
    let dir = tempfile::tempdir().unwrap();
    let stream = embedded(dir.path());
    let store = FakeStore::new(snapshot("t"));
    stream
        .append("t", (0..50).map(|_| keyed("k", "bad")).collect())
        .await
        .unwrap();
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    until("the position is durable", async || {
        store.durable().iter().any(|place| place.next_offset == 50)
    })
    .await;
    stream.append("t", events(0, 10)).await.unwrap();
    until("good events follow", async || store.count() == 10).await;
    ingest.stop().await;
}
