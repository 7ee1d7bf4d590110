//! One source's way from records to deliveries: intake → pending → decoding → ready → writing.
//!
//! Each stage holds at most one batch, so memory is bounded by four batches and what the reader holds, and decoding a
//! batch overlaps writing the one before. Order within a partition is kept because the stages are a queue. A stage that
//! is stuck stops the one before it, and in the end the intake.
//!
//! Operators' orders are followed between two steps ([`orders`]): a pause holds the intake and lets the rest flow out; a
//! skip makes a run without records that covers the skipped range, and goes the way of every other run.
//!
//! One task owns all of it. When what was read must be given up (a gap, a partition lost), everything in flight is
//! dropped and every partition is read again from where the store stands: redelivery changes nothing there.

mod orders;

use crate::dead_letter::Mark;
use crate::decoding;
use crate::deliver::{self, Batch, Outcome, Surroundings};
use crate::directive::{Directives, Orders};
use crate::meter::{self, Stage};
use crate::plan::SourcePlan;
use crate::progress::Part;
use crate::source::{Reader, ReaderEvent, Records, StreamError};
use futures::future::BoxFuture;
use ondol_feature_store_api::wire::PartitionPosition;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the stream is told what is durable.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// A pause after a gap, so that a store in trouble is not asked in a tight loop.
const GAP_PAUSE: Duration = Duration::from_millis(20);

/// A source being read.
pub struct Pipeline {
    around: Arc<Surroundings>,
    plan: watch::Receiver<Arc<SourcePlan>>,
    reader: Box<dyn Reader>,
    generation: Arc<str>,
    places: BTreeMap<i32, Place>,
    pending: Pending,
    decoding: Option<BoxFuture<'static, Result<Batch, StreamError>>>,
    ready: Option<Batch>,
    writing: Option<BoxFuture<'static, Outcome>>,
    /// Bytes of messages in all stages.
    in_flight_bytes: usize,
    directives: watch::Receiver<Arc<Directives>>,
    /// Set when directives have come that were not followed yet.
    directed: bool,
    orders: Arc<Orders>,
    held: bool,
    committed: Vec<PartitionPosition>,
    commit_due: Instant,
}

/// Where one partition stands.
struct Place {
    /// First offset not taken in.
    intake: i64,
    /// First offset not written.
    written: i64,
}

#[derive(Default)]
struct Pending {
    runs: Vec<Records>,
    rows: usize,
    size_bytes: usize,
    /// When its first run came.
    since: Option<Instant>,
    /// Skips among its runs.
    marks: Vec<Mark>,
}

impl Pipeline {
    /// Reads `reader` and delivers by the newest of `plan`.
    pub fn new(around: Arc<Surroundings>, plan: watch::Receiver<Arc<SourcePlan>>, reader: Box<dyn Reader>) -> Self {
        let directives = around.control.directives();
        around.progress.fetches(reader.fetching());
        Self {
            around,
            plan,
            reader,
            generation: "".into(),
            places: BTreeMap::new(),
            pending: Pending::default(),
            decoding: None,
            ready: None,
            writing: None,
            in_flight_bytes: 0,
            directives,
            directed: true,
            orders: Arc::default(),
            held: false,
            committed: Vec::new(),
            commit_due: Instant::now(),
        }
    }

