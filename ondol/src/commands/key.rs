//! `key create`, `list`, `revoke`, `whoami` and `bootstrap`; and `audit`.

use crate::cli::{AuditArgs, BootstrapKeyArgs, CreateKeyArgs, KeyCommand, Output, ServerArgs};
use crate::config::OndolConfig;
use crate::print;
use anyhow::{Context as _, Result};
use ondol_model_gateway_api::GatewayAccess as _;
use ondol_model_gateway_api::wire::{AuditPage, AuditQuery, CallerIdentity, CreateKey, CreatedKey, KeySummary};
use ondol_runtime::{Clock as _, SystemClock};
use ondol_vocabulary::EventTime;

/// `ondol key`.
pub(crate) async fn run(command: &KeyCommand, output: Output) -> Result<()> {
    match command {
        KeyCommand::Create(args) => create(args, output).await,
        KeyCommand::List(connect) => {
            let keys = connect.gateway_access()?.keys().await?;
            print::result(output, &keys, |keys: &Vec<KeySummary>| table(keys))
        }
        KeyCommand::Revoke(args) => {
            let key = args.connect.gateway_access()?.revoke_key(&args.id).await?;
            print::result(output, &key, |key: &KeySummary| {
                format!(
                    "revoked {} ({}): other replicas refuse it within `access.refresh_ms`",
                    key.id, key.label
                )
            })
        }
        KeyCommand::Whoami(connect) => {
            let identity = connect.gateway_access()?.identity().await?;
            print::result(output, &identity, |identity: &CallerIdentity| {
                format!(
                    "{}, of tenant {}\nmay do: {}",
                    identity.who,
                    identity.tenant,
                    identity.scopes.join(", ")
                )
            })
        }
        KeyCommand::Bootstrap(args) => bootstrap(args, output).await,
    }
}

async fn create(args: &CreateKeyArgs, output: Output) -> Result<()> {
    let request = CreateKey {
        label: args.label.clone(),
        tenant: args.tenant.clone(),
        scopes: args.scopes.clone(),
        lifetime_s: args.expires,
    };
    let created = args.connect.gateway_access()?.create_key(request).await?;
    print::result(output, &created, describe)
}

/// Works without the server: who can write its database is trusted already.
async fn bootstrap(args: &BootstrapKeyArgs, output: Output) -> Result<()> {
    let server = ServerArgs {
        config: args.config.clone(),
        listen: None,
        data: args.data.clone(),
    };
    let config = OndolConfig::load(&server, |_| {})?.model_gateway;
    std::fs::create_dir_all(&config.data_dir).with_context(|| format!("can't use `{}`", config.data_dir.display()))?;
    let now = EventTime::from_micros(SystemClock.now_micros());
    let created =
        ondol_model_gateway::access::bootstrap(&config.database_url(), &args.label, args.another, now).await?;
    print::result(output, &created, describe)
}

/// A key just made.
fn describe(created: &CreatedKey) -> String {
    let key = &created.summary;
    let until = key
        .expires_at
        .map_or_else(|| "until it is revoked".to_owned(), |at| format!("until {at}"));
    format!(
        "{}\n\nThis is the only time it is shown. {} ({}), of tenant {}, may do: {}; good {until}.\n\
         Use it:  export ONDOL_TOKEN=…   or   curl -H 'Authorization: Bearer …'",
        created.key,
        key.id,
        key.label,
        key.tenant,
        key.scopes.join(", ")
    )
}

fn table(keys: &[KeySummary]) -> String {
    let moment = |at: Option<EventTime>| at.map(|at| at.to_string()).unwrap_or_default();
    let rows = keys.iter().map(|key| {
        let until = match key.revoked_at {
            Some(at) => format!("revoked {at}"),
            None => moment(key.expires_at),
        };
        [
            key.id.clone(),
            key.label.clone(),
            key.tenant.clone(),
            key.scopes.join(" "),
            key.created_at.to_string(),
            until,
            moment(key.last_used_at),
        ]
    });
    print::table(["id", "label", "tenant", "scopes", "made", "until", "last used"], rows)
}

/// `ondol audit`.
pub(crate) async fn audit(args: &AuditArgs, output: Output) -> Result<()> {
    let query = AuditQuery {
        limit: Some(args.limit),
        before: args.before.clone(),
        action: args.action.clone(),
    };
    let page = args.connect.gateway_access()?.audit(query).await?;
    print::result(output, &page, |page: &AuditPage| {
        let rows = page.entries.iter().map(|entry| {
            let status = entry.status.map(|status| status.to_string()).unwrap_or_default();
            [
                entry.at.to_string(),
                entry.who.clone(),
                entry.action.clone(),
                entry.subject.clone(),
                format!("{} {status}", entry.outcome),
            ]
        });
        let table = print::table(["when", "who", "action", "what", "outcome"], rows);
        match &page.next {
            Some(next) => format!("{table}\n\nolder ones: --before {next}"),
            None => table,
        }
    })
}
