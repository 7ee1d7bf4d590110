//! A model's feature vector, compiled: from served features and inputs to the columns a model scores.
//!
//! The same code runs at request time and when a training set is built, so a derived feature can't differ between the
//! two. Cost: everything by name is resolved at compile time; assembling moves column pointers, and evaluates each
//! derived expression once over the whole batch.

use crate::expression::{Expression, ExpressionError};
use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, Schema, SchemaRef};
use ondol_vocabulary::{
    DataType, FeatureDefinition, FeatureKind, FeatureOrigin, FeatureRef, Field, ModelDefinition, ViewDefinition,
};
use std::sync::Arc;

/// A compiled feature vector. Immutable and shared; compile once per snapshot.
#[derive(Debug)]
pub struct VectorEngine {
    model: ModelDefinition,
    needs: Arc<[FeatureRef]>,
    /// What each slot holds: the inputs, then the needed features, then the derived ones.
    slots: Vec<Field>,
    /// Their types in Arrow.
    types: Vec<ArrowType>,
    derived: Vec<Step>,
    /// The slot of each entry of the vector.
    vector: Vec<usize>,
    schema: SchemaRef,
}

/// A derived feature: its expression, and the slots that this reads.
#[derive(Debug)]
struct Step {
    expression: Expression,
    reads: Vec<usize>,
}

impl VectorEngine {
    /// Compiles `model`, whose features come from `views`. A view feature that is absent, or whose type is no longer
    /// that of the model's definition, is an error.
    pub fn compile(model: &ModelDefinition, views: &[&ViewDefinition]) -> Result<Self, ExpressionError> {
        let needs: Arc<[FeatureRef]> = model.view_features().into();
        let mut slots = model.inputs.clone();
        for need in needs.iter() {
            let view = views.iter().find(|view| view.name == need.view);
            let feature = view.and_then(|view| view.feature(&need.feature));
            let feature = feature.ok_or_else(|| refusal(model, &format!("there is no feature `{need}`")))?;
            slots.push(Field {
                name: need.to_string(),
                data_type: feature.data_type,
            });
        }
        let mut derived = Vec::with_capacity(model.derived.len());
        for feature in &model.derived {
            derived.push(step(model, feature, &slots)?);
            slots.push(Field {
                name: format!("derived.{}", feature.name),
                data_type: feature.data_type,
            });
        }
        let mut vector = Vec::with_capacity(model.features.len());
        for feature in &model.features {
            let name = match &feature.origin {
                FeatureOrigin::View { feature } => feature.to_string(),
                FeatureOrigin::Input { name } => name.clone(),
                FeatureOrigin::Derived { name } => format!("derived.{name}"),
            };
            let slot = slots.iter().position(|slot| slot.name == name);
            let slot = slot.ok_or_else(|| refusal(model, &format!("nothing gives its feature `{}`", feature.name)))?;
            check_type(
                model,
                &feature.name,
                feature.data_type,
                slots.get(slot).map(|slot| slot.data_type),
            )?;
            vector.push(slot);
        }
        let schema = arrow_schema(model.features.iter().map(|feature| (&feature.name, feature.data_type)));
        Ok(Self {
            model: model.clone(),
            needs,
            types: slots.iter().map(|slot| slot.data_type.arrow()).collect(),
            slots,
            derived,
            vector,
            schema,
        })
    }

    /// The model compiled.
    pub fn definition(&self) -> &ModelDefinition {
        &self.model
    }

    /// The view features it needs, in the order in which [`Self::assemble`] expects them.
    pub fn needs(&self) -> &Arc<[FeatureRef]> {
        &self.needs
    }

