//! What services send each other and clients send: Arrow streams and JSON.

use ondol_feature_store_api::feature_batch::FeatureBatchJson;
use ondol_feature_store_api::wire::{Delivery, FeatureBatch, ReadRequest};
use ondol_model_gateway::open_inference::wire::InferRequest;
use ondol_vocabulary::{DefinitionFiles, Snapshot, Value, batch};
use serde::de::DeserializeOwned;

/// An answer of the feature store.
pub fn feature_batch(data: &[u8]) {
    let Ok(arrived) = batch::decode_one(data) else { return };
    let Ok(features) = FeatureBatch::from_arrow(&arrived) else {
        return;
    };
    let json = serde_json::to_string(&features.to_json()).unwrap();
    serde_json::from_str::<FeatureBatchJson>(&json).unwrap();
    let again = features.to_arrow().unwrap();
    let again = batch::decode_one(&batch::encode(&again.schema(), &[again]).unwrap()).unwrap();
    let again = FeatureBatch::from_arrow(&again).unwrap();
    assert_eq!(serde_json::to_string(&again.to_json()).unwrap(), json);
}

/// A delivery of events.
pub fn delivery(data: &[u8]) {
    let Ok(arrived) = batch::decode_one(data) else { return };
    let Ok(delivery) = Delivery::from_arrow(arrived) else {
        return;
    };
    let sent = delivery.to_arrow().unwrap();
    let again = Delivery::from_arrow(batch::decode_one(&batch::encode(&sent.schema(), &[sent]).unwrap()).unwrap());
    assert_eq!(again.unwrap().header, delivery.header);
}

/// JSON that services and clients send: what is read is written so that it reads the same.
pub fn json(data: &[u8]) {
    fn check<T: DeserializeOwned + serde::Serialize>(data: &[u8]) {
        let Ok(value) = serde_json::from_slice::<T>(data) else {
            return;
        };
        let written = serde_json::to_string(&value).unwrap();
        let again: T = serde_json::from_str(&written).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), written);
    }
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 4 {
        0 => check::<Value>(data),
        1 => check::<ReadRequest>(data),
        2 => check::<Snapshot>(data),
        _ => check::<DefinitionFiles>(data),
    }
}

/// A request of the Open Inference Protocol: tensors are as long as their shapes say, or refused.
pub fn inference_request(data: &[u8]) {
    let Ok(request) = serde_json::from_slice::<InferRequest>(data) else {
        return;
    };
    for input in request.inputs {
        if let Ok(tensor) = input.into_tensor() {
            let elements = tensor.shape.iter().product::<i64>();
            assert_eq!(tensor.data.len() as i64, elements);
        }
    }
    let Ok(request) = serde_json::from_slice::<InferRequest>(data) else {
        return;
    };
    for input in request.inputs {
        if let Ok((_, values)) = input.into_scalars() {
            assert!(values.iter().all(|value| !matches!(value, Value::List(_))));
        }
    }
}
