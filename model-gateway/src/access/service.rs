//! Keys and the audit log behind the contract; and the first key, made on the server's own machine.

use super::Access;
use super::keys::{KeptKey, NewKey};
use super::scopes::{Scope, Scopes};
use super::store::AccessStore;
use async_trait::async_trait;
use ondol_model_gateway_api::wire::{AuditEntry, AuditPage, AuditQuery, CreateKey, CreatedKey, KeySummary};
use ondol_model_gateway_api::{AccessError, GatewayAccess};
use ondol_vocabulary::EventTime;

/// Longest label and tenant, in characters.
const NAME_CHARS: usize = 200;
/// Most scopes of a key.
const SCOPES: usize = 100;
/// Longest life of a key that ends, in seconds: a hundred years.
const LIFETIME_S: u64 = 100 * 366 * 86_400;

#[async_trait]
impl GatewayAccess for Access {
    async fn create_key(&self, request: CreateKey) -> Result<CreatedKey, AccessError> {
        let now = EventTime::from_micros(self.clock.now_micros());
        let created = add(&self.store, request, now).await?;
        self.refresh().await.map_err(|error| failed(&error))?;
        Ok(created)
    }

    async fn keys(&self) -> Result<Vec<KeySummary>, AccessError> {
        let kept = self.store.keys().await.map_err(|error| failed(&error))?;
        Ok(kept.into_iter().map(|key| key.summary).collect())
    }

    async fn revoke_key(&self, id: &str) -> Result<KeySummary, AccessError> {
        let now = EventTime::from_micros(self.clock.now_micros());
        self.store.revoke(id, now).await.map_err(|error| failed(&error))?;
        let key = self.store.key(id).await.map_err(|error| failed(&error))?;
        let key = key.ok_or_else(|| AccessError::UnknownKey { id: id.to_owned() })?;
        self.refresh().await.map_err(|error| failed(&error))?;
        Ok(key.summary)
    }

    async fn audit(&self, query: AuditQuery) -> Result<AuditPage, AccessError> {
        self.store.audit(&query).await.map_err(|error| failed(&error))
    }
}

/// Makes a key that may do everything in the database at `url`, for who has the server's machine and no key yet.
///
/// # Errors
/// When there is such a key already and not `another` is wanted, or the database can't be used.
pub async fn bootstrap(url: &str, label: &str, another: bool, now: EventTime) -> Result<CreatedKey, AccessError> {
    let store = AccessStore::open(url).await.map_err(|error| failed(&error))?;
    let outcome = first_key(&store, label, another, now).await;
    store.close().await;
    outcome
}

async fn first_key(store: &AccessStore, label: &str, another: bool, now: EventTime) -> Result<CreatedKey, AccessError> {
    let good = |key: &KeySummary| {
        let ended = key.expires_at.is_some_and(|end| end <= now);
        key.revoked_at.is_none() && !ended && key.scopes.iter().any(|scope| scope == "admin")
    };
    let known = store.keys().await.map_err(|error| failed(&error))?;
    if let Some(key) = known.iter().map(|key| &key.summary).find(|key| good(key))
        && !another
    {
        return Err(AccessError::InvalidRequest {
            detail: format!(
                "there is a key that may do everything: `{}` ({}); make another with --another, or use that one",
                key.id, key.label
            ),
        });
    }
    let request = CreateKey {
        label: label.to_owned(),
        tenant: "admin".to_owned(),
        scopes: vec![Scope::Admin.to_string()],
        lifetime_s: None,
    };
    let entry = AuditEntry {
        id: ulid::Ulid::new().to_string(),
        at: now,
        who: "bootstrap".to_owned(),
        tenant: "admin".to_owned(),
        action: "admin".to_owned(),
        subject: "ondol key bootstrap".to_owned(),
        outcome: "done".to_owned(),
        status: None,
    };
    store.begin(&entry).await.map_err(|error| failed(&error))?;
    add(store, request, now).await
}

async fn add(store: &AccessStore, request: CreateKey, now: EventTime) -> Result<CreatedKey, AccessError> {
    check(&request)?;
    let scopes = Scopes::parse(&request.scopes).map_err(|error| invalid(format!("`scopes`: {error}")))?;
    let new = NewKey::random().ok_or_else(|| AccessError::Unavailable {
        detail: "the system gives no random numbers".to_owned(),
    })?;
    let lives = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    let summary = KeySummary {
        id: new.id,
        label: request.label,
        tenant: request.tenant,
        scopes: scopes.to_texts(),
        created_at: now,
        expires_at: request
            .lifetime_s
            .map(|seconds| EventTime::from_micros(now.micros().saturating_add(lives(seconds)))),
        revoked_at: None,
        last_used_at: None,
    };
    let kept = KeptKey {
        summary,
        digest: new.digest,
    };
    store.add_key(&kept).await.map_err(|error| failed(&error))?;
    Ok(CreatedKey {
        key: new.key,
        summary: kept.summary,
    })
}

fn check(request: &CreateKey) -> Result<(), AccessError> {
    for (name, text) in [("label", &request.label), ("tenant", &request.tenant)] {
        if text.trim().is_empty() || text.chars().count() > NAME_CHARS || text.contains(char::is_control) {
            return Err(invalid(format!(
                "`{name}` is empty or longer than {NAME_CHARS} characters, or holds control characters"
            )));
        }
    }
    if request.scopes.is_empty() || request.scopes.len() > SCOPES {
        return Err(invalid(format!(
            "`scopes` has {} entries: give 1 to {SCOPES}, such as `predict:fraud`",
            request.scopes.len()
        )));
    }
    if request
        .lifetime_s
        .is_some_and(|seconds| seconds == 0 || seconds > LIFETIME_S)
    {
        return Err(invalid(format!("`lifetime_s` is not between 1 and {LIFETIME_S}")));
    }
    Ok(())
}

fn invalid(detail: String) -> AccessError {
    AccessError::InvalidRequest { detail }
}

/// The database's words stay in the log: they could tell where it is.
fn failed(error: &sqlx::Error) -> AccessError {
    tracing::error!(%error, "keys and the audit log can't be used");
    AccessError::Unavailable {
        detail: "the database of keys and of the audit log does not answer".to_owned(),
    }
}
