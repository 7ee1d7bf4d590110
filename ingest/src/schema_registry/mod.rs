//! Schemas by their ids, from a registry that speaks Confluent's protocol (Confluent's own, Karapace, Apicurio, Redpanda).
//!
//! An id always means the same schema, so what was learnt is kept. The decode stage asks from the blocking pool and
//! waits; one question is under way at a time, so that sources which meet a new schema together ask once.
//!
//! What an answer means decides between losing nothing and waiting for ever: only the registry's own word that there is
//! no such schema (error code 40403) makes dead letters. Whatever else goes wrong — no connection, a wrong password, an
//! address that is no registry — is an outage: the source waits and its status says why.

mod client;

use crate::config::SchemaRegistryConfig;
use client::{Answer, Client};
use hashbrown::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Schemas kept. When there are more, all are asked for anew.
const BOUND: usize = 4096;
/// A schema may use others, and those others.
const MAX_REFERENCES: usize = 256;
/// For so long an id that is not in the registry is not asked for again.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// A second question is asked this long after the first "no such schema": a follower may lag behind its leader.
const SECOND_LOOK: Duration = Duration::from_millis(500);
/// Second looks in [`UNKNOWN_FOR`]: garbage with ever new ids must not hold a source.
const SECOND_LOOKS: u32 = 8;

/// A schema as the registry has it.
#[derive(Debug, PartialEq, Eq)]
pub struct Registered {
    /// `AVRO`, `PROTOBUF` or `JSON`.
    pub kind: String,
    /// Its text.
    pub text: String,
    /// The schemas it uses, each after those that it uses itself.
    pub references: Vec<Reference>,
}

/// A schema that another one uses.
#[derive(Debug, PartialEq, Eq)]
pub struct Reference {
    /// The name it is used by: a `.proto` file's path, or an Avro type's full name.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Why there is no schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// The registry says that it has none of that id.
    Unknown(String),
    /// What it has can't be used, now or ever.
    Unusable(String),
    /// It can't be told now: why, and the remedy.
    Unavailable(String),
}

/// A registry and what was learnt of it.
pub struct SchemaRegistry {
    client: Client,
    runtime: Handle,
    known: Mutex<Known>,
    /// Held by the one who asks.
    asking: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    schemas: HashMap<u32, Arc<Registered>>,
    unknown: HashMap<u32, Instant>,
    second_looks: u32,
    looks_since: Option<Instant>,
}

impl Registered {
    /// [`Registered::kind`] of Avro.
    pub const AVRO: &'static str = "AVRO";
    /// [`Registered::kind`] of Protobuf.
    pub const PROTOBUF: &'static str = "PROTOBUF";
}

impl fmt::Debug for SchemaRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchemaRegistry").finish_non_exhaustive()
    }
}

impl SchemaRegistry {
    /// A client of the registry that `config` names; none when it names none. Requests run on `runtime`.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(config: &SchemaRegistryConfig, runtime: Handle) -> Result<Option<Self>, String> {
        let Some(client) = Client::new(config)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            client,
            runtime,
            known: Mutex::default(),
            asking: Mutex::default(),
        }))
    }

    /// Schema `id`. Waits for the registry when it is new: for the blocking pool only.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub fn schema(&self, id: u32) -> Result<Arc<Registered>, LookupError> {
        if let Some(found) = self.remembered(id) {
            return found;
        }
        let outages = self.client.outages();
        let _asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have asked while this one waited, or have waited in vain.
        if let Some(found) = self.remembered(id) {
            return found;
        }
        if self.client.outages() != outages {
            return Err(LookupError::Unavailable(
                "the schema registry can't be reached".to_owned(),
            ));
        }
        let mut answer = self.runtime.block_on(self.ask(id));
        if matches!(answer, Err(LookupError::Unknown(_))) && self.may_look_again() {
            std::thread::sleep(SECOND_LOOK);
            answer = self.runtime.block_on(self.ask(id));
        }
        let answer = answer.map(Arc::new);
        self.remember(id, &answer);
        answer
    }

    fn remembered(&self, id: u32) -> Option<Result<Arc<Registered>, LookupError>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(schema) = known.schemas.get(&id) {
            return Some(Ok(Arc::clone(schema)));
        }
        let fresh = known
            .unknown
            .get(&id)
            .is_some_and(|since| since.elapsed() < UNKNOWN_FOR);
        fresh.then(|| Err(unknown(id)))
    }

    pub(crate) fn remember(&self, id: u32, answer: &Result<Arc<Registered>, LookupError>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(schema) => {
                if known.schemas.len() >= BOUND {
                    known.schemas.clear();
                }
                known.unknown.remove(&id);
                known.schemas.insert(id, Arc::clone(schema));
                tracing::info!(id, kind = schema.kind, "schema learnt from the registry");
            }
            Err(LookupError::Unknown(_)) => {
                if known.unknown.len() >= BOUND {
                    known.unknown.clear();
                }
                known.unknown.insert(id, Instant::now());
            }
            Err(LookupError::Unusable(_) | LookupError::Unavailable(_)) => {}
        }
    }

    fn may_look_again(&self) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looks_since.is_none_or(|since| since.elapsed() >= UNKNOWN_FOR) {
            known.looks_since = Some(Instant::now());
            known.second_looks = 0;
        }
        known.second_looks += 1;
        known.second_looks <= SECOND_LOOKS
    }

    /// The schema and all that it uses, depth first.
    async fn ask(&self, id: u32) -> Result<Registered, LookupError> {
        let answer = self.client.by_id(id).await?.ok_or_else(|| unknown(id))?;
        let mut references: Vec<Reference> = Vec::new();
        let mut open: Vec<(Option<Reference>, std::vec::IntoIter<client::ReferenceAnswer>)> =
            vec![(None, answer.references.into_iter())];
        let mut asked = 0;
        while let Some((_, uses)) = open.last_mut() {
            let Some(next) = uses.next() else {
                if let Some((Some(done), _)) = open.pop() {
                    references.push(done);
                }
                continue;
            };
            let met = |reference: &Reference| reference.name == next.name;
            if references.iter().any(met) || open.iter().any(|(open, _)| open.as_ref().is_some_and(met)) {
                continue;
            }
            asked += 1;
            if asked > MAX_REFERENCES {
                let detail = format!("schema {id} of the registry uses more than {MAX_REFERENCES} others");
                return Err(LookupError::Unusable(detail));
            }
            let Answer { schema, references, .. } = self.client.version(&next).await?.ok_or_else(|| {
                LookupError::Unusable(format!(
                    "schema {id} of the registry uses version {} of `{}`, which is not there",
                    next.version, next.subject
                ))
            })?;
            let reference = Reference {
                name: next.name,
                text: schema,
            };
            open.push((Some(reference), references.into_iter()));
        }
        Ok(Registered {
            kind: answer.kind,
            text: answer.schema,
            references,
        })
    }
}

fn unknown(id: u32) -> LookupError {
    LookupError::Unknown(format!(
        "schema {id} is not in the registry: check that producer and ingest use the same registry, then replay"
    ))
}

#[cfg(test)]
mod tests;