    /// The schema of the feature vector: a nullable field per entry, in order.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The feature vector: a column per entry, named and typed as in the definition, in order.
    /// `inputs` has a column per model input by name; `features` one array per [`Self::needs`], of the same length.
    pub fn assemble(&self, inputs: &RecordBatch, features: &[ArrayRef]) -> Result<RecordBatch, ExpressionError> {
        let rows = inputs.num_rows();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.slots.len());
        for input in &self.model.inputs {
            let column = inputs.column_by_name(&input.name);
            columns.push(Arc::clone(
                column.ok_or_else(|| self.failure(format!("input `{}` is absent", input.name)))?,
            ));
        }
        if features.len() != self.needs.len() {
            return Err(self.failure(format!(
                "it needs {} features, not {}",
                self.needs.len(),
                features.len()
            )));
        }
        columns.extend(features.iter().map(Arc::clone));
        for ((slot, expected), column) in self.slots.iter().zip(&self.types).zip(&columns) {
            self.check_column(slot, expected, column, rows)?;
        }
        for step in &self.derived {
            let read = step
                .reads
                .iter()
                .filter_map(|slot| columns.get(*slot).map(Arc::clone))
                .collect();
            columns.push(step.expression.evaluate_columns(read, rows)?);
        }
        let vector = self
            .vector
            .iter()
            .filter_map(|slot| columns.get(*slot).map(Arc::clone))
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), vector, &options)
            .map_err(|error| self.failure(error.to_string()))
    }

    fn check_column(
        &self,
        slot: &Field,
        expected: &ArrowType,
        column: &ArrayRef,
        rows: usize,
    ) -> Result<(), ExpressionError> {
        if column.data_type() != expected {
            let found = type_name(column.data_type());
            return Err(self.failure(format!("`{}` is {found}, but must be {}", slot.name, slot.data_type)));
        }
        if column.len() != rows {
            return Err(self.failure(format!("`{}` has {} values for {rows} rows", slot.name, column.len())));
        }
        Ok(())
    }

    fn failure(&self, message: String) -> ExpressionError {
        ExpressionError::Evaluate {
            expression: format!("model {}", self.model.name),
            message,
        }
    }
}

fn step(model: &ModelDefinition, feature: &FeatureDefinition, slots: &[Field]) -> Result<Step, ExpressionError> {
    let FeatureKind::LatestRow { expression } = &feature.kind else {
        return Err(refusal(model, &format!("`derived.{}` can't aggregate", feature.name)));
    };
    let schema = arrow_schema(slots.iter().map(|slot| (&slot.name, slot.data_type)));
    let expression = Expression::plan(expression, &schema)?;
    let found = DataType::from_arrow(expression.data_type());
    check_type(model, &format!("derived.{}", feature.name), feature.data_type, found)?;
    let columns = expression.columns();
    let reads = columns
        .iter()
        .filter_map(|column| slots.iter().position(|slot| slot.name == *column))
        .collect();
    Ok(Step { expression, reads })
}

/// A view may have moved on since the model was defined: then the model must be applied again.
fn check_type(
    model: &ModelDefinition,
    name: &str,
    defined: DataType,
    found: Option<DataType>,
) -> Result<(), ExpressionError> {
    match found {
        Some(found) if found == defined => Ok(()),
        found => {
            let found = found.map_or("of no feature type", DataType::name);
            Err(refusal(
                model,
                &format!("`{name}` was defined as {defined} and is now {found}: apply the model again"),
            ))
        }
    }
}

fn arrow_schema<'f>(fields: impl Iterator<Item = (&'f String, DataType)>) -> SchemaRef {
    Arc::new(Schema::new(
        fields
            .map(|(name, data_type)| ArrowField::new(name, data_type.arrow(), true))
            .collect::<Vec<_>>(),
    ))
}

fn type_name(arrow: &ArrowType) -> String {
    DataType::from_arrow(arrow).map_or_else(|| arrow.to_string(), |data_type| data_type.to_string())
}

