//! What services send each other and clients send: Arrow streams, JSON, and tensors as bytes and messages.

use bytes::Bytes;
use ondol_feature_store_api::feature_batch::FeatureBatchJson;
use ondol_feature_store_api::wire::{Delivery, FeatureBatch, ReadRequest};
use ondol_model_gateway::open_inference::compression::{self, Encoding};
use ondol_model_gateway::open_inference::datatype::Datatype;
use ondol_model_gateway::open_inference::grpc::generated::ModelInferRequest;
use ondol_model_gateway::open_inference::tensor::{Elements, InputTensor};
use ondol_model_gateway::open_inference::wire::InferRequest;
use ondol_model_gateway::open_inference::{blob, grpc};
use ondol_vocabulary::{DefinitionFiles, FeatureRef, Snapshot, Value, batch};
use prost::Message;
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

/// An answer of the feature store as its client takes it; the first byte says how many features were asked for.
pub fn packed_features(data: &[u8]) {
    let Some((count, data)) = data.split_first() else {
        return;
    };
    let asked: Vec<_> = (0..count % 16)
        .map(|place| FeatureRef::new("view", place.to_string()))
        .collect();
    let Ok(features) = FeatureBatch::from_packed(data, asked.clone()) else {
        return;
    };
    let again = FeatureBatch::from_packed(&features.to_packed().unwrap(), asked).unwrap();
    let json = |features: &FeatureBatch| serde_json::to_string(&features.to_json()).unwrap();
    assert_eq!(json(&again), json(&features));
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

/// A request of the Open Inference Protocol over REST: 2 bytes say how long its JSON is (0xffff: all of it is), then the
/// JSON and the bytes of binary tensors follow.
pub fn inference_request(data: &[u8]) {
    let Some((length, body)) = data.split_first_chunk::<2>() else {
        return;
    };
    let length = match u16::from_le_bytes(*length) {
        u16::MAX => None,
        length => Some(usize::from(length)),
    };
    if let Ok(request) = InferRequest::parse(&Bytes::copy_from_slice(body), length) {
        request.deadline_ms();
        tensors(request.inputs);
    }
}

/// The same over gRPC.
pub fn inference_message(data: &[u8]) {
    let Ok(request) = ModelInferRequest::decode(Bytes::copy_from_slice(data)) else {
        return;
    };
    let _ = grpc::tensors::check_outputs(&request.outputs);
    if let Ok(inputs) = grpc::tensors::inputs(request.inputs, request.raw_input_contents) {
        tensors(inputs);
    }
}

/// Tensors are as long as their shapes say, or refused; what they hold survives the way back as bytes.
fn tensors(inputs: Vec<InputTensor>) {
    for input in inputs {
        let datatype = input.datatype;
        if let Ok((_, values)) = input.clone().into_scalars() {
            assert!(values.iter().all(|value| !matches!(value, Value::List(_))));
        }
        let Ok(tensor) = input.into_tensor() else { continue };
        let elements = tensor.shape.iter().product::<i64>();
        assert_eq!(tensor.data.len() as i64, elements);
        assert_eq!(tensor.data.element(), datatype.element());
        let bytes = blob::encode(&tensor.data);
        assert_eq!(bytes.len(), blob::size(&tensor.data));
        let again = Datatype::Element(tensor.data.element());
        let again = blob::decode(again, tensor.data.len(), &bytes).unwrap();
        // Of bytes, since NaN is not itself.
        assert_eq!(blob::encode(&again), bytes);
    }
}

/// A tensor's bytes: 1 byte says which datatype, 2 how many elements, then they follow.
pub fn tensor_bytes(data: &[u8]) {
    const NAMES: [&str; 14] = [
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32",
        "FP64", "BYTES",
    ];
    let Some(([name, low, high], bytes)) = data.split_first_chunk::<3>() else {
        return;
    };
    let name = NAMES[usize::from(*name) % NAMES.len()];
    let datatype = Datatype::parse("x", name).expect("every name of the protocol is known");
    let count = usize::from(u16::from_le_bytes([*low, *high]));
    tensors(vec![InputTensor {
        name: "x".to_owned(),
        shape: vec![count as i64],
        datatype,
        elements: Elements::Blob(Bytes::copy_from_slice(bytes)),
    }]);
    for encoding in [Encoding::Gzip, Encoding::Deflate] {
        if let Ok(unpacked) = compression::unpack(encoding, bytes, 1 << 16) {
            assert!(unpacked.len() <= 1 << 16);
        }
    }
}
