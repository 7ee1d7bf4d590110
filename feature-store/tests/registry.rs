//! The registry's promises, kept alike by SQLite and PostgreSQL.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use ondol_feature_store::registry::{Registry, RowsProgress};
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::provisioning::{Provisioning, ProvisioningState};
use ondol_feature_store_api::wire::{Change, ChangeAction, DefinitionFile, DefinitionFiles};
use ondol_vocabulary::{Snapshot, ViewState};
use sqlx::Connection;
use std::sync::Arc;

const SOURCE: &str = r#"
[source.transactions]
kafka  = "transactions"
time   = "ts"
late   = "5m"
schema = { card_id = "string", merchant_id = "string", amount = "f64", ts = "timestamp" }
"#;

const VIEW: &str = r#"
[view.card]
from = "transactions"
key  = "card_id"
features.n_1h      = "count() over 1h"
features.spend_24h = "sum(amount) over 24h"
"#;

const MODEL: &str = r#"
[model.fraud]
inputs   = { card_id = "string", amount = "f64" }
features = ["card.*", "amount"]
"#;

fn files(texts: &[&str]) -> DefinitionFiles {
    DefinitionFiles {
        files: vec![DefinitionFile {
            path: "features.toml".to_owned(),
            text: texts.concat(),
        }],
    }
}

/// A database of its own for each test; dropped with the folder, or left to the throw-away server.
struct Place {
    url: String,
    _folder: Option<tempfile::TempDir>,
}

fn sqlite() -> Place {
    let folder = tempfile::tempdir().unwrap();
    Place {
        url: format!("sqlite://{}/deep/registry.db", folder.path().display()),
        _folder: Some(folder),
    }
}

async fn postgres() -> Place {
    let server = ondol_testkit::services::postgres();
    let name = ondol_testkit::unique_name("registry");
    sqlx::any::install_default_drivers();
    let mut connection = sqlx::AnyConnection::connect(&server).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&mut connection)
        .await
        .unwrap();
    let (base, _) = server.rsplit_once('/').unwrap();
    Place {
        url: format!("{base}/{name}"),
        _folder: None,
    }
}

/// Runs one test of the suite on both databases.
macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let place = super::sqlite();
                super::$test(&place.url).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let place = super::postgres().await;
                super::$test(&place.url).await;
            })*
        }
    };
}

suite!(
    a_new_registry_holds_only_the_built_in_sources,
    applying_the_same_files_again_changes_nothing,
    a_plan_changes_nothing_and_says_what_apply_does,
    a_default_is_part_of_a_views_version_and_is_shown,
    a_changed_view_serves_its_old_version_until_the_new_one_is_activated,
    activation_retires_the_old_version_at_once_and_is_idempotent,
    a_changed_source_makes_new_view_versions,
    going_back_to_the_serving_version_drops_the_one_being_provisioned,
    a_view_that_comes_back_continues_its_versions,
    what_is_not_in_the_files_is_removed,
    a_columns_type_cannot_change,
    columns_that_differ_by_case_alone_are_refused,
    a_column_that_a_serving_view_uses_cannot_go,
    a_source_cannot_go_while_a_view_serves_from_it,
    bad_definitions_are_refused_with_their_place,
    history_is_newest_first_and_suggests_names,
    the_registry_survives_a_restart,
    concurrent_applies_happen_one_after_the_other,
    another_process_follows_a_change,
    provisioned_generations_are_remembered,
    a_hold_outlives_its_process_and_ends_with_the_provisioning,
    a_view_over_a_table_or_one_that_serves_can_not_be_held,
    rows_that_are_built_anew_can_be_held_too,
);

async fn open(url: &str) -> Registry {
    let registry = Registry::open(url).await.unwrap();
    registry.count_rows_with(Arc::new(|source| (source == "transactions").then_some(1_000)));
    registry
}

async fn apply(registry: &Registry, texts: &[&str]) -> Vec<Change> {
    registry.apply(&files(texts)).await.unwrap().changes
}