fn refusal(model: &ModelDefinition, message: &str) -> ExpressionError {
    ExpressionError::Plan {
        message: format!("model `{}`: {message}", model.name),
        offset: None,
        suggestion: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition;
    use arrow::array::{AsArray, Float64Array, Int64Array, StringArray};
    use arrow::datatypes::Float64Type;
    use ondol_vocabulary::{DefinitionFile, DefinitionFiles};

    const TEXT: &str = r#"
        [source.transactions]
        kafka = "transactions"
        time = "ts"
        schema = { card_id = "string", amount = "f64", ts = "timestamp" }

        [view.card]
        from = "transactions"
        key = "card_id"
        features.n_1h = "count() over 1h"
        features.spend_24h = "sum(amount) over 24h"

        [model.fraud]
        inputs = { card_id = "string", amount = "f64" }
        features = ["derived.big", "card.n_1h", "amount", "card_id"]
        derived.big = "derived.ratio > 0.5"
        derived.ratio = "amount / nullif(card.spend_24h, 0)"
    "#;

    fn engine() -> (VectorEngine, definition::Definitions) {
        let files = vec![DefinitionFile {
            path: "ondol.toml".into(),
            text: TEXT.into(),
        }];
        let definitions = definition::compile(&DefinitionFiles { files }).unwrap();
        let views: Vec<_> = definitions.views.iter().collect();
        (
            VectorEngine::compile(&definitions.models[0], &views).unwrap(),
            definitions,
        )
    }

    fn inputs() -> RecordBatch {
        let amounts: ArrayRef = Arc::new(Float64Array::from(vec![Some(6.0), Some(1.0), None]));
        let cards: ArrayRef = Arc::new(StringArray::from(vec!["c1", "c2", "c3"]));
        RecordBatch::try_from_iter([("amount", amounts), ("card_id", cards)]).unwrap()
    }

    #[test]
    fn the_vector_has_the_names_types_and_order_of_the_definition() {
        let (engine, _) = engine();
        let needs: Vec<_> = engine.needs().iter().map(ToString::to_string).collect();
        assert_eq!(needs, ["card.n_1h", "card.spend_24h"]);
        let features: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![3, 0, 1])),
            Arc::new(Float64Array::from(vec![Some(10.0), None, Some(0.0)])),
        ];
        let vector = engine.assemble(&inputs(), &features).unwrap();
        assert_eq!(vector.schema(), *engine.schema());
        let names: Vec<_> = vector
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        assert_eq!(names, ["derived.big", "card.n_1h", "amount", "card_id"]);
        let big: Vec<_> = vector.column(0).as_boolean().iter().collect();
        assert_eq!(big, [Some(true), None, None]);
        assert_eq!(vector.column(2).as_primitive::<Float64Type>().value(0), 6.0);
    }

    #[test]
    fn what_is_handed_in_wrong_is_named() {
        let (engine, _) = engine();
        let counts: ArrayRef = Arc::new(Int64Array::from(vec![3, 0, 1]));
        let error = |features: &[ArrayRef]| engine.assemble(&inputs(), features).unwrap_err().to_string();
        assert_eq!(error(&[]), "`model fraud` failed: it needs 2 features, not 0");
        assert_eq!(
            error(&[Arc::clone(&counts), Arc::clone(&counts)]),
            "`model fraud` failed: `card.spend_24h` is i64, but must be f64"
        );
        let short: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
        assert_eq!(
            error(&[counts, short]),
            "`model fraud` failed: `card.spend_24h` has 1 values for 3 rows"
        );
    }

    #[test]
    fn a_view_that_moved_on_is_refused() {
        let (_, mut definitions) = engine();
        let model = definitions.models[0].clone();
        definitions.views[0].features[0].data_type = DataType::F64;
        let moved = VectorEngine::compile(&model, &[&definitions.views[0]])
            .unwrap_err()
            .to_string();
        assert_eq!(
            moved,
            "model `fraud`: `card.n_1h` was defined as i64 and is now f64: apply the model again"
        );
        definitions.views[0].features.remove(0);
        let absent = VectorEngine::compile(&model, &[&definitions.views[0]])
            .unwrap_err()
            .to_string();
        assert_eq!(absent, "model `fraud`: there is no feature `card.n_1h`");
    }
}
