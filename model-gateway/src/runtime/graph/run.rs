//! One run of a graph: nodes compute what is asked of them, once a row.

use super::{Computed, Graph, Member, Node, Source, number};
use crate::runtime::RuntimeError;
use arrow::array::{Array as _, ArrayRef, AsArray as _, Float64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType as ArrowType, Float64Type};
use futures::future::{BoxFuture, FutureExt as _, try_join_all};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// One run of a graph.
pub(super) struct Run<'a> {
    graph: &'a Graph,
    vector: RecordBatch,
    deadline: Instant,
    /// Per node and row what has been computed. The lock is held while a node computes, so that nobody computes it twice;
    /// nodes form no cycle, so nobody waits for himself.
    values: Vec<Mutex<Vec<Option<f64>>>>,
}

impl<'a> Run<'a> {
    /// Of `graph` on the rows of `vector`.
    pub(super) fn new(graph: &'a Graph, vector: RecordBatch, deadline: Instant) -> Self {
        let nothing = || Mutex::new(vec![None; vector.num_rows()]);
        let values = graph.nodes.iter().map(|_| nothing()).collect();
        Self {
            graph,
            vector,
            deadline,
            values,
        }
    }
}

impl Run<'_> {
    /// The values of `node` on `rows`, in their order; each row is computed once.
    pub(super) fn values(&self, node: usize, rows: Vec<u32>) -> BoxFuture<'_, Result<Vec<f64>, RuntimeError>> {
        async move {
            let (Some(compiled), Some(known)) = (self.graph.nodes.get(node), self.values.get(node)) else {
                return Err(RuntimeError::Run(format!("the graph has no node {node}")));
            };
            let mut known = known.lock().await;
            let at = |known: &[Option<f64>], row: u32| known.get(row as usize).copied().flatten();
            let missing: Vec<u32> = rows.iter().copied().filter(|row| at(&known, *row).is_none()).collect();
            if !missing.is_empty() {
                let computed = self.compute(compiled, &missing).await?;
                for (row, value) in missing.into_iter().zip(computed) {
                    if let Some(place) = known.get_mut(row as usize) {
                        *place = Some(value);
                    }
                }
            }
            Ok(rows
                .into_iter()
                .map(|row| at(&known, row).unwrap_or(f64::NAN))
                .collect())
        }
        .boxed()
    }

    async fn compute(&self, node: &Node, rows: &[u32]) -> Result<Vec<f64>, RuntimeError> {
        match node {
            Node::Model(member) => self.member(member, rows).await,
            Node::Weights(weights) => {
                let parts = try_join_all(weights.iter().map(|(node, _)| self.values(*node, rows.to_vec()))).await?;
                let mut sums = vec![0.0; rows.len()];
                for ((_, weight), part) in weights.iter().zip(parts) {
                    for (sum, value) in sums.iter_mut().zip(part) {
                        *sum += weight * value;
                    }
                }
                Ok(sums)
            }
            Node::Expression(computed) => {
                let values = self.evaluate(computed, rows).await?;
                let values = cast(&values, &ArrowType::Float64).map_err(failed)?;
                Ok(floats(&values))
            }
            Node::Switch { cases, otherwise } => self.switch(cases, *otherwise, rows).await,
        }
    }

    async fn member(&self, member: &Member, rows: &[u32]) -> Result<Vec<f64>, RuntimeError> {
        let columns = self.columns(&member.sources, rows).await?;
        let typed = columns.iter().zip(member.schema.fields());
        let typed = typed.map(|(column, field)| cast(column, field.data_type()));
        let typed = typed.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let vector = RecordBatch::try_new(Arc::clone(&member.schema), typed).map_err(failed)?;
        let named = |error: &dyn fmt::Display| RuntimeError::Run(format!("`{}`: {error}", member.model));
        let tensors = member.scorer.layout.tensors(&vector).map_err(|error| named(&error))?;
        let outputs = member.scorer.runtime.run(rows.len(), tensors, self.deadline).await?;
        let predictions = member
            .scorer
            .score
            .predictions(&outputs, rows.len())
            .map_err(|error| named(&error))?;
        let numbers = predictions
            .iter()
            .map(|value| number(value).ok_or_else(|| named(&format_args!("it predicts {value}, which is no number"))));
        numbers.collect()
    }

    async fn switch(
        &self,
        cases: &[(Computed, usize)],
        otherwise: usize,
        rows: &[u32],
    ) -> Result<Vec<f64>, RuntimeError> {
        // Which node each row chose.
        let mut chosen: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        let mut left = rows.to_vec();
        for (when, then) in cases {
            if left.is_empty() {
                break;
            }
            let holds = self.evaluate(when, &left).await?;
            let holds = holds.as_boolean();
            let (mut taken, mut rest) = (Vec::new(), Vec::new());
            for (place, row) in left.into_iter().enumerate() {
                let is_taken = holds.is_valid(place) && holds.value(place);
                if is_taken { taken.push(row) } else { rest.push(row) }
            }
            chosen.entry(*then).or_default().extend(taken);
            left = rest;
        }
        chosen.entry(otherwise).or_default().extend(left);
        chosen.retain(|_, rows| !rows.is_empty());
        let branches = chosen.iter().map(|(node, rows)| self.values(*node, rows.clone()));
        let results = try_join_all(branches).await?;
        let by_row: BTreeMap<u32, f64> = chosen
            .values()
            .flatten()
            .copied()
            .zip(results.into_iter().flatten())
            .collect();
        Ok(rows
            .iter()
            .map(|row| by_row.get(row).copied().unwrap_or(f64::NAN))
            .collect())
    }

    async fn evaluate(&self, computed: &Computed, rows: &[u32]) -> Result<ArrayRef, RuntimeError> {
        let columns = self.columns(&computed.reads, rows).await?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let batch =
            RecordBatch::try_new_with_options(Arc::clone(&computed.schema), columns, &options).map_err(failed)?;
        computed
            .expression
            .evaluate(&batch)
            .map_err(|error| RuntimeError::Run(error.to_string()))
    }

    /// The columns of `sources` on `rows`; nodes among them run side by side.
    async fn columns(&self, sources: &[Source], rows: &[u32]) -> Result<Vec<ArrayRef>, RuntimeError> {
        let places = UInt32Array::from(rows.to_vec());
        let column = |source: &Source| {
            let (source, places) = (*source, &places);
            async move {
                match source {
                    Source::Node(node) => {
                        let values = self.values(node, rows.to_vec()).await?;
                        let values = values.into_iter().map(|value| (!value.is_nan()).then_some(value));
                        Ok(Arc::new(values.collect::<Float64Array>()) as ArrayRef)
                    }
                    Source::Feature(place) => {
                        let column = self.vector.columns().get(place);
                        let column = column.ok_or_else(|| RuntimeError::Run(format!("no column {place}")))?;
                        take(column, places, None).map_err(failed)
                    }
                }
            }
        };
        try_join_all(sources.iter().map(column)).await
    }
}

fn floats(values: &ArrayRef) -> Vec<f64> {
    let values = values.as_primitive::<Float64Type>();
    values.iter().map(|value| value.unwrap_or(f64::NAN)).collect()
}

fn failed(error: impl fmt::Display) -> RuntimeError {
    RuntimeError::Run(error.to_string())
}
