//! The feature store and ingest, in one process, hang and die under a gateway that goes on alone.

use crate::estate::Estate;
use crate::grpc::Servers;
use crate::load::Load;
use crate::scene::{Model, Outcome, is_of_audit, is_of_features};
use futures::future::join_all;
use ondol_model_gateway_api::ModelGatewayError;

const MODELS: [Model; 5] = [Model::Steady, Model::Soft, Model::Spare, Model::Plain, Model::Strict];

/// Who needs features may refuse for want of them, who needs a record for want of that.
fn features_or_audit(model: Model, error: &ModelGatewayError) -> bool {
    match model {
        Model::Steady => is_of_features(error),
        Model::Strict => is_of_audit(error),
        _ => false,
    }
}

async fn alone(load: &Load) {
    load.more(Model::Steady, Outcome::Refused, 2).await;
    load.more(Model::Strict, Outcome::Refused, 2).await;
    load.more(Model::Soft, Outcome::Degraded, 6).await;
    load.more(Model::Spare, Outcome::Degraded, 6).await;
    load.more(Model::Plain, Outcome::Whole, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_goes_on_while_the_store_and_ingest_hang_or_are_dead() {
    let mut estate = Estate::start("", &[""]).await.with_models(&MODELS).await;
    let load = Load::start(&estate, &MODELS, features_or_audit);
    let grpc = Load::grpc(&Servers::one(estate.front().port), &MODELS, features_or_audit);
    let both = [&load, &grpc];
    join_all(both.map(|load| load.whole(10))).await;
    grpc.raw(&MODELS, 5).await;
    estate.core.process.pause().unwrap();
    join_all(both.map(alone)).await;
    estate.core.process.resume().unwrap();
    join_all(both.map(|load| load.whole(10))).await;
    estate.core.process.kill().unwrap();
    join_all(both.map(alone)).await;
    // Nothing is looked up, and nothing has to be recorded.
    grpc.raw(&[Model::Steady, Model::Plain], 5).await;
    estate.core.start().await;
    join_all(both.map(|load| load.whole(10))).await;
    grpc.raw(&MODELS, 5).await;
    load.stop("store and ingest down").await;
    grpc.stop("store and ingest down, over gRPC").await;
}
