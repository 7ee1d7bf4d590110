//! Training sets whose spine the job reads, and whose rows it keeps: once, and again and again.

use crate::store;
use crate::support::lake::reach_s3;
use crate::support::{batch, config, ended, floats, moments, strings};
use arrow::array::RecordBatch;
use async_trait::async_trait;
use object_store::ObjectStoreExt;
use ondol_jobs::PipelinesService;
use ondol_jobs::engine::Engines;
use ondol_pipelines_api::sql::SqlRequest;
use ondol_pipelines_api::wire::{
    Job, JobQuery, JobRequest, JobState, Manifest, RecurringTrainingSetRequest, ScheduleRequest,
};
use ondol_pipelines_api::{OfflineSql, Pipelines, PipelinesError, Rows};
use ondol_runtime::{Clock, Health, ManualClock, ObjectStores, Shutdown};
use ondol_testkit::s3;
use ondol_vocabulary::EventTime;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DAY: i64 = 86_400_000_000;

/// Answers every query with a row, and remembers the queries.
#[derive(Default)]
struct OneRow(Mutex<Vec<String>>);

#[async_trait]
impl OfflineSql for OneRow {
    async fn sql(&self, request: SqlRequest) -> Result<Rows, PipelinesError> {
        if request.query.contains("nowhere") {
            return Err(PipelinesError::InvalidQuery {
                detail: "there is no table `nowhere`".to_owned(),
            });
        }
        self.0.lock().unwrap().push(request.query);
        let rows = spine(&["a"]);
        Ok(Rows::held(rows.schema(), vec![rows]))
    }
}

struct Bench {
    service: PipelinesService,
    shutdown: Shutdown,
    clock: ManualClock,
    sql: Arc<OneRow>,
}

impl Bench {
    /// At half past noon of new year's day 2026.
    async fn open(folder: &Path) -> Self {
        reach_s3();
        let clock = ManualClock::at(EventTime::parse("2026-01-01T12:30:00Z").unwrap().micros());
        let (shutdown, sql) = (Shutdown::new(), Arc::new(OneRow::default()));
        let engines = Engines {
            joins: None,
            sql: Some(sql.clone()),
        };
        let now: Arc<dyn Clock> = Arc::new(clock.clone());
        let config = config(&folder.join("data"));
        let service = PipelinesService::open_on(engines, config, store(), now, &shutdown, &Health::new()).await;
        Self {
            service: service.unwrap(),
            shutdown,
            clock,
            sql,
        }
    }

    async fn run(&self, request: RecurringTrainingSetRequest) -> Job {
        let request = JobRequest::RecurringTrainingSet(request);
        let job = self.service.submit(request, None).await.unwrap();
        ended(&self.service, &job.id).await
    }

    async fn close(self) {
        assert!(self.shutdown.drain(Duration::from_secs(30)).await);
    }
}

fn spine(keys: &[&str]) -> RecordBatch {
    batch(vec![
        ("k", strings(keys.iter().copied().map(Some))),
        ("amount", floats(keys.iter().map(|_| Some(1.0)))),
        ("time", moments(keys.iter().map(|_| DAY))),
    ])
}

fn write(path: &Path, rows: &RecordBatch) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
}

fn rows(bytes: impl Into<bytes::Bytes>) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.into())
        .unwrap()
        .build()
        .unwrap();
    let schema = arrow::array::RecordBatchReader::schema(&reader);
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    arrow::compute::concat_batches(&schema, &batches).unwrap()
}

fn of_files(folder: &Path) -> RecurringTrainingSetRequest {
    RecurringTrainingSetRequest {
        model: "m".to_owned(),
        spine: Some(folder.join("labels").display().to_string()),
        output: folder.join("sets/train.parquet").display().to_string(),
        ..RecurringTrainingSetRequest::default()
    }
}

