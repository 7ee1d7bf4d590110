//! Where the joins of a training set run when they do not run here: the seam to an engine of many machines.
//!
//! The job still checks the request, pins the tables, puts rows in order, derives and writes down what went in; an engine
//! only computes views' features for spine rows, by [`crate::point_in_time::join`] over the very same events.

use crate::error::JobError;
use crate::table::event_files::{EventFiles, EventRange};
use arrow::array::{ArrayRef, TimestampMicrosecondArray, UInt8Array, UInt32Array};
use async_trait::async_trait;
use futures::future::BoxFuture;
use ondol_pipelines_api::OfflineSql;
use ondol_vocabulary::{SourceDefinition, ViewDefinition};
use std::sync::Arc;

/// What a service of jobs computes with beside its own threads.
#[derive(Clone, Default)]
pub struct Engines {
    /// Where training sets are joined, if not here.
    pub joins: Option<Arc<dyn JoinEngine>>,
    /// What answers the queries that make spines, if anything does.
    pub sql: Option<Arc<dyn OfflineSql>>,
}

/// Comes when a job is cancelled, lost or shut down.
pub type Stop<'a> = BoxFuture<'a, ()>;

/// An engine that joins views to a spine elsewhere.
#[async_trait]
pub trait JoinEngine: Send + Sync + 'static {
    /// The features of every view for every row. Once `stop` is there the work is taken back from wherever it is done, and
    /// the answer, which nobody reads, is an error. Dropping the future only stops waiting.
    async fn join(&self, request: JoinRequest, stop: Stop<'_>) -> Result<Vec<JoinedRows>, JobError>;
}

/// What to join.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// Each row's moment, in UTC.
    pub times: TimestampMicrosecondArray,
    /// The columns that views' keys are made of, by name, each once.
    pub keys: Vec<(String, ArrayRef)>,
    /// The views.
    pub views: Vec<ViewJoin>,
}

/// One view to join.
#[derive(Clone, Debug)]
pub struct ViewJoin {
    /// The view, with the features that are wanted.
    pub view: ViewDefinition,
    /// What it reads.
    pub source: SourceDefinition,
    /// The files of that, at the version which the job pinned.
    pub events: EventFiles,
    /// Which of their events can matter.
    pub range: EventRange,
}

/// Values of some rows of the spine, each row in one of them.
#[derive(Clone, Debug)]
pub struct JoinedRows {
    /// Which rows, counted from 0.
    pub rows: UInt32Array,
    /// By view.
    pub views: Vec<JoinedView>,
}

/// What a view answered, as [`crate::point_in_time::Answers`] tell it.
#[derive(Clone, Debug)]
pub struct JoinedView {
    /// A column per feature, defaults not filled in yet.
    pub values: Vec<ArrayRef>,
    /// For each row the code of its [`crate::point_in_time::Worth`].
    pub worth: UInt8Array,
}
