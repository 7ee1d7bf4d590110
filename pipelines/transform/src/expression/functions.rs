//! The functions and types that expressions may use: the immutable scalar functions of DataFusion, and the type names
//! of the definition files beside those of SQL.

use crate::nearest::nearest;
use arrow::datatypes::{DataType as ArrowType, Field, FieldRef};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{Result, TableReference, plan_err};
use datafusion_expr::planner::{ContextProvider, ExprPlanner, TypePlanner};
use datafusion_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, Volatility, WindowUDF};
use datafusion_functions::core::planner::CoreFunctionPlanner;
use datafusion_functions::datetime::planner::DatetimeFunctionPlanner;
use datafusion_functions::unicode::planner::UnicodeFunctionPlanner;
use datafusion_sql::sqlparser::ast::{DataType as SqlType, TimezoneInfo};
use ondol_vocabulary::{Aggregation, DataType};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// Aggregate and window functions that users try inside a row expression, besides [`Aggregation`].
const AGGREGATES: [&str; 17] = [
    "avg",
    "median",
    "var_samp",
    "stddev_samp",
    "approx_distinct",
    "array_agg",
    "string_agg",
    "first_value",
    "last_value",
    "nth_value",
    "row_number",
    "rank",
    "dense_rank",
    "lag",
    "lead",
    "bool_and",
    "bool_or",
];

/// Functions of the query engine itself, of its files and its metadata: not of a row.
const FOREIGN: [&str; 8] = [
    "arrow_field",
    "arrow_metadata",
    "file_row_index",
    "input_file_name",
    "union_extract",
    "union_tag",
    "version",
    "with_metadata",
];

/// What a function name stands for.
pub(super) enum Meaning {
    /// A function of the row's values alone.
    RowWise,
    /// A function of many rows.
    Aggregate,
    /// A function whose value changes though its arguments do not: the clock, a random number.
    Volatile,
    /// No function; the nearest one, if any.
    Unknown(Option<String>),
}

/// What `name` (lower case) stands for.
pub(super) fn meaning(name: &str) -> Meaning {
    if let Some(function) = CATALOG.functions.get(name) {
        return match function.signature().volatility {
            Volatility::Immutable => Meaning::RowWise,
            Volatility::Stable | Volatility::Volatile => Meaning::Volatile,
        };
    }
    if AGGREGATES.contains(&name) || Aggregation::ALL.iter().any(|function| function.name() == name) {
        return Meaning::Aggregate;
    }
    Meaning::Unknown(nearest(name, CATALOG.functions.keys().map(String::as_str)).map(str::to_owned))
}

/// The planner's view of the world: no tables, the scalar functions, the vocabulary's types.
pub(super) static CATALOG: LazyLock<Catalog> = LazyLock::new(Catalog::new);

/// See [`CATALOG`].
pub(super) struct Catalog {
    /// By name and alias, in alphabetical order, so that suggestions are stable.
    functions: BTreeMap<String, Arc<ScalarUDF>>,
    planners: Vec<Arc<dyn ExprPlanner>>,
    options: ConfigOptions,
}

impl Catalog {
    fn new() -> Self {
        let mut functions = BTreeMap::new();
        let all = datafusion_functions::all_default_functions();
        for function in all.into_iter().filter(|function| !FOREIGN.contains(&function.name())) {
            for alias in function.aliases() {
                functions.insert(alias.clone(), Arc::clone(&function));
            }
            functions.insert(function.name().to_owned(), function);
        }
        let planners: Vec<Arc<dyn ExprPlanner>> = vec![
            Arc::new(CoreFunctionPlanner::default()),
            Arc::new(DatetimeFunctionPlanner),
            Arc::new(UnicodeFunctionPlanner),
        ];
        Self {
            functions,
            planners,
            options: ConfigOptions::default(),
        }
    }
}

impl ContextProvider for Catalog {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        plan_err!("an expression has no tables, so `{name}` can't be read")
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(VocabularyTypes))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.functions.get(name).map(Arc::clone)
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, _name: &str) -> Option<Arc<AggregateUDF>> {
        None
    }

    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<ArrowType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.functions.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// `cast(x as f64)` beside `cast(x as double)`; a timestamp is always UTC microseconds.
#[derive(Debug)]
struct VocabularyTypes;

impl TypePlanner for VocabularyTypes {
    fn plan_type_field(&self, sql: &SqlType) -> Result<Option<FieldRef>> {
        let data_type = match sql {
            SqlType::Custom(name, _) => name.to_string().to_lowercase().parse::<DataType>().ok(),
            SqlType::Timestamp(_, TimezoneInfo::None | TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
                Some(DataType::Timestamp)
            }
            SqlType::Datetime(_) => Some(DataType::Timestamp),
            _ => None,
        };
        Ok(data_type.map(|found| Arc::new(Field::new("", found.arrow(), true))))
    }
}