#[tokio::test]
async fn the_files_of_a_folder_are_one_spine_and_the_set_stands_where_it_was_told_to() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("labels/b.parquet"), &spine(&["b"]));
    write(&folder.path().join("labels/2026/a.parquet"), &spine(&["a", "c"]));
    std::fs::write(folder.path().join("labels/_SUCCESS"), "").unwrap();
    let bench = Bench::open(folder.path()).await;
    let job = bench.run(of_files(folder.path())).await;
    assert_eq!((job.state, job.error.clone()), (JobState::Succeeded, None));
    assert_eq!(
        (job.kind.as_str(), job.subject.as_str()),
        ("recurring-training-set", "m")
    );

    let kept = rows(std::fs::read(folder.path().join("sets/train.parquet")).unwrap());
    let keys = arrow::array::AsArray::as_string::<i32>(kept.column_by_name("k").unwrap());
    assert_eq!(keys.iter().flatten().collect::<Vec<_>>(), ["a", "c", "b"]);
    let fetched = bench.service.result(&job.id).await.unwrap();
    assert_eq!(fetched.batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    let manifest = std::fs::read(folder.path().join("sets/train.parquet.manifest.json")).unwrap();
    let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
    assert_eq!((manifest.rows, Some(&manifest)), (3, job.manifest.as_ref()));
    let outcome = job.outcome.unwrap();
    assert!(
        outcome["output"].as_str().unwrap().ends_with("/sets/train.parquet"),
        "{outcome}"
    );
    let left = std::fs::read_dir(folder.path().join("sets")).unwrap();
    assert_eq!(left.count(), 2, "nothing else is left");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_makes_the_spine_and_a_bucket_keeps_the_set() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(folder.path()).await;
    let bucket = s3::bucket();
    let moment = |text| Some(EventTime::parse(text).unwrap());
    let job = bench
        .run(RecurringTrainingSetRequest {
            model: "m".to_owned(),
            spine_query: Some("select * from labels where at < timestamp '{end}' and day >= '{start_date}'".to_owned()),
            output: format!("s3://{bucket}/sets/{{end_date}}/train.parquet"),
            start: moment("2025-12-30T00:00:00Z"),
            end: moment("2025-12-31T00:00:00Z"),
            ..RecurringTrainingSetRequest::default()
        })
        .await;
    assert_eq!((job.state, job.error), (JobState::Succeeded, None));
    assert_eq!(
        *bench.sql.0.lock().unwrap(),
        ["select * from labels where at < timestamp '2025-12-31T00:00:00Z' and day >= '2025-12-30'"]
    );
    let place = ObjectStores::of_process()
        .at(&format!("s3://{bucket}/sets/2025-12-31"))
        .unwrap();
    let object = async |name: &str| place.store().get(&name.into()).await.unwrap().bytes().await.unwrap();
    assert_eq!(rows(object("train.parquet").await).num_rows(), 1);
    let manifest: Manifest = serde_json::from_slice(&object("train.parquet.manifest.json").await).unwrap();
    assert_eq!(manifest.rows, 1);
    bench.close().await;
}

