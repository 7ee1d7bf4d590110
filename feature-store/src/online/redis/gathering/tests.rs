use super::*;
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// Answers key `k` with `k`, and nothing for a key that begins with `-`. A key that is `!` fails the command.
struct Echo {
    /// Commands wait here.
    gate: Semaphore,
    commands: AtomicUsize,
    most_keys: AtomicUsize,
}

impl Echo {
    fn new(open: usize) -> Self {
        Self {
            gate: Semaphore::new(open),
            commands: AtomicUsize::new(0),
            most_keys: AtomicUsize::new(0),
        }
    }
}

impl Source for Echo {
    async fn get(&self, keys: &[&Keys]) -> Answer {
        self.commands.fetch_add(1, Ordering::SeqCst);
        let sent: Vec<Vec<u8>> = keys.iter().flat_map(|keys| keys.iter().map(<[u8]>::to_vec)).collect();
        self.most_keys.fetch_max(sent.len(), Ordering::SeqCst);
        tokio::task::yield_now().await;
        let permit = self.gate.acquire().await.unwrap();
        permit.forget();
        if sent.iter().any(|key| key == b"!") {
            return Err(FeatureStoreError::Unavailable {
                detail: "as asked".to_owned(),
            });
        }
        let row = |key: Vec<u8>| (key.first() != Some(&b'-')).then(|| Bytes::from(key));
        Ok(sent.into_iter().map(row).collect())
    }
}

fn keys(names: &[String]) -> Keys {
    let mut keys = Keys::default();
    names
        .iter()
        .for_each(|name| keys.push(|bytes| bytes.extend_from_slice(name.as_bytes())));
    keys
}

fn expected(names: &[String]) -> Vec<Option<Bytes>> {
    let row = |name: &String| (!name.starts_with('-')).then(|| Bytes::from(name.clone()));
    names.iter().map(row).collect()
}

/// Lets every task go as far as it can.
async fn settle() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn keys_are_as_they_were_pushed() {
    let names = ["a", "", "bcd"].map(str::to_owned);
    let keys = keys(&names);
    assert_eq!(keys.len(), 3);
    assert_eq!(keys.iter().collect::<Vec<_>>(), [b"a".as_slice(), b"", b"bcd"]);
}

#[tokio::test]
async fn a_read_alone_goes_at_once_and_those_that_come_meanwhile_go_together() {
    let reads = Arc::new(Gathering::new(Echo::new(0)));
    let mut tasks = Vec::new();
    for number in 0..10 {
        let reads = Arc::clone(&reads);
        let names = [format!("k{number}")];
        tasks.push(tokio::spawn(async move {
            (reads.get(keys(&names)).await.unwrap(), expected(&names))
        }));
        settle().await;
    }
    let echo = &reads.inner.source;
    assert_eq!(echo.commands.load(Ordering::SeqCst), 2, "the others wait");
    echo.gate.add_permits(100);
    for task in tasks {
        let (found, expected) = task.await.unwrap();
        assert_eq!(found, expected);
    }
    settle().await;
    assert_eq!(echo.commands.load(Ordering::SeqCst), 3);
    assert_eq!(reads.inner.state().in_flight, 0);
}

#[tokio::test]
async fn one_that_gives_up_takes_nobody_with_it() {
    let reads = Arc::new(Gathering::new(Echo::new(0)));
    let mut tasks = Vec::new();
    for number in 0..6 {
        let reads = Arc::clone(&reads);
        let names = [format!("k{number}")];
        tasks.push(tokio::spawn(async move {
            (reads.get(keys(&names)).await.unwrap(), expected(&names))
        }));
        settle().await;
    }
    // The first two have commands of their own under way; the fourth waits.
    for place in [0, 1, 3] {
        tasks[place].abort();
    }
    settle().await;
    let echo = &reads.inner.source;
    echo.gate.add_permits(100);
    for (place, task) in tasks.into_iter().enumerate() {
        match task.await {
            Ok((found, expected)) => assert_eq!(found, expected),
            Err(_) => assert!([0, 1, 3].contains(&place)),
        }
    }
    settle().await;
    assert_eq!(reads.inner.state().in_flight, 0);
}

#[tokio::test]
async fn a_command_that_fails_fails_for_those_in_it_and_for_no_other() {
    let reads = Arc::new(Gathering::new(Echo::new(0)));
    let names = ["a", "b", "c", "!", "d"];
    let mut tasks = Vec::new();
    for name in names {
        let reads = Arc::clone(&reads);
        tasks.push(tokio::spawn(async move { reads.get(keys(&[name.to_owned()])).await }));
        settle().await;
    }
    reads.inner.source.gate.add_permits(100);
    let mut failed = Vec::new();
    for (task, name) in tasks.into_iter().zip(names) {
        if task.await.unwrap().is_err() {
            failed.push(name);
        }
    }
    assert_eq!(failed, ["c", "!", "d"]);
    assert!(reads.get(keys(&["e".to_owned()])).await.is_ok());
}

#[test]
fn a_runtime_that_stops_leaves_no_read_waiting() {
    let reads = Arc::new(Gathering::new(Echo::new(0)));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for number in 0..1_000 {
            let reads = Arc::clone(&reads);
            tokio::spawn(async move { reads.get(keys(&[format!("k{number}")])).await });
        }
        settle().await;
    });
    drop(runtime);
    let state = reads.inner.state();
    assert_eq!((state.in_flight, state.waiting.len()), (0, 0));
}

#[derive(Clone, Debug)]
struct Asked {
    names: Vec<String>,
    /// How often it is polled at most before it is given up.
    patience: Option<usize>,
    /// How long before it begins.
    delay: usize,
}

fn asked() -> impl Strategy<Value = Asked> {
    let name = prop_oneof![20 => "[a-z]{0,3}", 5 => "-[a-z]", 1 => Just("!".to_owned())];
    let patience = prop::option::weighted(0.3, 0..12usize);
    (
        prop::collection::vec(name, 0..KEYS_PER_COMMAND / 2),
        patience,
        0..10usize,
    )
        .prop_map(|(names, patience, delay)| Asked { names, patience, delay })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whoever_waits_has_the_answer_to_its_own_question(all in prop::collection::vec(asked(), 1..24), threads in 1..3usize) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).build().unwrap();
        let reads = Arc::new(Gathering::new(Echo::new(1 << 20)));
        runtime.block_on(async {
            let mut tasks = Vec::new();
            for Asked { names, patience, delay } in all {
                let reads = Arc::clone(&reads);
                tasks.push(tokio::spawn(async move {
                    for _ in 0..delay {
                        tokio::task::yield_now().await;
                    }
                    let mut read = Box::pin(reads.get(keys(&names)));
                    let mut polls = 0;
                    let answer = std::future::poll_fn(|context| {
                        polls += 1;
                        if patience.is_some_and(|patience| polls > patience) {
                            return std::task::Poll::Ready(None);
                        }
                        read.as_mut().poll(context).map(Some)
                    });
                    if let Some(Ok(found)) = answer.await {
                        assert_eq!(found, expected(&names));
                    }
                }));
            }
            for task in tasks {
                task.await.unwrap();
            }
            while reads.inner.state().in_flight > 0 {
                tokio::task::yield_now().await;
            }
        });
        let echo = &reads.inner.source;
        prop_assert!(reads.inner.state().waiting.is_empty());
        prop_assert!(echo.most_keys.load(Ordering::SeqCst) <= KEYS_PER_COMMAND);
    }
}
