//! What live models read is not taken away or changed under them, unless somebody insists.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use ondol_feature_store::registry::Registry;
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::uses::{BrokenUse, FeatureUse, ModelUse};
use ondol_feature_store_api::wire::{DefinitionFile, DefinitionFiles};
use ondol_vocabulary::{DataType, FeatureRef, VersionedName, ViewState};
use sqlx::Connection;

const DEFINITIONS: &str = r#"
[source.transactions]
kafka  = "transactions"
time   = "ts"
schema = { card_id = "string", amount = "f64", ts = "timestamp" }

[view.card]
from = "transactions"
key  = "card_id"
ttl  = "30d"
features.n_1h      = "count() over 1h"
features.spend_24h = "sum(amount) over 24h"

[model.fraud]
inputs   = { card_id = "string", amount = "f64" }
features = ["card.n_1h", "card.spend_24h", "amount"]
"#;

fn files(text: &str) -> DefinitionFiles {
    DefinitionFiles {
        files: vec![DefinitionFile {
            path: "features.toml".to_owned(),
            text: text.to_owned(),
        }],
    }
}

/// The use of a version of `fraud` that stands on `card@view_version`.
fn fraud(version: u32, view_version: u32) -> ModelUse {
    let read = |feature: &str, data_type| FeatureUse {
        feature: FeatureRef::new("card", feature),
        view_version,
        data_type,
    };
    ModelUse {
        model: VersionedName::new("fraud", version),
        reads: vec![read("n_1h", DataType::I64), read("spend_24h", DataType::F64)],
    }
}

async fn activate(registry: &Registry) {
    let snapshot = registry.snapshot();
    for view in snapshot
        .views
        .iter()
        .filter(|view| view.state == ViewState::Provisioning)
    {
        registry.activate(view.id).await.unwrap();
    }
}

/// A registry in which `fraud@1` serves from `card@1`.
async fn with_a_live_model(url: &str) -> Registry {
    let registry = Registry::open(url).await.unwrap();
    registry.apply(&files(DEFINITIONS)).await.unwrap();
    activate(&registry).await;
    registry.publish_uses("gateway", vec![fraud(1, 1)]).await.unwrap();
    registry
}

fn broken(error: FeatureStoreError) -> Vec<BrokenUse> {
    match error {
        FeatureStoreError::InUse { broken } => broken,
        other => panic!("{other}"),
    }
}

/// The lines by which `text` is refused, by plan and apply alike; empty when it is not.
async fn refused(registry: &Registry, text: &str) -> Vec<String> {
    let plan = registry.plan(&files(text)).await;
    let Err(planned) = plan else { return Vec::new() };
    let planned = broken(planned);
    assert_eq!(broken(registry.apply(&files(text)).await.unwrap_err()), planned);
    planned.iter().map(ToString::to_string).collect()
}

async fn suite(url: &str) {
    let registry = with_a_live_model(url).await;
    let version = registry.snapshot().version;

    let narrower = DEFINITIONS.replace("over 24h", "over 12h");
    let lines = refused(&registry, &narrower).await;
    assert_eq!(
        lines,
        ["card.spend_24h: sum(amount) over 24h → sum(amount) over 12h (used by fraud@1)"]
    );
    let gone = DEFINITIONS
        .replace("features.spend_24h = \"sum(amount) over 24h\"\n", "")
        .replace("\"card.spend_24h\", ", "");
    assert_eq!(
        refused(&registry, &gone).await,
        ["card.spend_24h would be removed (used by fraud@1)"]
    );
    let retyped = DEFINITIONS.replace("sum(amount) over 24h", "count() over 24h");
    assert_eq!(
        refused(&registry, &retyped).await,
        ["card.spend_24h: f64 → i64 (used by fraud@1)"]
    );
    let shorter = DEFINITIONS.replace("30d", "7d");
    assert_eq!(
        refused(&registry, &shorter).await,
        ["view card would have another `ttl` (used by fraud@1)"]
    );
    let (rest, _) = DEFINITIONS.split_once("[model.fraud]").unwrap();
    assert_eq!(
        refused(&registry, rest).await,
        ["model fraud would be removed (used by fraud@1)"]
    );
    let (sources, _) = DEFINITIONS.split_once("[view.card]").unwrap();
    let lines = refused(&registry, sources).await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[1], "view card would be removed (used by fraud@1)");
    assert_eq!(registry.snapshot().version, version, "nothing of it was applied");

    // A new version of the view that keeps what is read is no breach; nor is a model's new definition.
    let more = DEFINITIONS
        .replace("features.n_1h", "features.n_2h = \"count() over 2h\"\nfeatures.n_1h")
        .replace("\"card.n_1h\", ", "\"card.n_1h\", \"card.n_2h\", ");
    assert_eq!(refused(&registry, &more).await, Vec::<String>::new());
    registry.apply(&files(&more)).await.unwrap();
    activate(&registry).await;

    // By force, and then what was broken is not held against the next change.
    let forced = more.replace("over 24h", "over 12h");
    registry.apply_forced(&files(&forced)).await.unwrap();
    activate(&registry).await;
    let next = forced.replace("\"count() over 2h\"", "\"count() over 3h\"");
    assert_eq!(refused(&registry, &next).await, Vec::<String>::new());
    let worse = forced.replace("over 12h", "over 6h");
    assert_eq!(refused(&registry, &worse).await.len(), 1);

    // Uses outlive their process; a consumer replaces its own and nobody else's.
    drop(registry);
    let registry = Registry::open(url).await.unwrap();
    registry.publish_uses("other", vec![fraud(7, 2)]).await.unwrap();
    let again = registry.publish_uses("gateway", vec![fraud(1, 1)]).await.unwrap();
    let uses = registry.uses().await.unwrap();
    assert_eq!(uses.len(), 2);
    assert_eq!(uses[0], again);
    registry.publish_uses("gateway", Vec::new()).await.unwrap();
    registry.publish_uses("other", Vec::new()).await.unwrap();
    assert_eq!(refused(&registry, sources).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_live_models_read_is_kept_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    suite(&format!("sqlite://{}/registry.db", folder.path().display())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_live_models_read_is_kept_on_postgres() {
    let server = ondol_testkit::services::postgres();
    let name = ondol_testkit::unique_name("uses");
    sqlx::any::install_default_drivers();
    let mut connection = sqlx::AnyConnection::connect(&server).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&mut connection)
        .await
        .unwrap();
    let (base, _) = server.rsplit_once('/').unwrap();
    suite(&format!("{base}/{name}")).await;
}