#[tokio::test]
async fn a_schedule_gives_each_run_its_stretch_of_time_and_leaves_none_out() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(folder.path()).await;
    let request = RecurringTrainingSetRequest {
        spine: None,
        spine_query: Some("select '{start}' as a, '{end}' as b".to_owned()),
        output: folder.path().join("sets/{end_date}.parquet").display().to_string(),
        ..of_files(folder.path())
    };
    let schedule = |output: &str| ScheduleRequest {
        name: "nightly".to_owned(),
        cron: "0 3 * * *".to_owned(),
        zone: None,
        request: JobRequest::RecurringTrainingSet(RecurringTrainingSetRequest {
            output: output.to_owned(),
            ..request.clone()
        }),
        paused: false,
    };
    let same = bench
        .service
        .create_schedule(schedule("/sets/train.parquet"))
        .await
        .unwrap_err();
    assert!(same.to_string().contains("{end_date}"), "{same}");
    bench.service.create_schedule(schedule(&request.output)).await.unwrap();

    let submitted = async |count: usize| {
        let all = async || loop {
            let jobs = bench.service.jobs(JobQuery::default()).await.unwrap().jobs;
            if jobs.len() == count {
                return jobs;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let jobs = tokio::time::timeout(Duration::from_secs(120), all()).await.unwrap();
        for job in jobs {
            let job = ended(&bench.service, &job.id).await;
            assert_eq!((job.state, job.error), (JobState::Succeeded, None));
        }
    };
    bench.clock.advance(DAY);
    submitted(1).await;
    // Nobody looks for three days: the next run is about all of them.
    bench.clock.advance(3 * DAY);
    submitted(2).await;
    assert_eq!(
        *bench.sql.0.lock().unwrap(),
        [
            "select '2026-01-01T03:00:00Z' as a, '2026-01-02T03:00:00Z' as b",
            "select '2026-01-02T03:00:00Z' as a, '2026-01-05T03:00:00Z' as b"
        ]
    );
    for name in [
        "2026-01-02.parquet",
        "2026-01-05.parquet",
        "2026-01-05.parquet.manifest.json",
    ] {
        assert!(folder.path().join("sets").join(name).exists(), "{name}");
    }
    bench.close().await;
}

#[tokio::test]
async fn what_cannot_be_built_is_refused_before_it_is_a_job() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(folder.path()).await;
    let good = of_files(folder.path());
    let with = |change: &dyn Fn(&mut RecurringTrainingSetRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    for (request, expected) in [
        (with(&|request| request.model = "n".to_owned()), "unknown model `n`"),
        (with(&|request| request.spine = None), "give either `spine`"),
        (
            with(&|request| request.output = "x.csv".to_owned()),
            "does not end in .parquet",
        ),
        (
            with(&|request| request.output = "{day}.parquet".to_owned()),
            "{day}, which stands for nothing",
        ),
        (
            with(&|request| request.output = "{end}.parquet".to_owned()),
            "give `start` and `end`",
        ),
    ] {
        let request = JobRequest::RecurringTrainingSet(request);
        let error = bench.service.submit(request, None).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error} instead of {expected}");
    }
    assert_eq!(bench.service.jobs(JobQuery::default()).await.unwrap().jobs, []);
    bench.close().await;
}

#[tokio::test]
async fn a_spine_that_cannot_be_read_fails_the_job_with_the_remedy_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(folder.path()).await;
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    std::fs::write(folder.path().join("damaged.parquet"), "no table").unwrap();
    write(&folder.path().join("odd/a.parquet"), &spine(&["a"]));
    let other = batch(vec![("k", strings([Some("b")]))]);
    write(&folder.path().join("odd/b.parquet"), &other);
    write(&folder.path().join("short.parquet"), &other);
    let place = |name: &str| Some(folder.path().join(name).display().to_string());
    let of = |spine: Option<String>, spine_query: Option<&str>| RecurringTrainingSetRequest {
        spine,
        spine_query: spine_query.map(str::to_owned),
        ..of_files(folder.path())
    };
    for (request, expected) in [
        (of(place("empty"), None), "there is no .parquet file"),
        (of(place("none.parquet"), None), "check the path"),
        (of(place("damaged.parquet"), None), "damaged.parquet can't be read"),
        (of(place("odd"), None), "has other columns"),
        (of(place("short.parquet"), None), "`amount`"),
        (of(None, Some("select * from nowhere")), "there is no table `nowhere`"),
        (
            of(Some("s3://ondol-no-such-bucket/x.parquet".to_owned()), None),
            "check the bucket's name",
        ),
    ] {
        let job = bench.run(request).await;
        assert_eq!(job.state, JobState::Failed);
        let error = job.error.unwrap();
        assert!(error.contains(expected), "{error} instead of {expected}");
    }
    assert!(!folder.path().join("sets").exists());
    bench.close().await;
}
