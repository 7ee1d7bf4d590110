//! Lists of the vector as rows of a float tensor `[N, n]`.

use super::cells::{Cell, fill as fill_numbers};
use super::{Slot, plain};
use crate::fault::unavailable;
use arrow::array::{Array, ListArray};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_vocabulary::{Aggregation, DataType, FeatureKind, FeatureOrigin, ModelFeature, Snapshot};

/// Writes each list into its `width` cells, from the first. What a list does not fill stays as it is (NaN).
pub(super) fn fill<T: Cell>(
    feature: &str,
    lists: &ListArray,
    cells: &mut [T],
    width: usize,
) -> Result<(), ModelGatewayError> {
    for (list, cells) in lists.iter().zip(cells.chunks_mut(width.max(1))) {
        let Some(list) = list else { continue };
        if list.len() > width {
            // Checked when the version was registered: the view has changed since.
            return Err(unavailable(format!(
                "feature `{feature}` has {} values now and the model takes {width}: register a version for the new \
                 definition",
                list.len()
            )));
        }
        fill_numbers(&list, cells, 1, 0)?;
    }
    Ok(())
}

/// The second dimension of the input that takes the list, or why it can't.
pub(super) fn width(feature: &ModelFeature, input: &Slot, shape: &[i64]) -> Result<usize, String> {
    match shape {
        [-1, width] if *width > 0 => usize::try_from(*width).map_err(|error| error.to_string()),
        _ => Err(format!(
            "~ reshaped {}: expected [N, n] with a dynamic N and a fixed n for a {}, found {shape:?} in input `{}`",
            feature.name, feature.data_type, input.name
        )),
    }
}

/// What to do with a list that has no place.
pub(super) fn remedy(feature: &ModelFeature) -> String {
    match feature.data_type {
        DataType::List(items) if items.data_type().is_numeric() || items.data_type() == DataType::Bool => format!(
            "give the model an input of its own for it, a float tensor [N, n] named `{}`, or take a scalar such as \
             last() or max()",
            plain(&feature.name)
        ),
        _ => "no tensor takes it: take it out of the model's features".to_owned(),
    }
}

/// Whether the list of `feature` can have more than `width` values.
pub(super) fn too_long(feature: &ModelFeature, input: &str, width: usize, snapshot: &Snapshot) -> Option<String> {
    let FeatureOrigin::View { feature: reference } = &feature.origin else {
        return None;
    };
    let (view, index) = snapshot.resolve(reference)?;
    let most = most_values(&view.definition.features.get(index)?.kind)?;
    (most > width).then(|| {
        format!(
            "~ reshaped {}: it has up to {most} values and input `{input}` takes {width}: export the model with \
             [N, {most}], or ask for {width} in the view",
            feature.name
        )
    })
}

/// How many values a list of this kind has at most; none for a scalar.
fn most_values(kind: &FeatureKind) -> Option<usize> {
    let FeatureKind::Aggregate {
        function, parameters, ..
    } = kind
    else {
        return None;
    };
    match function {
        Aggregation::LastN | Aggregation::LastDistinct | Aggregation::TopK => {
            usize::try_from(*parameters.first()?).ok()
        }
        Aggregation::Quantiles => Some(parameters.len()),
        _ => None,
    }
}
