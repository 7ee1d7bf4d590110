//! The life of a key.

use crate::fixture::{ADMIN, Door, database, required};
use ondol_model_gateway::access::bootstrap;
use ondol_model_gateway::access::keys::{KeptKey, NewKey};
use ondol_model_gateway::access::store::AccessStore;
use ondol_model_gateway_api::AccessError;
use ondol_model_gateway_api::wire::{AuditEntry, AuditQuery, KeySummary};
use ondol_runtime::TlsConfig;
use ondol_testkit::{services, unique_name};
use ondol_vocabulary::EventTime;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const PREDICT: &str = "/v1/models/fraud:predict";

#[tokio::test]
async fn a_key_is_made_listed_without_itself_and_revoked() {
    let door = Door::open(required()).await;
    let created = door.create_key("bank", &["predict:fraud"]).await;
    assert!(!format!("{created:?}").contains(&created.key));
    assert_eq!(door.status("POST", PREDICT, Some(&created.key)).await, 200);
    let list = door
        .request("GET", "/v1/keys", Some(ADMIN))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let secret = created.key.splitn(3, '_').nth(2).unwrap();
    assert!(!list.contains(secret) && !list.contains("sha256"), "{list}");
    let listed: Vec<KeySummary> = serde_json::from_str(&list).unwrap();
    assert_eq!(listed[0].id, created.summary.id);

    let revoke = format!("/v1/keys/{}", created.summary.id);
    assert_eq!(door.status("DELETE", &revoke, Some(&created.key)).await, 403);
    assert_eq!(door.status("DELETE", &revoke, Some(ADMIN)).await, 200);
    assert_eq!(
        door.status("POST", PREDICT, Some(&created.key)).await,
        401,
        "at once, on this replica"
    );
    assert_eq!(
        door.status("DELETE", &revoke, Some(ADMIN)).await,
        200,
        "again changes nothing"
    );
    assert_eq!(door.status("DELETE", "/v1/keys/unknown", Some(ADMIN)).await, 404);

    let file = std::fs::read(door.folder.path().join("models.db")).unwrap();
    let holds = |text: &str| file.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(
        holds(&created.summary.id) && !holds(secret),
        "the database holds a hash only"
    );
}

