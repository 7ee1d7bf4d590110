//! Tensors of several requests as one, and the outputs of one run as several.

use crate::runtime::tensor::{ElementType, NamedTensor, TensorData};

/// What tensors must share to be merged: everything but the number of rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape(Vec<(String, ElementType, Vec<i64>)>);

impl Shape {
    /// The shape of tensors that have `rows` rows each; none if one has not.
    pub(super) fn of(rows: usize, tensors: &[NamedTensor]) -> Option<Self> {
        let of_one = |tensor: &NamedTensor| {
            let (first, rest) = tensor.shape.split_first()?;
            let fits = usize::try_from(*first) == Ok(rows);
            fits.then(|| (tensor.name.clone(), tensor.data.element(), rest.to_vec()))
        };
        tensors.iter().map(of_one).collect::<Option<_>>().map(Self)
    }
}

/// Requests of one [`Shape`], one below the other. None if there are none.
pub(super) fn concatenated<'a>(requests: impl Iterator<Item = &'a [NamedTensor]>) -> Vec<NamedTensor> {
    let mut merged: Vec<NamedTensor> = Vec::new();
    for tensors in requests {
        if merged.is_empty() {
            merged = tensors.to_vec();
            continue;
        }
        for (whole, part) in merged.iter_mut().zip(tensors) {
            if let (Some(rows), Some(more)) = (whole.shape.first_mut(), part.shape.first()) {
                *rows += more;
            }
            append(&mut whole.data, &part.data);
        }
    }
    merged
}

fn append(whole: &mut TensorData, part: &TensorData) {
    macro_rules! each_pair {
        ($($variant:ident),*) => {
            match (whole, part) {
                $((TensorData::$variant(whole), TensorData::$variant(part)) => whole.extend_from_slice(part),)*
                // Of one `Shape`, so of one type.
                _ => {}
            }
        };
    }
    each_pair!(Bool, U8, U16, U32, U64, I8, I16, I32, I64, F32, F64, String);
}

/// `outputs` cut into parts of `rows` rows each; none if one of them has other rows.
pub(super) fn divided(outputs: Vec<NamedTensor>, rows: &[usize]) -> Option<Vec<Vec<NamedTensor>>> {
    let total: usize = rows.iter().sum();
    let mut parts: Vec<Vec<NamedTensor>> = rows.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
    for NamedTensor { name, shape, data } in outputs {
        let (first, rest) = shape.split_first()?;
        let width = data.len().checked_div(total)?;
        if usize::try_from(*first) != Ok(total) || width * total != data.len() {
            return None;
        }
        let mut begin = 0;
        for (part, rows) in parts.iter_mut().zip(rows) {
            let end = begin + rows * width;
            let mut shape = vec![i64::try_from(*rows).ok()?];
            shape.extend_from_slice(rest);
            part.push(NamedTensor {
                name: name.clone(),
                shape,
                data: slice(&data, begin, end)?,
            });
            begin = end;
        }
    }
    Some(parts)
}

/// Elements `begin..end`.
fn slice(data: &TensorData, begin: usize, end: usize) -> Option<TensorData> {
    macro_rules! each_variant {
        ($($variant:ident),*) => {
            match data {
                $(TensorData::$variant(values) => TensorData::$variant(values.get(begin..end)?.to_vec()),)*
            }
        };
    }
    Some(each_variant!(
        Bool, U8, U16, U32, U64, I8, I16, I32, I64, F32, F64, String
    ))
}