fn views(snapshot: &Snapshot) -> Vec<(String, u32, ViewState)> {
    snapshot
        .views
        .iter()
        .map(|view| (view.definition.name.clone(), view.version, view.state))
        .collect()
}

async fn activate_all(registry: &Registry) {
    for view in registry
        .snapshot()
        .views
        .iter()
        .filter(|view| view.state == ViewState::Provisioning)
    {
        registry.activate(view.id).await.unwrap();
    }
}

fn summary(changes: &[Change]) -> Vec<(String, String, ChangeAction)> {
    changes
        .iter()
        .map(|change| (change.noun.clone(), change.name.to_string(), change.action))
        .collect()
}

fn entry(noun: &str, name: &str, action: ChangeAction) -> (String, String, ChangeAction) {
    (noun.to_owned(), name.to_owned(), action)
}

fn refusal(error: FeatureStoreError, code: &str) -> ondol_feature_store_api::wire::Diagnostic {
    let FeatureStoreError::InvalidDefinitions { diagnostics } = error else {
        panic!("{error}")
    };
    let found = diagnostics.iter().find(|diagnostic| diagnostic.code == code);
    found
        .unwrap_or_else(|| panic!("no `{code}` in {diagnostics:?}"))
        .clone()
}

async fn a_new_registry_holds_only_the_built_in_sources(url: &str) {
    let registry = open(url).await;
    let snapshot = registry.snapshot();
    assert_eq!(
        snapshot
            .sources
            .iter()
            .map(|source| source.definition.name.as_str())
            .collect::<Vec<_>>(),
        ["decisions", "outcomes"]
    );
    assert!(snapshot.views.is_empty() && snapshot.models.is_empty());
    assert_eq!(registry.plan(&files(&[])).await.unwrap().changes, []);
}

async fn applying_the_same_files_again_changes_nothing(url: &str) {
    let registry = open(url).await;
    assert_eq!(apply(&registry, &[SOURCE, VIEW, MODEL]).await.len(), 3);
    let first = registry.snapshot();
    assert_eq!(apply(&registry, &[SOURCE, VIEW, MODEL]).await, []);
    activate_all(&registry).await;
    assert_eq!(apply(&registry, &[MODEL, VIEW, SOURCE]).await, []);
    assert_eq!(registry.snapshot().version, first.version + 1);
}

async fn a_plan_changes_nothing_and_says_what_apply_does(url: &str) {
    let registry = open(url).await;
    let before = registry.snapshot();
    let plan = registry.plan(&files(&[SOURCE, VIEW, MODEL])).await.unwrap();
    assert_eq!(plan.base_version, before.version);
    assert_eq!(registry.snapshot(), before);
    assert_eq!(
        summary(&plan.changes),
        [
            entry("source", "transactions@1", ChangeAction::Create),
            entry("view", "card@1", ChangeAction::Create),
            entry("model", "fraud@1", ChangeAction::Create),
        ]
    );
    assert_eq!(plan.changes[1].rows_to_backfill, Some(1_000));
    assert_eq!(plan.changes[1].models_affected, ["fraud"]);
    let row = plan.changes[1].row_bytes.clone().unwrap();
    assert!(0 < row.typical && row.typical < row.most, "{row:?}");
    assert_eq!(row.parts.iter().map(|part| part.most).sum::<u64>(), row.most);
    assert_eq!((&plan.changes[0].row_bytes, &plan.changes[2].row_bytes), (&None, &None));
    assert_eq!(plan.changes, apply(&registry, &[SOURCE, VIEW, MODEL]).await);
}

