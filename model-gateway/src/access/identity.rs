//! Who a caller is taken for.

use super::scopes::Scopes;
use ondol_model_gateway_api::wire::{AccessMode, CallerIdentity};

/// A caller that showed who it is; or anyone, where access is off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `key:…`, `jwt:…`, `certificate:…`, `anyone`. In the audit log.
    pub who: String,
    /// Whose rate limits hold.
    pub tenant: String,
    /// What it may do.
    pub scopes: Scopes,
}

impl Identity {
    /// Where access is off.
    pub(crate) fn anyone() -> Self {
        Self {
            who: "anyone".to_owned(),
            tenant: "anyone".to_owned(),
            scopes: Scopes::admin(),
        }
    }

    /// As it is told to the caller.
    pub(crate) fn shown(&self, access: AccessMode) -> CallerIdentity {
        CallerIdentity {
            who: self.who.clone(),
            tenant: self.tenant.clone(),
            scopes: self.scopes.to_texts(),
            access,
        }
    }
}