    /// Runs until `stop`, then delivers what was taken in, flushes and leaves the stream.
    ///
    /// # Errors
    /// When the stream can't be read on. What was taken in is then not delivered: it is read again.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), StreamError> {
        let read = self.read_until(&stop).await;
        let durable = self.around.progress.durable_positions();
        self.places
            .keys()
            .for_each(|partition| self.around.progress.leave(*partition));
        self.around.progress.in_flight(0);
        self.around.progress.fetches(Arc::default());
        read?;
        self.reader.close(durable).await;
        Ok(())
    }

    async fn read_until(&mut self, stop: &CancellationToken) -> Result<(), StreamError> {
        while let Some(done) = stop.run_until_cancelled(self.turn()).await {
            done?;
        }
        let drained = tokio::time::timeout(self.around.limits.drain_timeout(), self.finish()).await;
        drained.unwrap_or_else(|_| {
            tracing::warn!("stopped before everything taken in was durable: it will be read again");
            Ok(())
        })
    }

    /// Follows orders, then waits for the next thing to happen and does it.
    async fn turn(&mut self) -> Result<(), StreamError> {
        if self.directed {
            self.obey().await?;
        }
        match self.step(true).await? {
            Some(event) => self.take(event).await,
            None => Ok(()),
        }
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        self.settle().await?;
        self.flush_now().await;
        Ok(())
    }

    /// Waits for the next thing to happen in any stage and does it; what the reader reports is the caller's to do.
    /// Cancel safe but for what is being given up anyway.
    async fn step(&mut self, intake: bool) -> Result<Option<ReaderEvent>, StreamError> {
        self.advance(intake && !self.held);
        let limits = &self.around.limits;
        let room = self.pending.rows < limits.max_batch_rows && self.pending.size_bytes < limits.max_batch_bytes;
        let deadline = self.deadline().unwrap_or_else(Instant::now);
        let waiting = self.deadline().is_some_and(|deadline| deadline > Instant::now());
        let unflushed = self.is_idle() && self.around.progress.is_undurable();
        tokio::select! {
            outcome = stage(&mut self.writing), if self.writing.is_some() => {
                self.writing = None;
                self.written(outcome).await?;
            }
            decoded = stage(&mut self.decoding), if self.decoding.is_some() && self.ready.is_none() => {
                self.decoding = None;
                self.ready = Some(decoded?);
            }
            changed = self.directives.changed(), if intake && !self.directed => {
                // Whoever sends directives outlives the pipeline, or the process ends.
                self.directed = changed.is_ok();
            }
            event = next(self.reader.as_mut(), room), if intake => return event.map(Some),
            () = tokio::time::sleep_until(deadline), if waiting && self.decoding.is_none() => {}
            () = tokio::time::sleep(limits.flush_idle()), if unflushed => {
                self.writing = Some(Box::pin(deliver::flush(Arc::clone(&self.around))));
            }
            else => {}
        }
        Ok(None)
    }

    /// Moves batches into stages that have become free.
    fn advance(&mut self, intake: bool) {
        if self.writing.is_none()
            && let Some(decoded) = self.ready.take()
        {
            meter::stage(&self.around.source, Stage::Queue, decoded.decoded.elapsed());
            let time = self.plan.borrow().time;
            self.writing = Some(Box::pin(deliver::deliver(Arc::clone(&self.around), decoded, time)));
        }
        let limits = &self.around.limits;
        let full = self.pending.rows >= limits.max_batch_rows || self.pending.size_bytes >= limits.max_batch_bytes;
        let due = self.deadline().is_some_and(|deadline| deadline <= Instant::now());
        let free = self.decoding.is_none() && self.ready.is_none() && !self.pending.runs.is_empty();
        if free && (full || due || !intake) {
            let Pending { runs, marks, since, .. } = std::mem::take(&mut self.pending);
            let (around, generation) = (Arc::clone(&self.around), Arc::clone(&self.generation));
            let closed = Instant::now();
            meter::stage(
                &around.source,
                Stage::Collect,
                since.map_or(Duration::ZERO, |since| closed - since),
            );
            let decode = decoding::decode(Arc::clone(&around), self.plan.clone(), generation, runs);
            self.decoding = Some(Box::pin(async move {
                let contents = decode.await?;
                meter::stage(&around.source, Stage::Decode, closed.elapsed());
                Ok(Batch {
                    contents,
                    marks,
                    decoded: Instant::now(),
                })
            }));
        }
    }

    /// When what is pending is closed at the latest.
    fn deadline(&self) -> Option<Instant> {
        Some(self.pending.since? + self.around.limits.max_batch_wait())
    }

    fn is_idle(&self) -> bool {
        self.writing.is_none() && self.ready.is_none() && self.decoding.is_none() && self.pending.runs.is_empty()
    }

    /// Delivers everything taken in, taking in nothing more.
    async fn settle(&mut self) -> Result<(), StreamError> {
        while !self.is_idle() {
            self.step(false).await?;
        }
        Ok(())
    }

    async fn take(&mut self, event: ReaderEvent) -> Result<(), StreamError> {
        match event {
            ReaderEvent::Records(run) => self.take_run(run).await?,
            ReaderEvent::Assigned { partitions, generation } => self.assigned(partitions, generation).await?,
            ReaderEvent::Revoking { partitions } => self.revoking(partitions).await?,
            ReaderEvent::Lost { partitions } => {
                tracing::warn!(?partitions, "partitions were lost to another worker");
                self.forget(&partitions);
                meter::reread(&self.around.source, "lost");
                self.give_up().await?;
            }
            ReaderEvent::Trouble { detail } => self.around.progress.trouble(Part::Stream, detail),
        }
        Ok(())
    }

    async fn take_run(&mut self, mut run: Records) -> Result<(), StreamError> {
        let partition = run.partition;
        if self.places.get(&partition).is_none_or(|place| place.intake != run.from) {
            // Read before a seek or a revocation: not ours any more.
            tracing::debug!(partition, from = run.from, "dropped a run that does not continue");
            return Ok(());
        }
        let skip = self.orders.next_within(&self.generation, partition, run.from, run.to);
        if let Some(from) = skip {
            run.truncate(from);
        }
        self.add(run);
        if skip.is_some() {
            self.go_on(partition).await?;
        }
        Ok(())
    }

    /// Adds a run, which continues its partition, to what is pending.
    fn add(&mut self, run: Records) {
        if let Some(place) = self.places.get_mut(&run.partition) {
            place.intake = run.to;
        }
        let is_first = self
            .pending
            .runs
            .iter()
            .all(|pending| pending.partition != run.partition);
        if let Some(timestamp) = run.first_timestamp().filter(|_| is_first) {
            self.around.progress.ahead(run.partition, run.from, timestamp);
        }
        self.pending.rows += run.len();
        self.pending.size_bytes += run.size_bytes();
        self.in_flight_bytes += run.size_bytes();
        self.around.progress.in_flight(self.in_flight_bytes as u64);
        self.pending.since.get_or_insert_with(Instant::now);
        self.pending.runs.push(run);
    }

    async fn assigned(&mut self, partitions: Vec<i32>, generation: Arc<str>) -> Result<(), StreamError> {
        self.generation = generation;
        let held = deliver::resume(Arc::clone(&self.around), Arc::clone(&self.generation)).await;
        self.settle_start(&held).await?;
        let mut positions = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let position = held
                .iter()
                .find(|place| place.partition == partition)
                .map_or(0, |place| place.next_offset);
            let place = Place {
                intake: position,
                written: position,
            };
            self.places.insert(partition, place);
            self.around.progress.start(partition, position);
            positions.push(PartitionPosition {
                partition,
                next_offset: self.land(partition).unwrap_or(position),
            });
        }
        tracing::info!(?positions, "partitions assigned");
        self.reader.begin(positions).await?;
        if self.held {
            // A reader that had no partitions yet may not have heard.
            self.reader.hold(true).await?;
        }
        self.around.progress.well(Part::Stream);
        Ok(())
    }

    async fn revoking(&mut self, partitions: Vec<i32>) -> Result<(), StreamError> {
        let limit = self.around.limits.drain_timeout();
        let drained = tokio::time::timeout(limit, self.finish()).await;
        let durable = match drained {
            Ok(finished) => {
                finished?;
                let mut durable = self.around.progress.durable_positions();
                durable.retain(|place| partitions.contains(&place.partition));
                durable
            }
            Err(_) => {
                tracing::warn!(
                    ?partitions,
                    "partitions go before they were drained: their next reader redelivers"
                );
                Vec::new()
            }
        };
        let settled = self.is_idle();
        self.forget(&partitions);
        if !settled {
            meter::reread(&self.around.source, "revoked");
            self.give_up().await?;
        }
        tracing::info!(?partitions, "partitions released");
        self.reader.release(partitions, durable).await
    }

    fn forget(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.places.remove(partition);
            self.around.progress.leave(*partition);
        }
        self.committed.retain(|place| !partitions.contains(&place.partition));
    }

    /// Drops everything in flight and reads every partition again from what is written.
    async fn give_up(&mut self) -> Result<(), StreamError> {
        self.pending = Pending::default();
        self.decoding = None;
        self.ready = None;
        self.writing = None;
        self.in_flight_bytes = 0;
        self.around.progress.in_flight(0);
        self.around.progress.nothing_ahead();
        let partitions: Vec<i32> = self.places.keys().copied().collect();
        for partition in partitions {
            if let Some(place) = self.places.get_mut(&partition)
                && place.intake != place.written
            {
                place.intake = place.written;
                let offset = place.written;
                let offset = self.land(partition).unwrap_or(offset);
                self.reader.seek(partition, offset).await?;
            }
        }
        Ok(())
    }

    async fn written(&mut self, outcome: Outcome) -> Result<(), StreamError> {
        match outcome {
            Outcome::Written {
                ranges,
                receipt,
                size_bytes,
            } => {
                self.in_flight_bytes = self.in_flight_bytes.saturating_sub(size_bytes);
                self.around.progress.in_flight(self.in_flight_bytes as u64);
                for range in ranges {
                    if let Some(place) = self.places.get_mut(&range.partition) {
                        place.written = range.to;
                        self.around.progress.reach(range.partition, range.to);
                    }
                }
                self.around.progress.durable(&receipt.durable);
                self.commit();
            }
            Outcome::Gap { partition, expected } => {
                tracing::warn!(partition, expected, "the feature store asked for earlier events again");
                if let Some(place) = self.places.get_mut(&partition) {
                    place.written = expected;
                    self.around.progress.rewind(partition, expected);
                }
                meter::reread(&self.around.source, "gap");
                self.give_up().await?;
                tokio::time::sleep(GAP_PAUSE).await;
            }
            Outcome::Flushed(Ok(receipt)) => {
                self.around.progress.durable(&receipt.durable);
                self.commit();
            }
            // Reported where it happened; tried again after the next idle moment.
            Outcome::Flushed(Err(_)) => {}
        }
        Ok(())
    }

    async fn flush_now(&mut self) {
        if self.around.progress.is_undurable() {
            let outcome = deliver::flush(Arc::clone(&self.around)).await;
            if let Outcome::Flushed(Ok(receipt)) = outcome {
                self.around.progress.durable(&receipt.durable);
            }
        }
    }

    /// Lets the stream's own committed offsets follow, at most once a second and only when something is new.
    fn commit(&mut self) {
        if Instant::now() < self.commit_due {
            return;
        }
        let durable = self.around.progress.durable_positions();
        if durable != self.committed {
            self.reader.commit(&durable);
            self.committed = durable;
            self.commit_due = Instant::now() + COMMIT_EVERY;
        }
    }
}

/// What the reader reports next; no records unless there is room for them.
async fn next(reader: &mut dyn Reader, room: bool) -> Result<ReaderEvent, StreamError> {
    if room {
        reader.next().await
    } else {
        reader.notice().await
    }
}

/// The stage's result; never when it is empty.
async fn stage<F: Future + Unpin>(stage: &mut Option<F>) -> F::Output {
    match stage {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
