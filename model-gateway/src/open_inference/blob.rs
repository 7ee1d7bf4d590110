//! Tensors as bytes: the binary tensor extension of REST, and gRPC's raw contents. Little-endian, row-major, without
//! padding; a truth value is a byte; a text is its length as 32 bits and its bytes (UTF-8 here).

use crate::open_inference::datatype::Datatype;
use crate::runtime::tensor::{ElementType, TensorData};
use arrow::datatypes::{ArrowPrimitiveType, Float16Type, ToByteSlice};
use bytes::Bytes;

/// The `count` elements that `blob` holds: one copy, into the vector that a runtime takes over. An error says what is wrong
/// with the bytes; which tensor it is, the caller knows.
pub fn decode(datatype: Datatype, count: usize, blob: &[u8]) -> Result<TensorData, String> {
    let Some(size) = datatype.size() else {
        return texts(count, blob).map(TensorData::String);
    };
    if count.checked_mul(size) != Some(blob.len()) {
        return Err(format!(
            "its shape means {count} elements of {size} bytes, {} bytes were sent",
            blob.len()
        ));
    }
    macro_rules! numbers {
        ($variant:ident, $type:ty) => {{
            let (cells, _) = blob.as_chunks::<{ size_of::<$type>() }>();
            TensorData::$variant(cells.iter().map(|cell| <$type>::from_le_bytes(*cell)).collect())
        }};
    }
    Ok(match datatype {
        Datatype::Fp16 => TensorData::F32(halves(blob, |cell| {
            <Float16Type as ArrowPrimitiveType>::Native::from_le_bytes(cell).to_f32()
        })),
        Datatype::Bf16 => TensorData::F32(halves(blob, |cell| {
            f32::from_bits(u32::from(u16::from_le_bytes(cell)) << 16)
        })),
        Datatype::Element(element) => match element {
            ElementType::Bool => TensorData::Bool(blob.iter().map(|cell| *cell != 0).collect()),
            ElementType::U8 => TensorData::U8(blob.to_vec()),
            ElementType::U16 => numbers!(U16, u16),
            ElementType::U32 => numbers!(U32, u32),
            ElementType::U64 => numbers!(U64, u64),
            ElementType::I8 => numbers!(I8, i8),
            ElementType::I16 => numbers!(I16, i16),
            ElementType::I32 => numbers!(I32, i32),
            ElementType::I64 => numbers!(I64, i64),
            ElementType::F32 => numbers!(F32, f32),
            ElementType::F64 => numbers!(F64, f64),
            ElementType::String => TensorData::String(texts(count, blob)?),
        },
    })
}

fn halves(blob: &[u8], widen: impl Fn([u8; 2]) -> f32) -> Vec<f32> {
    let (cells, _) = blob.as_chunks::<2>();
    cells.iter().map(|cell| widen(*cell)).collect()
}

fn texts(count: usize, mut blob: &[u8]) -> Result<Vec<String>, String> {
    // A text takes at least its length, so that a shape alone can't make memory be taken.
    let mut texts = Vec::with_capacity(count.min(blob.len() / 4));
    while let Some((length, rest)) = blob.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length);
        let text = usize::try_from(length)
            .ok()
            .and_then(|length| rest.split_at_checked(length));
        let Some((text, rest)) = text else {
            return Err(format!(
                "element {} says it has {length} bytes, {} follow",
                texts.len(),
                rest.len()
            ));
        };
        let text =
            std::str::from_utf8(text).map_err(|error| format!("element {} is no UTF-8: {error}", texts.len()))?;
        texts.push(text.to_owned());
        blob = rest;
    }
    if !blob.is_empty() {
        return Err(format!(
            "{} bytes are left behind element {}: each BYTES element begins with its length in 4 bytes",
            blob.len(),
            texts.len()
        ));
    }
    if texts.len() != count {
        return Err(format!("its shape means {count} elements, {} were sent", texts.len()));
    }
    Ok(texts)
}

/// How many bytes a tensor's elements take.
pub fn size(data: &TensorData) -> usize {
    match data {
        TensorData::String(values) => values.iter().map(|text| text.len() + 4).sum(),
        data => data.len() * Datatype::Element(data.element()).size().unwrap_or_default(),
    }
}

/// The bytes of a tensor's elements.
pub fn encode(data: &TensorData) -> Bytes {
    let mut blob = Vec::with_capacity(size(data));
    write(data, &mut blob);
    Bytes::from(blob)
}

