//! A model's file is damaged: as it is registered, while it serves, when it is loaded again, and at a restart.

use crate::estate::{Estate, request, until};
use crate::load::{Load, none, row};
use crate::scene::{self, Model};
use bytes::Bytes;
use ondol_model_gateway_api::wire::{Routing, RoutingChange};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use std::collections::BTreeMap;
use std::path::Path;

const MODELS: [Model; 3] = [Model::Plain, Model::Steady, Model::Soft];

/// Version 1 serves, whatever is registered after it.
async fn hold_the_champion(estate: &Estate) {
    for model in MODELS {
        let routing = Routing {
            aliases: BTreeMap::from([("champion".to_owned(), 1)]),
            ..Routing::default()
        };
        let change = RoutingChange {
            routing,
            ..RoutingChange::default()
        };
        estate
            .front()
            .gateway()
            .set_routing(model.name(), change)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_artifact_is_refused_and_what_serves_goes_on() {
    let estate = Estate::start("", &[]).await.with_models(&MODELS).await;
    hold_the_champion(&estate).await;
    let load = Load::start(&estate, &MODELS, none);
    load.whole(5).await;
    let whole = scene::artifact(0.0);
    let cut_off = (0..whole.len())
        .step_by(11)
        .map(|end| (format!("cut off at {end}"), whole.slice(..end)));
    let strangers = [
        ("zeroes", vec![0; 4_096]),
        ("a page", b"<html><body>not found</body></html>".to_vec()),
        ("an archive", b"PK\x03\x04model.onnx".to_vec()),
    ];
    let strangers = strangers.map(|(what, bytes)| (what.to_owned(), Bytes::from(bytes)));
    let mut refused = 0;
    for (what, artifact) in cut_off.chain(strangers) {
        match estate.register_bytes(Model::Plain, artifact).await {
            Err(ModelGatewayError::InvalidRequest { detail }) => assert!(!detail.is_empty(), "{what}"),
            Err(ModelGatewayError::Mismatch { .. }) => {}
            other => panic!("{what}: {other:?}"),
        }
        refused += 1;
    }
    load.whole(5).await;
    assert_eq!(versions(&estate, Model::Plain).await, [1], "{refused} were refused");
    // A byte that is another one may still make a model, only not the one that was meant: it gets a version of its own.
    let mut taken = 0;
    for place in (3..whole.len()).step_by(7) {
        let mut bytes = whole.to_vec();
        bytes[place] ^= 0x55;
        match estate.register_bytes(Model::Plain, Bytes::from(bytes)).await {
            Ok(registered) => {
                taken += 1;
                assert!(registered.model.version > 1);
            }
            Err(ModelGatewayError::InvalidRequest { .. } | ModelGatewayError::Mismatch { .. }) => {}
            Err(error) => panic!("byte {place}: {error:?}"),
        }
    }
    load.whole(5).await;
    assert_eq!(versions(&estate, Model::Plain).await.len(), 1 + taken);
    load.stop("damaged artifacts registered").await;
}

async fn versions(estate: &Estate, model: Model) -> Vec<u32> {
    let models = estate.front().gateway().models().await.unwrap();
    let of_model = models.into_iter().find(|summary| summary.name == model.name()).unwrap();
    let mut versions: Vec<u32> = of_model.versions.iter().map(|version| version.model.version).collect();
    versions.sort_unstable();
    versions
}

/// Flips a bit in the middle.
fn damage(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// A request of `reference` is refused, naming the file and what is wrong with it.
async fn refuses(estate: &Estate, model: Model, reference: &str, file: &Path, why: &str) {
    let error = estate
        .front()
        .gateway()
        .predict(reference, request(model, &row(1)))
        .await
        .unwrap_err();
    assert!(matches!(error, ModelGatewayError::Unavailable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains(&file.display().to_string()) && text.contains(why),
        "{text}"
    );
}

const CHANGED: &str = "has changed since it was registered";

#[tokio::test(flavor = "multi_thread")]
async fn a_file_damaged_while_it_serves_is_noticed_when_it_is_loaded_and_mended_by_registering_it_again() {
    let estate = Estate::start("", &[])
        .await
        .with_models(&[Model::Plain, Model::Steady])
        .await;
    let second = estate.register(Model::Steady, 2).await.unwrap();
    let file = estate.artifact_file(&second.sha256);
    // Version 2 serves from here on.
    let load = Load::start(&estate, &[Model::Plain, Model::Steady], none);
    load.whole(10).await;
    damage(&file);
    load.whole(10).await;
    load.stop("a serving file damaged").await;

    // Who unloads it on purpose finds out; the version before answers.
    let front = estate.front();
    front.repository("steady@2/unload").await.unwrap();
    let (status, text) = front.repository("steady@2/load").await.unwrap_err();
    assert!(status == 503 && text.contains(CHANGED), "{status} {text}");
    refuses(&estate, Model::Steady, "steady", &file, CHANGED).await;
    let pinned = front
        .gateway()
        .predict("steady@1", request(Model::Steady, &row(1)))
        .await
        .unwrap();
    assert!(Model::Steady.judge(&row(1), &pinned).is_ok());
    let beside = Load::start(&estate, &[Model::Plain], none);
    beside.whole(10).await;

    // "Register again": the same version, on a file that is whole.
    let again = estate
        .register_bytes(Model::Steady, Model::Steady.artifact(2))
        .await
        .unwrap();
    assert_eq!((&again.model, &again.sha256), (&second.model, &second.sha256));
    front.repository("steady@2/load").await.unwrap();
    beside.stop("beside a damaged file").await;
    let load = Load::start(&estate, &[Model::Plain, Model::Steady], none);
    load.whole(10).await;
    load.stop("a damaged file mended").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_says_which_files_are_damaged_and_serves_the_others() {
    let mut estate = Estate::start("", &[]).await.with_models(&MODELS).await;
    let mut files = Vec::new();
    for model in [Model::Steady, Model::Soft] {
        let registered = estate.register(model, 2).await.unwrap();
        files.push(estate.artifact_file(&registered.sha256));
    }
    let (changed, gone) = (files[0].clone(), files[1].clone());
    let kept = std::fs::read(&gone).unwrap();
    estate.core.stop();
    damage(&changed);
    std::fs::remove_file(&gone).unwrap();
    estate.core.start().await;
    for (file, model) in [(&changed, "steady@2"), (&gone, "soft@2")] {
        let said = |line: &str| line.contains(&file.display().to_string()) && line.contains(model);
        until(
            || format!("nothing of {model} in: {}", estate.core.log()),
            async || estate.core.log().lines().any(said),
        )
        .await;
    }
    let load = Load::start(&estate, &[Model::Plain], none);
    load.whole(10).await;
    refuses(&estate, Model::Steady, "steady", &changed, CHANGED).await;
    refuses(&estate, Model::Soft, "soft", &gone, "No such file").await;

    // A file that is back serves with the next request; so does one that is registered again.
    std::fs::write(&gone, kept).unwrap();
    estate
        .register_bytes(Model::Steady, Model::Steady.artifact(2))
        .await
        .unwrap();
    let all = Load::start(&estate, &MODELS, none);
    all.whole(10).await;
    all.stop("files restored").await;
    load.stop("restarted beside damaged files").await;
}
