//! One answer out of several: the requests of a call may have gone to several versions of a model (a canary, sticky by
//! key), and the protocol has one tensor per output. Rows are put together in the order they were asked in.

use crate::fault::invalid;
use crate::routed::Routed;
use crate::runtime::tensor::{NamedTensor, TensorData};
use ondol_model_gateway_api::ModelGatewayError;

/// The outputs of every version, by row.
pub(super) fn outputs(routed: &Routed) -> Result<Vec<NamedTensor>, ModelGatewayError> {
    let first = routed.parts().first().map(|part| part.outputs()).unwrap_or_default();
    first.iter().map(|output| rows(routed, output)).collect()
}

/// The rows of the output that `like` is one version's part of.
fn rows(routed: &Routed, like: &NamedTensor) -> Result<NamedTensor, ModelGatewayError> {
    let (_, width) = like.shape.split_first().unwrap_or((&0, &[]));
    let mut data = emptied(&like.data);
    for (scored, row) in (0..routed.rows()).filter_map(|row| routed.place(row)) {
        let part = scored.outputs().iter().find(|tensor| tensor.name == like.name);
        let appended = part.is_some_and(|part| {
            part.shape.split_first().is_some_and(|(_, found)| found == width)
                && append(&mut data, &part.data, row, part.data.len() / scored.rows().max(1))
        });
        if !appended {
            return Err(invalid(format!(
                "the requests of this call go to versions whose outputs differ in `{}`: send them one by one, or name a \
                 version",
                like.name
            )));
        }
    }
    let mut shape = like.shape.clone();
    if let Some(count) = shape.first_mut() {
        *count = i64::try_from(routed.rows()).unwrap_or(i64::MAX);
    }
    Ok(NamedTensor {
        name: like.name.clone(),
        shape,
        data,
    })
}

fn emptied(data: &TensorData) -> TensorData {
    TensorData::blank(data.element(), 0)
}

/// Appends row `row` of `source`, whose rows have `width` elements; false when there is none, or of another type.
fn append(target: &mut TensorData, source: &TensorData, row: usize, width: usize) -> bool {
    macro_rules! same {
        ($($variant:ident),*) => {
            match (target, source) {
                $((TensorData::$variant(target), TensorData::$variant(source)) => {
                    source.get(row * width..(row + 1) * width).is_some_and(|cells| {
                        target.extend_from_slice(cells);
                        true
                    })
                })*
                _ => false,
            }
        };
    }
    same!(Bool, U8, U16, U32, U64, I8, I16, I32, I64, F32, F64, String)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_appended_from_tensors_of_the_same_type() {
        let mut target = emptied(&TensorData::F32(vec![1.0]));
        let source = TensorData::F32(vec![1.0, 2.0, 3.0, 4.0]);
        assert!(append(&mut target, &source, 1, 2) && append(&mut target, &source, 0, 2));
        assert_eq!(target, TensorData::F32(vec![3.0, 4.0, 1.0, 2.0]));
        assert!(!append(&mut target, &source, 2, 2));
        assert!(!append(&mut target, &TensorData::F64(vec![1.0]), 0, 1));
    }
}
