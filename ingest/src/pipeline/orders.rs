//! Operators' orders, followed by a pipeline: pauses, skips, and where a source starts that was never read.

use super::Pipeline;
use crate::config::StartAt;
use crate::dead_letter::{Deed, Mark};
use crate::deliver::{Backoff, Surroundings};
use crate::directive::{Directive, Skip};
use crate::meter;
use crate::progress::Part;
use crate::source::{Records, StreamError};
use ondol_feature_store_api::wire::PartitionPosition;
use ondol_vocabulary::SourcePosition;
use std::sync::Arc;

/// How often a skip is tried to be settled in the control topic before it is followed regardless.
const SETTLE_ATTEMPTS: usize = 3;

impl Pipeline {
    /// Follows the newest directives.
    pub(super) async fn obey(&mut self) -> Result<(), StreamError> {
        self.directed = false;
        let directives = Arc::clone(&self.directives.borrow_and_update());
        let orders = directives.of(&self.around.source);
        let held = !directives.known || orders.paused.is_some();
        if held != self.held {
            tracing::info!(held, "the source is paused or goes on");
            self.held = held;
            self.reader.hold(held).await?;
        }
        self.orders = orders;
        self.skip().await
    }

    /// Leaves out what the orders say, where the intake stands in it now. What is in flight is delivered first; if the
    /// store does not take it in time, perhaps because of the very events to be skipped, it is given up.
    async fn skip(&mut self) -> Result<(), StreamError> {
        let concerned = |pipeline: &Self| -> Vec<i32> {
            let orders = &pipeline.orders;
            let touched = pipeline.places.iter().filter(|(partition, place)| {
                orders
                    .covering(&pipeline.generation, **partition, place.intake)
                    .is_some()
                    || orders
                        .covering(&pipeline.generation, **partition, place.written)
                        .is_some()
                    || orders
                        .next_within(&pipeline.generation, **partition, place.written, place.intake)
                        .is_some()
            });
            touched.map(|(partition, _)| *partition).collect()
        };
        if concerned(self).is_empty() {
            return Ok(());
        }
        let limit = self.around.limits.drain_timeout();
        match tokio::time::timeout(limit, self.finish()).await {
            Ok(finished) => finished?,
            Err(_) => tracing::warn!("what was read before a skip can't be delivered in time: it is given up"),
        }
        for partition in concerned(self) {
            self.settle_skip(partition).await;
        }
        if !self.is_idle() {
            meter::reread(&self.around.source, "skip");
            self.give_up().await?;
        }
        for partition in concerned(self) {
            self.go_on(partition).await?;
        }
        Ok(())
    }

    /// Makes the skip that covers what is written begin there: what was delivered was not skipped, and a redelivery
    /// must bring it again.
    async fn settle_skip(&mut self, partition: i32) {
        let Some(place) = self.places.get(&partition) else {
            return;
        };
        let from = place.written;
        let covering = self.orders.covering(&self.generation, partition, from);
        let Some(skip) = covering.filter(|skip| !skip.settled && skip.from < from) else {
            return;
        };
        let skip = Skip {
            from,
            settled: true,
            ..skip.clone()
        };
        let source = self.around.source.clone();
        let directive = Directive::Skip { source, skip };
        let mut backoff = Backoff::new();
        for _ in 0..SETTLE_ATTEMPTS {
            let issued = self
                .around
                .control
                .issue(std::slice::from_ref(&directive), self.around.now());
            match issued.await {
                Ok(()) => {
                    self.around.progress.well(Part::Control);
                    self.orders = self.directives.borrow().of(&self.around.source);
                    return;
                }
                Err(error) => {
                    let detail = format!("a skip can't be settled in the control topic: {error}");
                    self.around.progress.trouble(Part::Control, detail);
                    backoff.wait().await;
                }
            }
        }
        // Only a crash of the store before its next commit could tell the difference.
    }

    /// Continues a partition behind the skip at its intake, if there is one.
    pub(super) async fn go_on(&mut self, partition: i32) -> Result<(), StreamError> {
        match self.land(partition) {
            Some(offset) => self.reader.seek(partition, offset).await,
            None => Ok(()),
        }
    }

    /// Takes the skip at a partition's intake, if there is one, as a run without records: where to read on.
    pub(super) fn land(&mut self, partition: i32) -> Option<i64> {
        let mut landed = None;
        loop {
            let from = self.places.get(&partition)?.intake;
            let Some(skip) = self.orders.covering(&self.generation, partition, from).cloned() else {
                return landed;
            };
            tracing::warn!(
                partition,
                from,
                to = skip.to,
                reason = skip.reason,
                "events are skipped"
            );
            let position = SourcePosition {
                partition,
                offset: from,
            };
            self.pending.marks.push(Mark {
                to: Some(skip.to),
                reason: Some(skip.reason),
                ..Mark::new(&self.around.source, position, Deed::Skipped, skip.at)
            });
            self.add(Records::covering(partition, from, skip.to));
            landed = Some(skip.to);
        }
    }

    /// Decides, once for all workers, where a source starts of which the store holds nothing. The first decision in the
    /// control topic holds; without a setting nothing needs to be decided.
    pub(super) async fn settle_start(&mut self, held: &[PartitionPosition]) -> Result<(), StreamError> {
        let start = self.around.start.clone();
        let mut backoff = Backoff::new();
        loop {
            // Skips decide where reading begins: they must be known.
            if start != StartAt::Beginning || !self.directives.borrow().known {
                let known = self.directives.wait_for(|directives| directives.known).await;
                let gone = |_| StreamError::Unavailable("ingest is stopping".to_owned());
                drop(known.map_err(gone)?);
            }
            self.orders = self.directives.borrow().of(&self.around.source);
            if start == StartAt::Beginning || !held.is_empty() || self.orders.is_started(&self.generation) {
                // What else has come is followed at the next turn.
                self.directed = true;
                return Ok(());
            }
            match propose_start(&self.around, &self.generation, &start).await {
                Ok(()) => self.around.progress.well(Part::Control),
                Err(error) => {
                    let detail = format!("it can't be settled where the source starts (`start = {start}`): {error}");
                    self.around.progress.trouble(Part::Control, detail);
                    backoff.wait().await;
                }
            }
        }
    }
}

/// Writes down where the source starts as things are now.
async fn propose_start(around: &Surroundings, generation: &str, start: &StartAt) -> Result<(), StreamError> {
    let positions = match start {
        StartAt::Beginning => Vec::new(),
        StartAt::End => around.stream.ends(&around.topic).await?,
        StartAt::At(time) => around.stream.offsets_at(&around.topic, *time).await?,
    };
    let at = around.now();
    let directive = Directive::Start {
        source: around.source.clone(),
        generation: generation.to_owned(),
        at,
        reason: format!("start = {start}"),
        positions,
    };
    around.control.issue(&[directive], at).await
}