async fn a_default_is_part_of_a_views_version_and_is_shown(url: &str) {
    let registry = open(url).await;
    apply(&registry, &[SOURCE, VIEW, MODEL]).await;
    activate_all(&registry).await;
    let changed = VIEW.replace(
        "\"sum(amount) over 24h\"",
        "{ expr = \"sum(amount) over 24h\", default = 0 }",
    );
    let changes = apply(&registry, &[SOURCE, &changed, MODEL]).await;
    assert_eq!(summary(&changes), [entry("view", "card@2", ChangeAction::Update)]);
    assert_eq!(
        changes[0].differences,
        ["feature spend_24h: sum(amount) over 24h (f64) → sum(amount) over 24h (f64, default 0)"]
    );
    drop(registry);
    // What comes back from the database is what was written: nothing has changed.
    let again = open(url).await;
    assert_eq!(apply(&again, &[SOURCE, &changed, MODEL]).await, []);
}

async fn a_changed_view_serves_its_old_version_until_the_new_one_is_activated(url: &str) {
    let registry = open(url).await;
    apply(&registry, &[SOURCE, VIEW, MODEL]).await;
    activate_all(&registry).await;
    let changed = VIEW.replace("over 24h", "over 12h");
    let changes = apply(&registry, &[SOURCE, &changed, MODEL]).await;
    assert_eq!(summary(&changes), [entry("view", "card@2", ChangeAction::Update)]);
    assert_eq!(
        changes[0].differences,
        ["feature spend_24h: sum(amount) over 24h (f64) → sum(amount) over 12h (f64)"]
    );
    let snapshot = registry.snapshot();
    assert_eq!(
        views(&snapshot),
        [
            ("card".to_owned(), 1, ViewState::Active),
            ("card".to_owned(), 2, ViewState::Provisioning)
        ]
    );
    assert_ne!(snapshot.views[0].id, snapshot.views[1].id);
}

async fn activation_retires_the_old_version_at_once_and_is_idempotent(url: &str) {
    let registry = open(url).await;
    apply(&registry, &[SOURCE, VIEW]).await;
    let old = registry.snapshot().views[0].id;
    registry.activate(old).await.unwrap();
    apply(&registry, &[SOURCE, &VIEW.replace("over 24h", "over 12h")]).await;
    let new = registry.snapshot().views[1].id;
    let mut followed = registry.subscribe();
    followed.mark_unchanged();
    registry.activate(new).await.unwrap();
    assert!(followed.has_changed().unwrap());
    assert_eq!(views(&registry.snapshot()), [("card".to_owned(), 2, ViewState::Active)]);
    let version = registry.snapshot().version;
    registry.activate(new).await.unwrap();
    assert_eq!(registry.snapshot().version, version);
    assert!(matches!(
        registry.activate(old).await.unwrap_err(),
        FeatureStoreError::InvalidRequest { .. }
    ));
    assert!(matches!(
        registry.activate(99).await.unwrap_err(),
        FeatureStoreError::Unknown { .. }
    ));
}

async fn a_changed_source_makes_new_view_versions(url: &str) {
    let registry = open(url).await;
    apply(&registry, &[SOURCE, VIEW, MODEL]).await;
    activate_all(&registry).await;
    let wider = SOURCE.replace("amount = \"f64\"", "amount = \"f64\", country = \"string\"");
    let changes = apply(&registry, &[&wider, VIEW, MODEL]).await;
    assert_eq!(
        summary(&changes),
        [
            entry("source", "transactions@2", ChangeAction::Update),
            entry("view", "card@2", ChangeAction::Update)
        ]
    );
    assert_eq!(changes[0].differences, ["column country: added: string"]);
    assert_eq!(changes[0].models_affected, ["fraud"]);
    assert_eq!(changes[1].differences, ["reads transactions@1 → transactions@2"]);
}

async fn going_back_to_the_serving_version_drops_the_one_being_provisioned(url: &str) {
    let registry = open(url).await;
    apply(&registry, &[SOURCE, VIEW]).await;
    activate_all(&registry).await;
    apply(&registry, &[SOURCE, &VIEW.replace("over 24h", "over 12h")]).await;
    let changes = apply(&registry, &[SOURCE, VIEW]).await;
    assert_eq!(summary(&changes), [entry("view", "card@1", ChangeAction::Update)]);
    assert_eq!(views(&registry.snapshot()), [("card".to_owned(), 1, ViewState::Active)]);
    assert_eq!(apply(&registry, &[SOURCE, VIEW]).await, []);
}

