//! The contract, answered: pushes, status, pauses, skips, dead letters.

use crate::dead_letter::ledger::Ledger;
use crate::dead_letter::replay::Desk;
use crate::directive::{Directive, Skip};
use crate::meter;
use crate::seek;
use crate::service::{IngestService, View};
use crate::source::scan::TopicDescription;
use crate::source::{Header, NewRecord, StreamError};
use crate::status;
use async_trait::async_trait;
use bytes::Bytes;
use ondol_feature_store_api::wire::PartitionPosition;
use ondol_ingest_api::wire::{
    DeadLetterPage, DeadLetterQuery, DeadLetterSummary, DiscardRequest, FixReceipt, FixRequest, HandledReceipt,
    LetterPosition, PauseRequest, PushReceipt, PushRecord, PushRequest, ReplayRequest, SeekReceipt, SeekRequest,
    SeekTarget, SourceStatus,
};
use ondol_ingest_api::{Ingest, IngestError};
use ondol_vocabulary::EventTime;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Most dead letters that one request lists or handles.
const MAX_DEAD_LETTERS: usize = 1_000;
/// An index of dead letters that nobody has asked for so long is dropped.
const LEDGER_IDLE: Duration = Duration::from_secs(600);

/// The indexes of dead letters, by source and topic. Each is built when it is first asked for.
#[derive(Default)]
pub(crate) struct Ledgers(Mutex<HashMap<(String, String), (Instant, SharedLedger)>>);

type SharedLedger = Arc<tokio::sync::Mutex<Ledger>>;

impl Ledgers {
    fn of(&self, view: &View) -> SharedLedger {
        let mut ledgers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (view.source.clone(), view.topic.clone());
        let new = || Arc::new(tokio::sync::Mutex::new(Ledger::new(&view.source, &view.topic)));
        let (used, ledger) = ledgers.entry(key).or_insert_with(|| (Instant::now(), new()));
        *used = Instant::now();
        Arc::clone(ledger)
    }

    /// Drops those that nobody has asked for in a while.
    pub(crate) fn forget_idle(&self) {
        let mut ledgers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ledgers.retain(|_, (used, _)| used.elapsed() < LEDGER_IDLE);
    }
}

impl IngestService {
    /// A source's status over all workers, and what its topic is.
    async fn whole(&self, view: &View) -> (SourceStatus, Option<TopicDescription>) {
        let description = status::description(self.stream.as_ref(), &view.topic).await;
        let extents = description
            .as_ref()
            .map_or(&[][..], |description| &description.partitions);
        let own = self.own(view, extents).await;
        let mut whole = status::merge(own, &self.reports.others(&view.source), extents);
        if let Some(description) = &description {
            let (stream, store) = (self.stream.as_ref(), self.store.as_ref());
            status::unowned(&mut whole, stream, store, description, self.now()).await;
        }
        status::sum_up(&mut whole);
        (whole, description)
    }

    fn desk(&self, view: &View) -> Desk<'_> {
        Desk {
            stream: self.stream.as_ref(),
            plan: Arc::clone(&view.plan),
            now: self.now(),
            max_event_bytes: self.limits.max_event_bytes,
        }
    }

    async fn issue(&self, directives: &[Directive]) -> Result<(), IngestError> {
        self.control.issue(directives, self.now()).await.map_err(ingest_error)
    }
}

#[async_trait]
impl Ingest for IngestService {
    async fn push(&self, source: &str, request: PushRequest) -> Result<PushReceipt, IngestError> {
        let view = self.view(source)?;
        let timestamp = self.now();
        let events = request.events.into_iter().map(|event| PushRecord {
            value: Some(event),
            ..PushRecord::default()
        });
        let records = events.chain(request.records);
        let records: Vec<NewRecord> = records.map(|record| new_record(record, timestamp)).collect();
        if records.is_empty() {
            return Err(invalid("`events` is empty: send at least one event".to_owned()));
        }
        let positions = self.stream.append(&view.topic, records).await.map_err(ingest_error)?;
        Ok(PushReceipt { positions })
    }

    async fn status(&self) -> Result<Vec<SourceStatus>, IngestError> {
        let views = self.views();
        let whole = views.iter().map(|view| self.whole(view));
        let all = futures::future::join_all(whole).await;
        Ok(all.into_iter().map(|(status, _)| status).collect())
    }

    async fn pause(&self, source: &str, request: PauseRequest) -> Result<(), IngestError> {
        let view = self.view(source)?;
        self.issue(&[Directive::Pause {
            source: view.source,
            at: self.now(),
            reason: request.reason,
        }])
        .await
    }

    async fn resume(&self, source: &str) -> Result<(), IngestError> {
        let view = self.view(source)?;
        self.issue(&[Directive::Resume {
            source: view.source,
            at: self.now(),
        }])
        .await
    }

