//! Merged requests answer as they would alone.

use super::*;
use crate::runtime::signature::Slot;
use crate::runtime::tensor::{ElementType, TensorData};
use std::sync::Mutex;

/// Doubles its input, waits for a permit first, and fails on a negative number.
#[derive(Debug)]
struct Doubler {
    signature: Signature,
    gate: Semaphore,
    runs: Mutex<Vec<usize>>,
    /// Whether it answers one value for all rows.
    scalar: bool,
}

#[async_trait]
impl Runtime for Doubler {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    async fn run(&self, rows: usize, inputs: Vec<NamedTensor>, _: Instant) -> Result<Vec<NamedTensor>, RuntimeError> {
        self.gate.acquire().await.unwrap().forget();
        self.runs.lock().unwrap().push(rows);
        let NamedTensor { shape, data, .. } = inputs.into_iter().next().unwrap();
        let TensorData::F32(values) = data else {
            panic!("no floats")
        };
        if values.iter().any(|value| *value < 0.0) {
            return Err(RuntimeError::Run("negative".to_owned()));
        }
        let values: Vec<f32> = values.iter().map(|value| value * 2.0).collect();
        let name = "y".to_owned();
        Ok(vec![if self.scalar {
            let data = TensorData::F32(vec![values.iter().sum()]);
            NamedTensor {
                name,
                shape: vec![1],
                data,
            }
        } else {
            let data = TensorData::F32(values);
            NamedTensor { name, shape, data }
        }])
    }
}

fn doubler(permits: usize, scalar: bool) -> Arc<Doubler> {
    let signature = Signature {
        inputs: vec![Slot::tensor("x", ElementType::F32, vec![-1, 2])],
        outputs: vec![Slot::tensor("y", ElementType::F32, vec![-1, 2])],
        features: None,
    };
    Arc::new(Doubler {
        signature,
        gate: Semaphore::new(permits),
        runs: Mutex::default(),
        scalar,
    })
}

fn batched(inner: &Arc<Doubler>, max_rows: usize, max_delay_ms: u64) -> Arc<Batched> {
    let limits = BatchLimits { max_rows, max_delay_ms };
    Arc::new(Batched::new(Arc::clone(inner) as _, limits, 1))
}

fn tensor(rows: usize, width: usize, first: f32) -> Vec<NamedTensor> {
    let shape = vec![i64::try_from(rows).unwrap(), i64::try_from(width).unwrap()];
    let data = (0..rows * width).map(|place| first + place as f32).collect();
    vec![NamedTensor {
        name: "x".to_owned(),
        shape,
        data: TensorData::F32(data),
    }]
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

type Running = JoinHandle<Result<Vec<NamedTensor>, RuntimeError>>;

/// Starts requests in order: each is in the queue before the next one is sent.
async fn start(batched: &Arc<Batched>, inputs: Vec<(usize, Vec<NamedTensor>)>) -> Vec<Running> {
    let mut running = Vec::new();
    for (rows, inputs) in inputs {
        let batched = Arc::clone(batched);
        running.push(tokio::spawn(async move { batched.run(rows, inputs, later()).await }));
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    running
}

fn values(outputs: &[NamedTensor]) -> (Vec<i64>, Vec<f32>) {
    match &outputs[0].data {
        TensorData::F32(values) => (outputs[0].shape.clone(), values.clone()),
        other => panic!("no floats: {other:?}"),
    }
}

#[tokio::test]
async fn requests_that_wait_together_run_together_and_get_their_own_rows() {
    let inner = doubler(0, false);
    let batched = batched(&inner, 8, 0);
    // The first occupies the only run, so the others gather.
    let running = start(
        &batched,
        (0..4).map(|place| (2, tensor(2, 2, place as f32 * 100.0))).collect(),
    )
    .await;
    inner.gate.add_permits(100);
    for (place, running) in running.into_iter().enumerate() {
        let outputs = running.await.unwrap().unwrap();
        let alone = tensor(2, 2, place as f32 * 100.0);
        let TensorData::F32(expected) = &alone[0].data else {
            unreachable!()
        };
        let expected: Vec<f32> = expected.iter().map(|value| value * 2.0).collect();
        assert_eq!(values(&outputs), (vec![2, 2], expected));
    }
    assert_eq!(*inner.runs.lock().unwrap(), [2, 6]);
}

#[tokio::test]
async fn a_batch_never_has_more_rows_than_it_may_and_keeps_the_order() {
    let inner = doubler(0, false);
    let batched = batched(&inner, 4, 0);
    let running = start(
        &batched,
        [1, 3, 2, 1, 3, 9].map(|rows| (rows, tensor(rows, 2, 0.0))).into(),
    )
    .await;
    inner.gate.add_permits(100);
    for running in running {
        running.await.unwrap().unwrap();
    }
    let mut runs = inner.runs.lock().unwrap().clone();
    // The one of 9 rows is larger than a batch, and ran on its own at once.
    let large = runs.iter().position(|rows| *rows == 9).unwrap();
    runs.remove(large);
    assert_eq!(runs, [1, 3, 3, 3]);
}

#[tokio::test]
async fn who_gave_up_is_left_out() {
    let inner = doubler(0, false);
    let batched = batched(&inner, 8, 0);
    let running = start(
        &batched,
        vec![(1, tensor(1, 2, 0.0)), (2, tensor(2, 2, 0.0)), (3, tensor(3, 2, 0.0))],
    )
    .await;
    running[1].abort();
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    inner.gate.add_permits(100);
    let mut running = running.into_iter();
    running.next().unwrap().await.unwrap().unwrap();
    running.nth(1).unwrap().await.unwrap().unwrap();
    assert_eq!(*inner.runs.lock().unwrap(), [1, 3]);
}

#[tokio::test]
async fn one_bad_request_does_not_fail_the_others() {
    let inner = doubler(0, false);
    let batched = batched(&inner, 8, 0);
    let running = start(
        &batched,
        vec![(1, tensor(1, 2, 0.0)), (1, tensor(1, 2, -9.0)), (1, tensor(1, 2, 5.0))],
    )
    .await;
    inner.gate.add_permits(100);
    let mut results = Vec::new();
    for running in running {
        results.push(running.await.unwrap());
    }
    assert_eq!(results[1], Err(RuntimeError::Run("negative".to_owned())));
    assert_eq!(values(results[2].as_ref().unwrap()), (vec![1, 2], vec![10.0, 12.0]));
}

#[tokio::test]
async fn requests_of_other_widths_and_models_without_rows_in_their_answer_run_alone() {
    let inner = doubler(0, false);
    let other = batched(&inner, 8, 0);
    let running = start(
        &other,
        vec![(1, tensor(1, 2, 0.0)), (1, tensor(1, 2, 1.0)), (1, tensor(1, 3, 1.0))],
    )
    .await;
    inner.gate.add_permits(100);
    let mut shapes = Vec::new();
    for running in running {
        shapes.push(values(&running.await.unwrap().unwrap()).0);
    }
    assert_eq!(shapes, [vec![1, 2], vec![1, 2], vec![1, 3]]);

    let inner = doubler(0, true);
    let other = batched(&inner, 8, 0);
    let running = start(
        &other,
        vec![(1, tensor(1, 2, 0.0)), (1, tensor(1, 2, 1.0)), (1, tensor(1, 2, 2.0))],
    )
    .await;
    inner.gate.add_permits(100);
    let mut sums = Vec::new();
    for running in running {
        sums.push(values(&running.await.unwrap().unwrap()).1);
    }
    assert_eq!(sums, [vec![2.0], vec![6.0], vec![10.0]]);
}
