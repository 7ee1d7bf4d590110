//! The inputs of requests as routing looks at them: what is absent or of the wrong type is null.

use crate::inputs::{conform, to_array};
use arrow::array::ArrayRef;
use ondol_vocabulary::{Field, Value};
use std::collections::BTreeMap;

/// The value of `field` in one request, as the input's type.
pub fn conformed(field: &Field, instance: &BTreeMap<String, Value>) -> Value {
    let value = instance.get(&field.name).cloned().unwrap_or_default();
    conform(field, value).unwrap_or_default()
}

/// The values of `field` in many requests.
pub fn column(field: &Field, instances: &[BTreeMap<String, Value>]) -> ArrayRef {
    let values: Vec<Value> = instances.iter().map(|instance| conformed(field, instance)).collect();
    to_array(field.data_type, &values)
}
