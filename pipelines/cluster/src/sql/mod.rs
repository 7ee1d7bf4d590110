//! SQL over the offline tables: a query in, its rows out as they are computed.
//!
//! [`catalog`] names the tables (every source of the registry, opened when a query names it), [`session`] is the engine
//! with its bounds (memory that spills, threads of its own), [`failure`] turns the engine's errors into ones that say
//! what to do. [`SqlService`] admits queries, and bounds their time and rows.

mod catalog;
mod config;
mod failure;
mod session;

pub use config::SqlConfig;

use crate::fault::EngineError;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use catalog::OfflineTables;
use datafusion::physical_plan::SendableRecordBatchStream;
use failure::explain;
use futures::StreamExt;
use ondol_feature_store_api::FeatureStore;
use ondol_pipelines_api::PipelinesError;
use ondol_pipelines_api::rows::Rows;
use ondol_pipelines_api::sql::{OfflineSql, SqlRequest};
use ondol_runtime::objects::ObjectStores;
use session::Engine;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

/// Batches that wait for the caller to read on.
const BATCHES_AHEAD: usize = 2;

/// Answers queries over the offline tables, in this process.
pub struct SqlService {
    store: Arc<dyn FeatureStore>,
    config: SqlConfig,
    engine: Engine,
    objects: ObjectStores,
    admitted: Arc<Semaphore>,
}

impl SqlService {
    /// Over the tables that `store` knows.
    ///
    /// # Errors
    /// When the configuration can't be used.
    pub fn new(config: SqlConfig, store: Arc<dyn FeatureStore>, objects: ObjectStores) -> Result<Self, EngineError> {
        Ok(Self {
            store,
            engine: Engine::new(&config, objects.clone())?,
            objects,
            admitted: Arc::new(Semaphore::new(config.concurrent_queries.max(1))),
            config,
        })
    }

    fn admit(&self) -> Result<OwnedSemaphorePermit, PipelinesError> {
        let bound = self.config.concurrent_queries;
        Arc::clone(&self.admitted)
            .try_acquire_owned()
            .map_err(|_| PipelinesError::Overloaded {
                detail: format!("{bound} queries are running, as many as `sql.concurrent_queries` allows"),
            })
    }
}

#[async_trait]
impl OfflineSql for SqlService {
    async fn sql(&self, request: SqlRequest) -> Result<Rows, PipelinesError> {
        let permit = self.admit()?;
        let bounds = Bounds {
            time: self.config.timeout(),
            deadline: Instant::now() + self.config.timeout(),
            rows: self.config.max_rows,
        };
        let (store, objects) = (Arc::clone(&self.store), self.objects.clone());
        let (session, runtime) = (self.engine.session(), self.engine.threads()?);
        // Planning reads logs and footers, and running is CPU work: neither belongs on the threads that answer requests.
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        let run = async move {
            let _permit = permit;
            let tables = match OfflineTables::of(store, objects).await {
                Ok(tables) => Arc::new(tables),
                Err(error) => return sender.send(Err(error)).await.unwrap_or_default(),
            };
            let started = tokio::time::timeout_at(bounds.deadline, session.start(&request, Arc::clone(&tables))).await;
            let rows = match started {
                Ok(Ok(rows)) => rows,
                Ok(Err(error)) => return sender.send(Err(explain(&error, &tables))).await.unwrap_or_default(),
                Err(_) => return sender.send(Err(bounds.out_of_time())).await.unwrap_or_default(),
            };
            bounds.forward(rows, &tables, &sender).await;
        };
        let running = Running(runtime.spawn(run));
        answer(receiver, running).await
    }
}

/// A query under way: stopped when nobody waits for it any more.
struct Running(tokio::task::JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Piece = Result<(SchemaRef, Option<RecordBatch>), PipelinesError>;

/// Waits for the first piece, so that what fails at once fails the call.
async fn answer(mut pieces: mpsc::Receiver<Piece>, running: Running) -> Result<Rows, PipelinesError> {
    let Some(first) = pieces.recv().await else {
        return Err(PipelinesError::Internal {
            detail: "the query ended without an answer".to_owned(),
        });
    };
    let (schema, first) = first?;
    let state = (pieces, running, first);
    let batches = futures::stream::unfold(Some(state), |state| async {
        let (mut pieces, running, ready) = state?;
        if let Some(rows) = ready {
            return Some((Ok(rows), Some((pieces, running, None))));
        }
        loop {
            match pieces.recv().await? {
                Ok((_, Some(rows))) => return Some((Ok(rows), Some((pieces, running, None)))),
                Ok((_, None)) => {}
                Err(error) => return Some((Err(error), None)),
            }
        }
    });
    Ok(Rows {
        schema,
        batches: batches.boxed(),
    })
}

/// What one query may take.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    time: Duration,
    deadline: Instant,
    /// Rows after which it fails.
    rows: u64,
}

impl Bounds {
    /// Sends `rows` on until they end, a bound is reached or nobody reads any more.
    async fn forward(&self, mut rows: SendableRecordBatchStream, tables: &OfflineTables, sender: &mpsc::Sender<Piece>) {
        let schema = rows.schema();
        let mut sent = 0u64;
        loop {
            let piece = match tokio::time::timeout_at(self.deadline, rows.next()).await {
                Err(_) => Err(self.out_of_time()),
                Ok(None) => break,
                Ok(Some(Err(error))) => Err(explain(&error, tables)),
                Ok(Some(Ok(batch))) => {
                    sent += batch.num_rows() as u64;
                    if sent > self.rows {
                        Err(self.out_of_rows())
                    } else {
                        Ok((Arc::clone(&schema), Some(batch)))
                    }
                }
            };
            let ends = piece.is_err();
            let unread = tokio::time::timeout_at(self.deadline, sender.send(piece)).await;
            if ends || !matches!(unread, Ok(Ok(()))) {
                return;
            }
        }
        // Columns without rows are an answer too; a caller that is gone needs none.
        let _ = sender.send(Ok((schema, None))).await;
    }

    fn out_of_time(&self) -> PipelinesError {
        PipelinesError::QueryLimit {
            detail: format!(
                "the query did not end within {} s (`sql.timeout_s`): narrow it, for example to fewer days by \
                 `_event_date`, or raise the bound",
                self.time.as_secs()
            ),
        }
    }

    fn out_of_rows(&self) -> PipelinesError {
        PipelinesError::QueryLimit {
            detail: format!(
                "the answer has more than {} rows (`sql.max_rows`): add a LIMIT, aggregate, or raise the bound",
                self.rows
            ),
        }
    }
}
