//! Places on S3: what is found out about a store before anything relies on it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use axum::Router;
use axum::http::{Method, StatusCode};
use futures::future::join_all;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt, PutMode, PutOptions};
use ondol_runtime::ObjectStores;
use ondol_testkit::s3;

fn reached_at(endpoint: String) -> ObjectStores {
    ObjectStores::new(s3::config_at(endpoint))
}

/// A server that answers every write with `status`.
async fn answering(status: StatusCode) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answer = move |method: Method| async move {
        if method == Method::PUT {
            (status, [("etag", "\"e\"")], "<Error><Code>AccessDenied</Code></Error>")
        } else {
            (StatusCode::NOT_FOUND, [("etag", "\"e\"")], "")
        }
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    endpoint
}

#[tokio::test]
async fn a_bucket_that_can_be_written_to_passes_again_and_again() {
    let place = reached_at(s3::endpoint())
        .at(&format!("s3://{}/a/b", s3::bucket()))
        .unwrap();
    place.check_writable().await.unwrap();
    place.check_writable().await.unwrap();
}

#[tokio::test]
async fn a_file_of_any_size_becomes_an_object_whole() {
    let folder = tempfile::tempdir().unwrap();
    let place = reached_at(s3::endpoint())
        .at(&format!("s3://{}/a", s3::bucket()))
        .unwrap();
    assert!(place.is_empty().await.unwrap());
    // Nothing, less than a part, a part exactly, and several with a rest.
    for size in [0usize, 1_000, 16 << 20, (40 << 20) + 7] {
        let bytes: Vec<u8> = (0..size).map(|at| (at / 251) as u8).collect();
        let file = folder.path().join("file");
        std::fs::write(&file, &bytes).unwrap();
        let key = format!("x=S%C3%A3o Paulo/{size}.bin");
        place.object(&key).unwrap().upload(&file).await.unwrap();
        let found = place.store().get(&Path::parse(&key).unwrap()).await.unwrap();
        assert!(found.bytes().await.unwrap() == bytes, "{size}");
    }
    assert!(!place.is_empty().await.unwrap());
    let missing = place
        .object("b")
        .unwrap()
        .upload(&folder.path().join("none"))
        .await
        .unwrap_err();
    assert!(missing.to_string().contains("the file to upload"), "{missing}");
}

#[tokio::test]
async fn of_many_writers_one_creates_the_object() {
    let place = reached_at(s3::endpoint())
        .at(&format!("s3://{}/a", s3::bucket()))
        .unwrap();
    let store = place.store();
    for round in 0..5 {
        let writers = (0..16).map(|writer| {
            let (store, path) = (store.clone(), format!("{round}.json").into());
            tokio::spawn(async move {
                let options = PutOptions {
                    mode: PutMode::Create,
                    ..PutOptions::default()
                };
                match store.put_opts(&path, format!("{writer}").into(), options).await {
                    Ok(_) => Some(writer),
                    Err(Error::AlreadyExists { .. }) => None,
                    Err(error) => panic!("{error}"),
                }
            })
        });
        let winners: Vec<i32> = join_all(writers).await.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        let held = store
            .get(&format!("{round}.json").into())
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        assert_eq!(held, winners[0].to_string().as_bytes());
    }
}

#[tokio::test]
async fn a_missing_bucket_a_refusal_and_a_store_that_replaces_objects_are_told_apart() {
    let refusing = answering(StatusCode::FORBIDDEN).await;
    let replacing = answering(StatusCode::OK).await;
    for (endpoint, expected) in [
        (s3::endpoint(), "check the bucket's name"),
        (refusing, "check the credentials"),
        (replacing, "the store ignores `If-None-Match: *`"),
    ] {
        let place = reached_at(endpoint).at("s3://ondol-no-such-bucket/a").unwrap();
        let error = place.check_writable().await.unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains("s3://ondol-no-such-bucket/a"),
            "{error}"
        );
        assert!(!error.contains(s3::SECRET_ACCESS_KEY), "{error}");
    }
}