async fn a_view_that_comes_back_continues_its_versions(url: &str) {
    let registry = open(url).await;
    apply(&registry, &[SOURCE, VIEW]).await;
    let first = registry.snapshot().views[0].id;
    apply(&registry, &[SOURCE]).await;
    let changes = apply(&registry, &[SOURCE, VIEW]).await;
    assert_eq!(summary(&changes), [entry("view", "card@2", ChangeAction::Create)]);
    assert!(
        registry.snapshot().views[0].id > first,
        "an id in stored rows is never used again"
    );
}

async fn what_is_not_in_the_files_is_removed(url: &str) {
    let registry = open(url).await;
    apply(&registry, &[SOURCE, VIEW, MODEL]).await;
    let changes = apply(&registry, &[]).await;
    assert_eq!(
        summary(&changes),
        [
            entry("source", "transactions@1", ChangeAction::Remove),
            entry("view", "card@1", ChangeAction::Remove),
            entry("model", "fraud@1", ChangeAction::Remove),
        ]
    );
    assert_eq!(changes[1].models_affected, ["fraud"]);
    let snapshot = registry.snapshot();
    assert_eq!(
        (snapshot.sources.len(), snapshot.views.len(), snapshot.models.len()),
        (2, 0, 0)
    );
}

async fn a_columns_type_cannot_change(url: &str) {
    let registry = open(url).await;
    apply(&registry, &[SOURCE]).await;
    let retyped = SOURCE.replace("merchant_id = \"string\"", "merchant_id = \"i64\"");
    let diagnostic = refusal(
        registry.apply(&files(&[&retyped])).await.unwrap_err(),
        "incompatible-type",
    );
    assert_eq!(diagnostic.help.as_deref(), Some("give the new column another name"));
    assert_eq!(diagnostic.line, 6, "{diagnostic}");
    let place = &retyped[diagnostic.start as usize..diagnostic.end as usize];
    assert_eq!(place, "merchant_id");
    // Removing the source does not free the name: the log is still there.
    apply(&registry, &[]).await;
    refusal(
        registry.plan(&files(&[&retyped])).await.unwrap_err(),
        "incompatible-type",
    );
    apply(
        &registry,
        &[&SOURCE.replace("merchant_id = \"string\"", "shop = \"i64\"")],
    )
    .await;
}

async fn columns_that_differ_by_case_alone_are_refused(url: &str) {
    let registry = open(url).await;
    apply(&registry, &[SOURCE]).await;
    let again = SOURCE.replace("merchant_id = \"string\"", "Merchant_ID = \"string\"");
    refusal(
        registry.plan(&files(&[&again])).await.unwrap_err(),
        "column-differs-by-case",
    );
}

async fn a_column_that_a_serving_view_uses_cannot_go(url: &str) {
    let registry = open(url).await;
    apply(&registry, &[SOURCE, VIEW]).await;
    activate_all(&registry).await;
    let narrower = SOURCE.replace("amount = \"f64\", ", "");
    let modest = "[view.card]\nfrom = \"transactions\"\nkey = \"card_id\"\nfeatures.n_1h = \"count() over 1h\"\n";
    let error = registry.apply(&files(&[&narrower, modest])).await.unwrap_err();
    assert!(refusal(error, "column-in-use").message.contains("card@1"));
    apply(&registry, &[SOURCE, modest]).await;
    activate_all(&registry).await;
    apply(&registry, &[&narrower, modest]).await;
}

async fn a_source_cannot_go_while_a_view_serves_from_it(url: &str) {
    let registry = open(url).await;
    apply(&registry, &[SOURCE, VIEW]).await;
    activate_all(&registry).await;
    let other = SOURCE.replace("source.transactions", "source.payments");
    let moved = VIEW.replace("from = \"transactions\"", "from = \"payments\"");
    refusal(
        registry.apply(&files(&[&other, &moved])).await.unwrap_err(),
        "source-in-use",
    );
    apply(&registry, &[SOURCE, &other, &moved]).await;
    activate_all(&registry).await;
    apply(&registry, &[&other, &moved]).await;
}

