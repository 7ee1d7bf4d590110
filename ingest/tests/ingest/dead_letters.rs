//! Dead letters listed, corrected, replayed and given up, on both streams.

use crate::setup::{Boxed, event, keyed, snapshot, topic, until};
use crate::store::FakeStore;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ondol_ingest::source::scan::tail;
use ondol_ingest::source::{Header, NewRecord, Stream};
use ondol_ingest_api::wire::{
    DeadLetterEntry, DeadLetterQuery, DiscardRequest, FixRequest, HandledReceipt, LetterPosition, LetterState,
    ReplayRequest,
};
use ondol_ingest_api::{Ingest, IngestError};
use std::sync::Arc;

type Open<'t> = &'t (dyn Fn() -> Arc<dyn Stream> + Sync);

fn wrong(n: i64) -> NewRecord {
    NewRecord {
        headers: vec![Header {
            name: "trace".to_owned(),
            value: Some("abc".into()),
        }],
        ..keyed("k", event(n).replace("\"n\":", "\"n\":\"x\",\"was\":"))
    }
}

async fn letters(ingest: &Boxed, all: bool) -> Vec<DeadLetterEntry> {
    let query = DeadLetterQuery {
        all,
        ..DeadLetterQuery::default()
    };
    ingest.service.dead_letters("s", query).await.unwrap().letters
}

async fn replay(ingest: &Boxed, positions: &[LetterPosition], change: impl Fn(&mut ReplayRequest)) -> HandledReceipt {
    let mut request = ReplayRequest {
        positions: positions.to_vec(),
        ..ReplayRequest::default()
    };
    change(&mut request);
    ingest.service.replay("s", request).await.unwrap()
}

async fn count(ingest: &Boxed, wanted: usize) -> Vec<DeadLetterEntry> {
    until(&format!("there are {wanted} letters"), async || {
        letters(ingest, true).await.len() == wanted
    })
    .await;
    letters(ingest, true).await
}

fn codes(receipt: &HandledReceipt) -> Vec<&str> {
    receipt.refused.iter().map(|refusal| refusal.code.as_str()).collect()
}

async fn a_letter_is_corrected_and_replayed_once(open: Open<'_>) {
    let topic = topic();
    let store = FakeStore::new(snapshot(&topic));
    let stream = open();
    stream
        .append(&topic, vec![keyed("k", event(0)), wrong(1), wrong(2)])
        .await
        .unwrap();
    let ingest = Boxed::start(Arc::clone(&stream), &store);
    ingest.ready().await;
    let all = count(&ingest, 2).await;
    let position = |entry: &DeadLetterEntry| LetterPosition(entry.letter.position);
    let (second, first) = (position(&all[0]), position(&all[1]));
    assert_eq!((first.0.offset, second.0.offset), (1, 2), "newest first");
    assert_eq!(all[0].letter.key_base64.as_deref(), Some("aw=="));
    assert_eq!(all[0].letter.headers[0].name, "trace");

    let refused = replay(&ingest, &[first], |_| {}).await;
    assert_eq!(codes(&refused), ["wrong-type"], "it would be refused again");
    assert_eq!(refused.handled, []);
    let fix = |payload: &str| FixRequest {
        position: first,
        payload_base64: STANDARD.encode(payload),
    };
    let still_bad = ingest.service.fix("s", fix("{}")).await.unwrap().still_bad.unwrap();
    assert_eq!(still_bad.code, "missing-time");
    assert_eq!(ingest.service.fix("s", fix(&event(1))).await.unwrap().still_bad, None);
    let dry = replay(&ingest, &[first, second], |request| request.dry_run = true).await;
    assert_eq!(
        (dry.handled.as_slice(), codes(&dry)),
        ([first].as_slice(), vec!["wrong-type"])
    );
    assert_eq!(store.count(), 1, "a dry run changes nothing");
    let unchecked = LetterPosition(ondol_vocabulary::SourcePosition {
        partition: first.0.partition,
        offset: 99,
    });
    let done = replay(&ingest, &[first, unchecked], |_| {}).await;
    assert_eq!(
        (done.handled.as_slice(), codes(&done)),
        ([first].as_slice(), vec!["unknown"])
    );
    until("the corrected event arrives", async || store.numbers() == [0, 1]).await;
    assert_eq!(
        codes(&replay(&ingest, &[first], |_| {}).await),
        ["handled"],
        "a second replay does nothing"
    );

    let records = tail(stream.as_ref(), &topic, 10).await.unwrap();
    let replayed = records.last().unwrap();
    assert_eq!(
        (replayed.position.offset, replayed.key.as_deref()),
        (3, Some(b"k".as_slice()))
    );
    let names: Vec<_> = replayed.headers.iter().map(|header| header.name.as_str()).collect();
    assert_eq!(names, ["trace", "ondol-replay-of"]);
    let states: Vec<LetterState> = letters(&ingest, true).await.iter().map(|entry| entry.state).collect();
    assert_eq!(states, [LetterState::Open, LetterState::Replayed]);
    assert_eq!(
        letters(&ingest, false).await.len(),
        1,
        "what is handled is not in the way"
    );
    ingest.stop().await;

    // What has become of the letters is in the stream: another worker knows.
    drop(stream);
    let ingest = Boxed::start(open(), &store);
    ingest.ready().await;
    assert_eq!(codes(&replay(&ingest, &[first], |_| {}).await), ["handled"]);
    let again = replay(&ingest, &[first], |request| request.again = true).await;
    assert_eq!(again.handled, [first]);
    until("it was replayed again", async || store.numbers() == [0, 1, 1]).await;
    ingest.stop().await;
}