    async fn seek(&self, source: &str, request: SeekRequest) -> Result<SeekReceipt, IngestError> {
        let view = self.view(source)?;
        let (status, description) = self.whole(&view).await;
        let description = description.ok_or_else(|| IngestError::Unavailable {
            detail: format!("topic `{}` does not exist, or does not tell what it holds", view.topic),
        })?;
        let found = match &request.to {
            SeekTarget::Timestamp { at } => self.stream.offsets_at(&view.topic, *at).await.map_err(ingest_error)?,
            _ => Vec::new(),
        };
        let delivered: Vec<PartitionPosition> = status
            .partitions
            .iter()
            .map(|partition| PartitionPosition {
                partition: partition.partition,
                next_offset: partition.delivered,
            })
            .collect();
        let skipped = seek::ranges(source, &request.to, &description, &delivered, &found)?;
        if !request.dry_run && !skipped.is_empty() {
            let reason = request
                .reason
                .clone()
                .unwrap_or_else(|| "no reason was given".to_owned());
            let directive = |range: &ondol_ingest_api::wire::SkippedEvents| Directive::Skip {
                source: view.source.clone(),
                skip: Skip {
                    generation: description.generation.to_string(),
                    partition: range.partition,
                    from: range.from,
                    to: range.to,
                    at: self.now(),
                    reason: reason.clone(),
                    settled: false,
                },
            };
            self.issue(&skipped.iter().map(directive).collect::<Vec<_>>()).await?;
        }
        Ok(SeekReceipt {
            skipped,
            dry_run: request.dry_run,
        })
    }

    async fn dead_letters(&self, source: &str, query: DeadLetterQuery) -> Result<DeadLetterPage, IngestError> {
        let view = self.view(source)?;
        if query.limit == 0 || query.limit as usize > MAX_DEAD_LETTERS {
            let limit = query.limit;
            return Err(invalid(format!("`limit` is {limit}: ask for 1 to {MAX_DEAD_LETTERS}")));
        }
        let ledger = self.ledgers.of(&view);
        let mut ledger = ledger.lock().await;
        ledger.catch_up(self.stream.as_ref()).await.map_err(ingest_error)?;
        let page = ledger.page(&query).map_err(invalid)?;
        let letters = self.desk(&view).entries(&ledger, &page.letters).await;
        Ok(DeadLetterPage {
            letters: letters.map_err(ingest_error)?,
            next: page.next,
        })
    }

    async fn dead_letter_summary(&self, source: &str) -> Result<DeadLetterSummary, IngestError> {
        let view = self.view(source)?;
        let ledger = self.ledgers.of(&view);
        let mut ledger = ledger.lock().await;
        ledger.catch_up(self.stream.as_ref()).await.map_err(ingest_error)?;
        Ok(ledger.summary())
    }

    async fn fix(&self, source: &str, request: FixRequest) -> Result<FixReceipt, IngestError> {
        let view = self.view(source)?;
        let ledger = self.ledgers.of(&view);
        let receipt = self.desk(&view).fix(&mut *ledger.lock().await, request).await?;
        meter::handled(source, "fixed", 1);
        Ok(receipt)
    }

    async fn replay(&self, source: &str, request: ReplayRequest) -> Result<HandledReceipt, IngestError> {
        let view = self.view(source)?;
        check_count(&request.positions)?;
        let (ledger, dry_run) = (self.ledgers.of(&view), request.dry_run);
        let receipt = self.desk(&view).replay(&mut *ledger.lock().await, request).await?;
        if !dry_run {
            meter::handled(source, "replayed", receipt.handled.len());
        }
        Ok(receipt)
    }

    async fn discard(&self, source: &str, request: DiscardRequest) -> Result<HandledReceipt, IngestError> {
        let view = self.view(source)?;
        check_count(&request.positions)?;
        let ledger = self.ledgers.of(&view);
        let receipt = self.desk(&view).discard(&mut *ledger.lock().await, request).await?;
        meter::handled(source, "discarded", receipt.handled.len());
        Ok(receipt)
    }
}

fn check_count(positions: &[LetterPosition]) -> Result<(), IngestError> {
    match positions.len() {
        0 => Err(invalid("`positions` is empty: name at least one letter".to_owned())),
        count if count > MAX_DEAD_LETTERS => Err(invalid(format!(
            "`positions` has {count}: send at most {MAX_DEAD_LETTERS}"
        ))),
        _ => Ok(()),
    }
}

const fn invalid(detail: String) -> IngestError {
    IngestError::InvalidRequest { detail }
}

/// The contract's word for what is wrong with the stream.
pub(crate) fn ingest_error(error: StreamError) -> IngestError {
    match error {
        StreamError::Overloaded(detail) => IngestError::Overloaded { detail },
        StreamError::Unavailable(detail) => IngestError::Unavailable { detail },
        error @ (StreamError::TooLarge { .. } | StreamError::TopicName(_)) => invalid(error.to_string()),
        error @ (StreamError::Config(_) | StreamError::Recreated { .. } | StreamError::Corrupt { .. }) => {
            IngestError::Internal {
                detail: error.to_string(),
            }
        }
    }
}

/// What a pushed record is in the stream; `now` where it tells no time.
fn new_record(record: PushRecord, now: EventTime) -> NewRecord {
    let header = |(name, value)| Header {
        name,
        value: Some(Bytes::from(String::into_bytes(value))),
    };
    NewRecord {
        key: record.key.map(Bytes::from),
        headers: record.headers.into_iter().map(header).collect(),
        timestamp: record.timestamp.unwrap_or(now),
        value: record
            .value
            .map(|value| Bytes::from(Box::<str>::from(value).into_string())),
    }
}