async fn bad_definitions_are_refused_with_their_place(url: &str) {
    let registry = open(url).await;
    let error = registry
        .plan(&files(&[SOURCE, &VIEW.replace("sum(amount)", "sum(amuont)")]))
        .await
        .unwrap_err();
    let FeatureStoreError::InvalidDefinitions { diagnostics } = error else {
        panic!("{error}")
    };
    assert_eq!((diagnostics.len(), diagnostics[0].file.as_str()), (1, "features.toml"));
}

async fn history_is_newest_first_and_suggests_names(url: &str) {
    let registry = open(url).await;
    apply(&registry, &[SOURCE, VIEW]).await;
    activate_all(&registry).await;
    apply(&registry, &[SOURCE, &VIEW.replace("over 24h", "over 12h")]).await;
    let history = registry.history("card").await.unwrap();
    assert_eq!(history.noun, "view");
    let versions: Vec<_> = history
        .versions
        .iter()
        .map(|version| (version.version, version.in_force))
        .collect();
    assert_eq!(versions, [(2, false), (1, true)]);
    assert_eq!(history.versions[0].definition["name"], "card");
    assert_eq!(registry.history("source.transactions").await.unwrap().versions.len(), 1);
    let error = registry.history("crad").await.unwrap_err();
    assert!(
        matches!(&error, FeatureStoreError::Unknown { suggestion: Some(name), .. } if name == "card"),
        "{error}"
    );
}

async fn the_registry_survives_a_restart(url: &str) {
    let registry = open(url).await;
    apply(&registry, &[SOURCE, VIEW, MODEL]).await;
    activate_all(&registry).await;
    let before = registry.snapshot();
    drop(registry);
    assert_eq!(open(url).await.snapshot(), before);
}

