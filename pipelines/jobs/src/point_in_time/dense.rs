//! Integers that lie close together, as those do that a database has counted out: their entities are places in a list.

use super::entities::NO_ENTITY;
use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::datatypes::{ArrowPrimitiveType, DataType as ArrowType, Int32Type, Int64Type};

/// Entities by how far their keys are from the least.
pub(super) struct Dense {
    pub(super) least: i64,
    pub(super) entities: Vec<u32>,
}

/// Places of a list for each row of the spine, at most: what a hash table would take.
const DENSE_PLACES: usize = 8;
/// As many places are given to few rows.
const FEW_PLACES: usize = 1 << 16;

impl Dense {
    /// For the keys of `columns`, if there is one for each row and they lie close together.
    pub(super) fn of(columns: &[Vec<&ArrayRef>]) -> Option<Self> {
        let (mut rows, mut ends) = (0usize, None);
        for columns in columns {
            let [column] = columns.as_slice() else { return None };
            rows += column.len();
            let are_integers = each_integer(column, |value| {
                let Some(value) = value else { return };
                let (least, greatest) = ends.unwrap_or((value, value));
                ends = Some((least.min(value), greatest.max(value)));
            });
            if !are_integers {
                return None;
            }
        }
        let (least, greatest) = ends?;
        let places = usize::try_from(greatest.checked_sub(least)?).ok()?.checked_add(1)?;
        (places <= FEW_PLACES.max(rows.saturating_mul(DENSE_PLACES))).then(|| Self {
            least,
            entities: vec![NO_ENTITY; places],
        })
    }

    #[inline]
    pub(super) fn find(&self, key: i64) -> u32 {
        // What is less than the least is far beyond the end.
        let place = key.wrapping_sub(self.least) as u64 as usize;
        self.entities.get(place).copied().unwrap_or(NO_ENTITY)
    }
}

/// Calls `take` with each value of a column of integers; false if it is none.
#[inline]
pub(super) fn each_integer(column: &ArrayRef, take: impl FnMut(Option<i64>)) -> bool {
    match column.data_type() {
        ArrowType::Int64 => each_of(column.as_primitive::<Int64Type>(), take),
        ArrowType::Int32 => each_of(column.as_primitive::<Int32Type>(), take),
        _ => return false,
    }
    true
}

#[inline]
fn each_of<T: ArrowPrimitiveType<Native: Into<i64>>>(column: &PrimitiveArray<T>, mut take: impl FnMut(Option<i64>)) {
    if column.null_count() == 0 {
        column.values().iter().for_each(|value| take(Some((*value).into())));
    } else {
        column.iter().for_each(|value| take(value.map(Into::into)));
    }
}
