//! What was asked to be changed is written down.

use crate::fixture::{ADMIN, Door, NOW, required};
use ondol_model_gateway::access::AccessConfig;
use ondol_model_gateway_api::wire::{AuditEntry, AuditPage};
use ondol_runtime::TlsConfig;
use std::sync::Arc;
use std::time::Duration;

async fn page(door: &Door, query: &str) -> AuditPage {
    let page = door
        .request("GET", &format!("/v1/audit{query}"), Some(ADMIN))
        .send()
        .await
        .unwrap();
    assert_eq!(page.status(), 200);
    page.json().await.unwrap()
}

fn told(entry: &AuditEntry) -> (&str, &str, &str, Option<u16>) {
    (&entry.action, &entry.subject, &entry.outcome, entry.status)
}

#[tokio::test]
async fn every_change_is_noted_with_who_asked_and_what_came_of_it() {
    let door = Door::open(required()).await;
    let created = door.create_key("bank", &["predict:fraud", "route:fraud"]).await;
    let who = format!("key:{}", created.summary.id);
    door.status("POST", "/v1/models/fraud:predict", Some(&created.key))
        .await;
    door.status("PUT", "/v1/models/fraud/routing", Some(&created.key)).await;
    door.status("POST", "/v1/models/fraud/versions", Some(&created.key))
        .await;
    door.status("POST", "/v1/models/fraud/versions", Some("x")).await;
    door.status("POST", "/v1/keys", Some(ADMIN)).await;
    let entries = page(&door, "").await.entries;
    let found: Vec<_> = entries.iter().map(told).collect();
    assert_eq!(
        found,
        [
            ("admin", "POST /v1/keys", "refused", Some(400)),
            ("register", "POST /v1/models/fraud/versions", "refused", Some(403)),
            ("route", "PUT /v1/models/fraud/routing", "done", Some(200)),
            ("admin", "POST /v1/keys", "done", Some(201)),
        ],
        "newest first; predictions and strangers are not changes"
    );
    assert_eq!(
        (entries[1].who.as_str(), entries[1].tenant.as_str()),
        (who.as_str(), "bank")
    );
    assert_eq!(entries[3].who, "key:admin_key");
    assert!(!format!("{entries:?}").contains(&created.key));

    let routed = page(&door, "?action=route").await.entries;
    assert_eq!(routed.len(), 1);
    let first = page(&door, "?limit=3").await;
    let rest = page(&door, &format!("?limit=3&before={}", first.next.unwrap())).await;
    assert_eq!((first.entries.len(), rest.entries.len(), rest.next), (3, 1, None));
    assert_eq!(door.status("GET", "/v1/audit?limt=3", Some(ADMIN)).await, 400);
}

#[tokio::test]
async fn entries_older_than_they_are_to_be_kept_are_removed() {
    let door = Door::open(required()).await;
    door.create_key("bank", &["predict:fraud"]).await;
    let pool = sqlx::any::AnyPoolOptions::new()
        .connect(&crate::fixture::database(&door.folder))
        .await
        .unwrap();
    const DAY_US: i64 = 86_400_000_000;
    for days in [29, 30, 31, 400] {
        let insert = "INSERT INTO gateway_audit (id, at, who, tenant, action, subject, outcome, status)
            VALUES ($1, $2, 'key:x', '', 'route', $3, 'done', 200)";
        let old = sqlx::query(insert).bind(format!("00{days}")).bind(NOW - days * DAY_US);
        old.bind(format!("{days} days ago")).execute(&pool).await.unwrap();
    }
    assert_eq!(
        page(&door, "").await.entries.len(),
        5,
        "nothing is removed unless it is asked for"
    );
    let config = AccessConfig {
        audit_days: 30,
        ..required()
    };
    let tidy = Door::open_with(Arc::clone(&door.folder), config, &TlsConfig::default()).await;
    let left = loop {
        let entries = page(&tidy, "").await.entries;
        if entries.len() < 5 {
            break entries;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let left: Vec<&str> = left.iter().map(|entry| entry.subject.as_str()).collect();
    assert_eq!(left, ["POST /v1/keys", "30 days ago", "29 days ago"]);
}

#[tokio::test]
async fn no_change_is_made_that_can_not_be_noted() {
    let door = Door::open(required()).await;
    let pool = sqlx::any::AnyPoolOptions::new()
        .connect(&crate::fixture::database(&door.folder))
        .await
        .unwrap();
    sqlx::query("DROP TABLE gateway_audit").execute(&pool).await.unwrap();
    let refused = door
        .request("PUT", "/v1/models/fraud/routing", Some(ADMIN))
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), 503);
    let words = refused.text().await.unwrap();
    assert!(
        words.contains("audit log") && !words.contains("gateway_audit"),
        "{words}"
    );
    assert_eq!(
        door.status("POST", "/v1/models/fraud:predict", Some(ADMIN)).await,
        200,
        "what changes nothing goes on"
    );
}