async fn concurrent_applies_happen_one_after_the_other(url: &str) {
    open(url).await;
    let mut tasks = tokio::task::JoinSet::new();
    for window in 1..=8 {
        let url = url.to_owned();
        tasks.spawn(async move {
            let registry = open(&url).await;
            apply(
                &registry,
                &[SOURCE, &VIEW.replace("over 24h", &format!("over {window}h"))],
            )
            .await;
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let registry = open(url).await;
    let history = registry.history("card").await.unwrap();
    let versions: Vec<u32> = history.versions.iter().map(|version| version.version).collect();
    assert_eq!(versions, (1..=8).rev().collect::<Vec<_>>());
    assert_eq!(views(&registry.snapshot()).len(), 1);
}

async fn another_process_follows_a_change(url: &str) {
    let (one, other) = (open(url).await, open(url).await);
    let mut followed = other.subscribe();
    followed.mark_unchanged();
    apply(&one, &[SOURCE]).await;
    other.refresh().await.unwrap();
    assert!(followed.has_changed().unwrap());
    assert_eq!(other.snapshot(), one.snapshot());
}

async fn provisioned_generations_are_remembered(url: &str) {
    let registry = open(url).await;
    registry.set_provisioned(1, "g1").await.unwrap();
    registry.set_provisioned(1, "g1").await.unwrap();
    assert_eq!(open(url).await.provisioned(1).await.unwrap(), ["g1"]);
    assert_eq!(registry.provisioned(2).await.unwrap(), Vec::<String>::new());
}

async fn only(registry: &Registry) -> Provisioning {
    let mut found = registry.provisionings().await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

async fn a_hold_outlives_its_process_and_ends_with_the_provisioning(url: &str) {
    let (registry, other) = (open(url).await, open(url).await);
    apply(&registry, &[SOURCE, VIEW]).await;
    let waiting = only(&registry).await;
    assert_eq!(
        (waiting.name().to_string(), waiting.source.as_str()),
        ("card@1".to_owned(), "transactions")
    );
    assert_eq!(
        (waiting.state, waiting.rows_done, waiting.rows_total, waiting.started_at),
        (ProvisioningState::Waiting, 0, Some(1_000), None)
    );
    let id = waiting.view_id;
    registry.begin_building(id).await.unwrap();
    let progress = RowsProgress {
        done: 7,
        total: Some(9),
    };
    registry.set_progress(id, progress, None).await.unwrap();
    let building = only(&other).await;
    assert_eq!(
        (building.state, building.rows_done, building.rows_total),
        (ProvisioningState::Building, 7, Some(9))
    );
    registry.set_progress(id, progress, Some("no space")).await.unwrap();
    let failed = only(&registry).await;
    assert_eq!(
        (failed.state, failed.error.as_deref()),
        (ProvisioningState::Failed, Some("no space"))
    );

    let before = registry.snapshot().version;
    assert_eq!(other.hold(id).await.unwrap().state, ProvisioningState::Held);
    registry.refresh().await.unwrap();
    assert_eq!(registry.snapshot().version, before + 1, "the others are told");
    registry.hold(id).await.unwrap();
    assert_eq!(registry.snapshot().version, before + 1, "once");
    registry.begin_building(id).await.unwrap();
    assert!(!registry.begin_hand_over(id).await.unwrap());
    let again = open(url).await;
    let held = only(&again).await;
    assert_eq!(
        (held.state, held.started_at),
        (ProvisioningState::Held, building.started_at)
    );
    assert!(again.is_held(id).await.unwrap());

    again.release(id).await.unwrap();
    again.release(id).await.unwrap();
    assert!(!registry.is_held(id).await.unwrap());
    again.hold(id).await.unwrap();
    again.activate(id).await.unwrap();
    assert_eq!(again.provisionings().await.unwrap(), []);
    assert!(!again.is_held(id).await.unwrap());
    let gone = again.release(id).await.unwrap_err();
    assert!(matches!(gone, FeatureStoreError::Unknown { .. }), "{gone}");
}

async fn a_view_over_a_table_or_one_that_serves_can_not_be_held(url: &str) {
    let registry = open(url).await;
    let table = r#"
[source.merchants]
parquet = "merchants/"
time = "ts"
schema = { id = "i64", country = "string", ts = "timestamp" }

[view.merchant]
from = "merchants"
key = "id"
features.country = "country"
"#;
    apply(&registry, &[table]).await;
    let waiting = only(&registry).await;
    assert_eq!((waiting.state, waiting.rows_total), (ProvisioningState::Waiting, None));
    let refused = registry.hold(waiting.view_id).await.unwrap_err();
    assert!(refused.to_string().contains("materialization"), "{refused}");
    activate_all(&registry).await;
    let refused = registry.hold(waiting.view_id).await.unwrap_err();
    assert!(matches!(refused, FeatureStoreError::Unknown { .. }), "{refused}");
}

async fn rows_that_are_built_anew_can_be_held_too(url: &str) {
    let registry = open(url).await;
    apply(&registry, &[SOURCE, VIEW]).await;
    activate_all(&registry).await;
    registry.rebuild(&["card".to_owned()]).await.unwrap();
    let anew = only(&registry).await;
    assert_eq!((anew.rebuild, anew.version), (true, 1));
    assert_eq!(
        registry.hold(anew.view_id).await.unwrap().state,
        ProvisioningState::Held
    );
    // A new version takes the place of the one whose rows were to be built anew.
    apply(&registry, &[SOURCE, &VIEW.replace("1h\"", "2h\"")]).await;
    let mut all = registry.provisionings().await.unwrap();
    assert_eq!(all.iter().map(|found| found.version).collect::<Vec<_>>(), [1, 2]);
    registry.activate(all.remove(1).view_id).await.unwrap();
    assert_eq!(registry.provisionings().await.unwrap(), []);
    assert!(!registry.is_held(anew.view_id).await.unwrap());
}