#[tokio::test]
async fn another_replica_knows_new_keys_and_refuses_revoked_ones_soon() {
    let first = Door::open(required()).await;
    let second = Door::open_with(Arc::clone(&first.folder), required(), &TlsConfig::default()).await;
    let created = first.create_key("bank", &["predict:fraud"]).await;
    while second.status("POST", PREDICT, Some(&created.key)).await != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    first
        .status("DELETE", &format!("/v1/keys/{}", created.summary.id), Some(ADMIN))
        .await;
    while second.status("POST", PREDICT, Some(&created.key)).await != 401 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_key_ends_when_it_was_to_end() {
    let door = Door::open(required()).await;
    let body = json!({"label": "short", "tenant": "bank", "scopes": ["predict:fraud"], "lifetime_s": 60});
    let created = door
        .request("POST", "/v1/keys", Some(ADMIN))
        .json(&body)
        .send()
        .await
        .unwrap();
    let key = created.json::<serde_json::Value>().await.unwrap()["key"]
        .as_str()
        .unwrap()
        .to_owned();
    door.clock.advance(59_999_999);
    assert_eq!(door.status("POST", PREDICT, Some(&key)).await, 200);
    door.clock.advance(1);
    assert_eq!(door.status("POST", PREDICT, Some(&key)).await, 401);
}

#[tokio::test]
async fn a_use_is_noted() {
    let door = Door::open(required()).await;
    let created = door.create_key("bank", &["predict:fraud"]).await;
    assert_eq!(door.status("POST", PREDICT, Some(&created.key)).await, 200);
    loop {
        let keys = door.request("GET", "/v1/keys", Some(ADMIN)).send().await.unwrap();
        let keys: Vec<KeySummary> = keys.json().await.unwrap();
        if keys[0].last_used_at.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_key_that_would_not_do_is_refused_with_the_reason() {
    let door = Door::open(required()).await;
    for (body, words) in [
        (
            json!({"label": "a", "tenant": "b", "scopes": ["predict"]}),
            "ACTION:MODEL",
        ),
        (
            json!({"label": "a", "tenant": "b", "scopes": []}),
            "`scopes` has 0 entries",
        ),
        (json!({"label": "", "tenant": "b", "scopes": ["admin"]}), "`label`"),
        (json!({"label": "a", "tenant": "b\n", "scopes": ["admin"]}), "`tenant`"),
        (
            json!({"label": "a", "tenant": "b", "scopes": ["admin"], "lifetime_s": 0}),
            "`lifetime_s`",
        ),
        (
            json!({"label": "a", "tenant": "b", "scopes": ["admin"], "key": "mine"}),
            "unknown field",
        ),
    ] {
        let refused = door
            .request("POST", "/v1/keys", Some(ADMIN))
            .json(&body)
            .send()
            .await
            .unwrap();
        assert_eq!(refused.status(), 400, "{body}");
        let said = refused.text().await.unwrap();
        assert!(said.contains(words), "{said}");
    }
}

#[tokio::test]
async fn a_first_key_is_made_once_on_the_servers_machine() {
    let door = Door::open(required()).await;
    let url = database(&door.folder);
    let now = EventTime::from_micros(1);
    let first = bootstrap(&url, "mine", false, now).await.unwrap();
    // The server has not looked since: an unknown key makes it look soon.
    while door.status("GET", "/v1/keys", Some(&first.key)).await != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = bootstrap(&url, "again", false, now).await.unwrap_err();
    assert!(
        matches!(&refused, AccessError::InvalidRequest { detail } if detail.contains("--another")),
        "{refused}"
    );
    assert!(bootstrap(&url, "again", true, now).await.is_ok());
}

/// One suite, two databases.
async fn check_store(url: &str) {
    let store = AccessStore::open(url).await.unwrap();
    let again = AccessStore::open(url).await.unwrap();
    let new = NewKey::random().unwrap();
    let moment = EventTime::from_micros;
    let summary = KeySummary {
        id: new.id.clone(),
        label: "카드 'label'".to_owned(),
        tenant: "bank".to_owned(),
        scopes: vec!["predict:fraud".to_owned(), "see:*".to_owned()],
        created_at: moment(7),
        expires_at: Some(moment(9)),
        revoked_at: None,
        last_used_at: None,
    };
    let kept = KeptKey {
        summary,
        digest: new.digest,
    };
    store.add_key(&kept).await.unwrap();
    assert!(store.add_key(&kept).await.is_err(), "an id is given once");
    assert_eq!(again.key(&new.id).await.unwrap(), Some(kept.clone()));
    assert!(again.keys().await.unwrap().contains(&kept));
    assert_eq!(again.key("unknown").await.unwrap(), None);

    store.note_use(&new.id, 20).await.unwrap();
    store.note_use(&new.id, 10).await.unwrap();
    store.revoke(&new.id, moment(30)).await.unwrap();
    store.revoke(&new.id, moment(40)).await.unwrap();
    let ended = again.key(&new.id).await.unwrap().unwrap().summary;
    assert_eq!(
        (ended.last_used_at, ended.revoked_at),
        (Some(moment(20)), Some(moment(30)))
    );

    let action = unique_name("action");
    for number in 0..3 {
        let entry = AuditEntry {
            id: format!("{}{number}", new.id.to_uppercase()),
            at: moment(number),
            who: "key:x".to_owned(),
            tenant: "bank".to_owned(),
            action: action.clone(),
            subject: "POST /v1/keys".to_owned(),
            outcome: "pending".to_owned(),
            status: None,
        };
        store.begin(&entry).await.unwrap();
    }
    store
        .end(&format!("{}1", new.id.to_uppercase()), "done", 201)
        .await
        .unwrap();
    let query = AuditQuery {
        limit: Some(2),
        before: None,
        action: Some(action),
    };
    let page = again.audit(&query).await.unwrap();
    let told: Vec<_> = page
        .entries
        .iter()
        .map(|entry| (entry.at.micros(), entry.outcome.as_str(), entry.status))
        .collect();
    assert_eq!(told, [(2, "pending", None), (1, "done", Some(201))]);
    let rest = again
        .audit(&AuditQuery {
            before: page.next,
            ..query
        })
        .await
        .unwrap();
    assert_eq!(
        (rest.entries.len(), rest.entries[0].at.micros(), rest.next),
        (1, 0, None)
    );
}

#[tokio::test]
async fn keys_and_the_log_are_the_same_in_both_databases() {
    let folder = tempfile::tempdir().unwrap();
    check_store(&database(&folder)).await;
    check_store(&services::postgres()).await;
}