async fn a_replay_that_is_bad_again_names_its_origin(open: Open<'_>) {
    let topic = topic();
    let store = FakeStore::new(snapshot(&topic));
    let stream = open();
    stream.append(&topic, vec![wrong(1)]).await.unwrap();
    let ingest = Boxed::start(stream, &store);
    ingest.ready().await;
    let first = LetterPosition(count(&ingest, 1).await[0].letter.position);
    let done = replay(&ingest, &[first], |request| request.unchecked = true).await;
    assert_eq!(done.handled, [first]);
    let all = count(&ingest, 2).await;
    let new = all.iter().find(|entry| entry.letter.position.offset == 1).unwrap();
    assert_eq!(new.letter.replay_of, Some(first.0));
    let discard = DiscardRequest {
        positions: vec![LetterPosition(new.letter.position)],
        reason: Some("a test".to_owned()),
    };
    assert_eq!(ingest.service.discard("s", discard).await.unwrap().handled.len(), 1);
    let summary = ingest.service.dead_letter_summary("s").await.unwrap();
    let states: Vec<_> = summary
        .states
        .iter()
        .map(|(state, count)| (state.as_str(), *count))
        .collect();
    assert_eq!(states, [("discarded", 1), ("replayed", 1)]);
    assert!(summary.open.is_empty());
    let fix = FixRequest {
        position: LetterPosition(first.0),
        payload_base64: STANDARD.encode(event(1)),
    };
    let error = ingest.service.fix("s", fix.clone()).await.unwrap_err();
    assert!(error.to_string().contains("is replayed"), "{error}");
    let unknown = FixRequest {
        position: "0:77".parse().unwrap(),
        ..fix
    };
    let error = ingest.service.fix("s", unknown).await.unwrap_err();
    assert!(matches!(error, IngestError::UnknownLetter { .. }));
    ingest.stop().await;
}

async fn all_of_many_letters_are_listed_page_by_page(open: Open<'_>) {
    let topic = topic();
    let store = FakeStore::new(snapshot(&topic));
    let stream = open();
    let bad = |n: i64| keyed(&n.to_string(), format!("bad {n}"));
    stream.append(&topic, (0..2500).map(bad).collect()).await.unwrap();
    let ingest = Boxed::start(stream, &store);
    ingest.ready().await;
    until("all are given up", async || {
        let summary = ingest.service.dead_letter_summary("s").await.unwrap();
        summary.open.get("malformed") == Some(&2500)
    })
    .await;
    let mut query = DeadLetterQuery {
        limit: 1000,
        ..DeadLetterQuery::default()
    };
    let mut seen = std::collections::BTreeSet::new();
    loop {
        let page = ingest.service.dead_letters("s", query.clone()).await.unwrap();
        for entry in page.letters {
            let message = STANDARD.decode(entry.letter.payload_base64).unwrap();
            assert!(seen.insert(String::from_utf8(message).unwrap()));
        }
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 2500);
    ingest.stop().await;
}

on_both_streams!(
    a_letter_is_corrected_and_replayed_once,
    a_replay_that_is_bad_again_names_its_origin,
    all_of_many_letters_are_listed_page_by_page,
);