/// Appends the bytes of a tensor's elements to `blob`.
pub fn write(data: &TensorData, blob: &mut Vec<u8>) {
    blob.reserve(size(data));
    macro_rules! numbers {
        ($values:expr) => {
            if cfg!(target_endian = "little") {
                blob.extend_from_slice($values.as_slice().to_byte_slice());
            } else {
                blob.extend($values.iter().flat_map(|value| value.to_le_bytes()));
            }
        };
    }
    match data {
        TensorData::Bool(values) => blob.extend(values.iter().map(|value| u8::from(*value))),
        TensorData::U8(values) => blob.extend_from_slice(values),
        TensorData::U16(values) => numbers!(values),
        TensorData::U32(values) => numbers!(values),
        TensorData::U64(values) => numbers!(values),
        TensorData::I8(values) => numbers!(values),
        TensorData::I16(values) => numbers!(values),
        TensorData::I32(values) => numbers!(values),
        TensorData::I64(values) => numbers!(values),
        TensorData::F32(values) => numbers!(values),
        TensorData::F64(values) => numbers!(values),
        TensorData::String(values) => {
            for text in values {
                // A text of 4 GiB can't be in a response: the runtimes' own bounds are far below.
                let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
                blob.extend_from_slice(&length.to_le_bytes());
                blob.extend_from_slice(text.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(datatype: &str) -> Datatype {
        Datatype::parse("x", datatype).unwrap()
    }

    fn check(datatype: &str, data: &TensorData, expected: &[u8]) {
        assert_eq!(encode(data), expected, "{datatype}");
        assert_eq!(size(data), expected.len(), "{datatype}");
        assert_eq!(
            decode(parse(datatype), data.len(), expected).unwrap(),
            *data,
            "{datatype}"
        );
    }

    #[test]
    fn every_type_is_little_endian_and_comes_back() {
        check("BOOL", &TensorData::Bool(vec![true, false]), &[1, 0]);
        check("UINT8", &TensorData::U8(vec![7, 255]), &[7, 255]);
        check("UINT16", &TensorData::U16(vec![258]), &[2, 1]);
        check("UINT32", &TensorData::U32(vec![1]), &[1, 0, 0, 0]);
        check("UINT64", &TensorData::U64(vec![2]), &[2, 0, 0, 0, 0, 0, 0, 0]);
        check("INT8", &TensorData::I8(vec![-1]), &[255]);
        check("INT16", &TensorData::I16(vec![-2]), &[254, 255]);
        check("INT32", &TensorData::I32(vec![-2]), &[254, 255, 255, 255]);
        check("INT64", &TensorData::I64(vec![-1]), &[255; 8]);
        check(
            "FP32",
            &TensorData::F32(vec![1.0, -2.0]),
            &[0, 0, 128, 63, 0, 0, 0, 192],
        );
        check("FP64", &TensorData::F64(vec![1.0]), &[0, 0, 0, 0, 0, 0, 240, 63]);
        let texts = TensorData::String(vec!["가".to_owned(), String::new()]);
        check("BYTES", &texts, &[3, 0, 0, 0, 0xea, 0xb0, 0x80, 0, 0, 0, 0]);
    }

    #[test]
    fn a_nan_keeps_its_bits() {
        let nan = f32::from_bits(0x7fc0_1234);
        let TensorData::F32(back) = decode(parse("FP32"), 1, &encode(&TensorData::F32(vec![nan]))).unwrap() else {
            panic!("no floats")
        };
        assert_eq!(back[0].to_bits(), nan.to_bits());
    }

    #[test]
    fn half_precision_is_widened_without_loss() {
        let data = decode(parse("FP16"), 3, &[0, 0x3c, 1, 0, 0, 0xfc]).unwrap();
        assert_eq!(data, TensorData::F32(vec![1.0, 2f32.powi(-24), f32::NEG_INFINITY]));
        let data = decode(parse("BF16"), 2, &[0x80, 0x3f, 0, 0xc0]).unwrap();
        assert_eq!(data, TensorData::F32(vec![1.0, -2.0]));
    }

    #[test]
    fn bytes_that_are_not_what_the_shape_says_are_refused() {
        let refused = |datatype, count, blob: &[u8]| decode(parse(datatype), count, blob).unwrap_err();
        assert_eq!(
            refused("FP32", 2, &[0; 7]),
            "its shape means 2 elements of 4 bytes, 7 bytes were sent"
        );
        assert!(refused("FP64", usize::MAX, &[]).contains("0 bytes were sent"));
        assert!(refused("BYTES", 1, &[9, 0, 0, 0, b'a']).contains("says it has 9 bytes, 1 follow"));
        assert!(refused("BYTES", 1, &[1, 0, 0, 0, 0xff]).contains("no UTF-8"));
        assert!(refused("BYTES", 1, &[0, 0]).contains("2 bytes are left"));
        assert!(refused("BYTES", 2, &[0, 0, 0, 0]).contains("means 2 elements, 1 were sent"));
    }
}
