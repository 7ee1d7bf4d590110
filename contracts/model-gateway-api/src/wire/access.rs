//! Who may do what, and what was done: keys, identities, the audit log.

use ondol_vocabulary::EventTime;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::{IntoParams, ToSchema};

/// A key to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// What it is for, for people.
    pub label: String,
    /// Whose it is: rate limits are per tenant.
    pub tenant: String,
    /// What it may do: `predict:fraud`, `predict:*`, `register:fraud`, `route:fraud`, `admin`, …
    pub scopes: Vec<String>,
    /// How long it is good for, in seconds; absent means until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_s: Option<u64>,
}

/// A key as it is listed: everything but the key itself, which nobody holds but its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeySummary {
    /// Names the key; the key begins with `ondol_` and this.
    pub id: String,
    /// What it is for.
    pub label: String,
    /// Whose it is.
    pub tenant: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: EventTime,
    /// Until when it is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<EventTime>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<EventTime>,
    /// When it was last used, to within a minute or so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<EventTime>,
}

/// A key just made. The only answer that ever holds it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedKey {
    /// The key: send it as `Authorization: Bearer …` or `x-api-key`. It can't be shown again.
    pub key: String,
    /// What is known of it.
    #[serde(flatten)]
    pub summary: KeySummary,
}

impl fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedKey")
            .field("key", &"***")
            .field("summary", &self.summary)
            .finish()
    }
}

/// Who the gateway takes the caller for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CallerIdentity {
    /// `key:3f9c2a71`, `jwt:https://issuer#subject`, `certificate:cn:checkout`, or `anyone` where access is off.
    pub who: String,
    /// Whose rate limits hold.
    pub tenant: String,
    /// What the caller may do.
    pub scopes: Vec<String>,
    /// Whether the gateway asks its callers who they are.
    pub access: AccessMode,
}

/// Whether the gateway asks its callers who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AccessMode {
    /// Every caller shows who it is, and may do what its scopes say.
    Required,
    /// Anyone may do anything: a loopback address only.
    Off,
}

/// A change that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Names the entry; entries sort by it as they came.
    pub id: String,
    /// When it was asked for.
    pub at: EventTime,
    /// By whom.
    pub who: String,
    /// The caller's tenant.
    pub tenant: String,
    /// What was to be done: `register`, `route`, `load`, `admin`.
    pub action: String,
    /// To what: the method and the path.
    pub subject: String,
    /// What came of it: `done`, `refused`, `failed`; `pending` while it is under way, or where the process ended in it.
    pub outcome: String,
    /// The answer's HTTP status, once there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// Which entries of the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Entries at most, 1 to 1000; 100 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only entries older than the one of this id: the former page's `next`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Only those of this action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}

/// Entries of the audit log, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// Where older ones are, if there may be any: the next query's `before`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
