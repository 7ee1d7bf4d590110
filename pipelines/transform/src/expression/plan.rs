//! From a resolved syntax tree to an executable expression.
//!
//! An expression is *total*: bad data gives a null, never an error. Two rewrites make the common cases cheap (integer
//! division by zero, a cast of text that is no number); what remains is caught row by row in
//! [`super::Expression::evaluate`].

use super::ExpressionError;
use super::functions::CATALOG;
use super::syntax::Syntax;
use arrow::datatypes::{DataType as ArrowType, Field, Schema, TimeUnit};
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, DataFusionError, Result, ScalarValue, plan_err};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::expr::TryCast;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{BinaryExpr, Expr, ExprSchemable, Operator, lit};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use ondol_vocabulary::DataType;
use std::sync::Arc;

/// An executable expression over the columns that it reads.
pub(super) struct Plan {
    pub(super) physical: Arc<dyn PhysicalExpr>,
    pub(super) input: Arc<Schema>,
    pub(super) data_type: ArrowType,
}

/// Plans `syntax`, whose columns are all in `schema`.
pub(super) fn plan(syntax: Syntax, schema: &Schema) -> Result<Plan, ExpressionError> {
    let Syntax { tree, columns } = syntax;
    // Any value may be null: a source's declared types say nothing of presence.
    let fields = columns.iter().filter_map(|name| schema.field_with_name(name).ok());
    let input = Arc::new(Schema::new(
        fields
            .map(|field| Field::new(field.name(), field.data_type().clone(), true))
            .collect::<Vec<_>>(),
    ));
    let physical = physical(tree, &input).map_err(|error| refusal(readable(&error)))?;
    let raw = physical.data_type(&input).map_err(|error| refusal(readable(&error)))?;
    let data_type = result_type(&raw)?;
    Ok(Plan {
        physical,
        input,
        data_type,
    })
}

fn physical(tree: datafusion_sql::sqlparser::ast::Expr, input: &Arc<Schema>) -> Result<Arc<dyn PhysicalExpr>> {
    let schema = Arc::new(DFSchema::try_from(Arc::clone(input))?);
    let options = ParserOptions::new()
        .with_enable_ident_normalization(false)
        .with_map_string_types_to_utf8view(false);
    let planner = SqlToRel::new_with_options(&*CATALOG, options);
    let logical = planner.sql_to_expr(tree, &schema, &mut PlannerContext::new())?;
    let context = SimplifyContext::builder()
        .with_schema(Arc::clone(&schema))
        .with_config_options(Arc::new(ConfigOptions::default()))
        .build();
    let simplifier = ExprSimplifier::new(context);
    let logical = simplifier.coerce(forgiving_casts(logical)?, &schema)?;
    // Simplification is no luxury: some functions (`coalesce`) exist only as what they simplify to.
    let logical = simplifier.simplify(forgiving_division(logical, &schema)?)?;
    refuse_growth(&logical)?;
    create_physical_expr(
        &logical,
        &schema,
        &ExecutionProps::new(),
        &PhysicalPlanningContext::default(),
    )
}

/// `cast` of a value that does not fit is null. A literal that does not fit is an error of the definition.
fn forgiving_casts(expr: Expr) -> Result<Expr> {
    let rewritten = expr.transform_up(|node| match node {
        Expr::Cast(cast) if !matches!(*cast.expr, Expr::Literal(..)) => Ok(Transformed::yes(Expr::TryCast(TryCast {
            expr: cast.expr,
            field: cast.field,
        }))),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(rewritten.data)
}

/// `a / b` and `a % b` of exact numbers become `a / nullif(b, 0)`: null where `b` is 0. Floats follow IEEE 754.
fn forgiving_division(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let rewritten = expr.transform_up(|node| match node {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: op @ (Operator::Divide | Operator::Modulo),
            right,
        }) => {
            let divisor = right.get_type(schema)?;
            if !is_exact(&divisor) {
                return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })));
            }
            let zero = lit(ScalarValue::new_zero(&divisor)?);
            let right = Box::new(datafusion_functions::core::expr_fn::nullif(*right, zero));
            Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right })))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(rewritten.data)
}

/// The longest text that `lpad`, `rpad` and `repeat` may be asked for.
const MAX_GROWTH: i64 = 4_096;

/// A length that comes from data could ask for all of the memory: it must be a small constant.
fn refuse_growth(expr: &Expr) -> Result<()> {
    expr.apply(|node| {
        if let Expr::ScalarFunction(call) = node
            && matches!(call.name(), "lpad" | "rpad" | "repeat")
        {
            let length = match call.args.get(1) {
                Some(Expr::Literal(length, _)) => length.cast_to(&ArrowType::Int64).ok(),
                _ => None,
            };
            if !matches!(length, Some(ScalarValue::Int64(Some(length))) if length <= MAX_GROWTH) {
                return plan_err!("`{}` needs a constant length of at most {MAX_GROWTH}", call.name());
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

fn is_exact(data_type: &ArrowType) -> bool {
    data_type.is_integer()
        || matches!(
            data_type,
            ArrowType::Decimal32(..) | ArrowType::Decimal64(..) | ArrowType::Decimal128(..) | ArrowType::Decimal256(..)
        )
}

/// The vocabulary's type that carries `raw`.
fn result_type(raw: &ArrowType) -> Result<ArrowType, ExpressionError> {
    let data_type = match raw {
        ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View => DataType::String,
        ArrowType::Boolean => DataType::Bool,
        ArrowType::Int8 | ArrowType::Int16 | ArrowType::Int32 | ArrowType::UInt8 | ArrowType::UInt16 => DataType::I32,
        ArrowType::Int64 | ArrowType::UInt32 | ArrowType::UInt64 => DataType::I64,
        ArrowType::Float16 | ArrowType::Float32 => DataType::F32,
        ArrowType::Float64
        | ArrowType::Decimal32(..)
        | ArrowType::Decimal64(..)
        | ArrowType::Decimal128(..)
        | ArrowType::Decimal256(..) => DataType::F64,
        ArrowType::Date32 | ArrowType::Date64 | ArrowType::Timestamp(..) => DataType::Timestamp,
        ArrowType::Dictionary(_, values) => return result_type(values),
        ArrowType::Null => {
            return Err(refusal(
                "the expression is always null: give it a type with `cast(… as f64)`".to_owned(),
            ));
        }
        ArrowType::Duration(_) | ArrowType::Interval(_) => {
            let message = "the result is a span of time, which is no feature type: subtract \
                           `extract(epoch from …)` of both moments, which gives seconds";
            return Err(refusal(message.to_owned()));
        }
        other => {
            return Err(refusal(format!(
                "the result has type {}, which is no feature type: a feature is one of {}",
                plain(&other.to_string()),
                DataType::ALL.map(DataType::name).join(", "),
            )));
        }
    };
    Ok(data_type.arrow())
}

fn refusal(message: String) -> ExpressionError {
    ExpressionError::Plan {
        message,
        offset: None,
        suggestion: None,
    }
}

/// DataFusion's words without its prefixes and backtrace, in the type names of the definition files.
pub(super) fn readable(error: &DataFusionError) -> String {
    let words = match error.find_root() {
        DataFusionError::ArrowError(inner, _) => inner.to_string(),
        other => other.message().into_owned(),
    };
    let words = words.split("\n\nbacktrace").next().unwrap_or(&words).to_owned();
    // The candidate list of a function's signatures is long and in the planner's own notation.
    let words = words
        .split("\tCandidate functions:")
        .next()
        .unwrap_or(&words)
        .trim()
        .to_owned();
    let mut sentence = plain(&words).replace('\n', " ");
    let operands = sentence.strip_prefix("Cannot coerce arithmetic expression ");
    if let Some(operands) = operands.and_then(|rest| rest.strip_suffix(" to valid types")) {
        sentence = format!("there is no `{operands}`: cast one side, such as `cast(… as f64)`");
    }
    if let Some(first) = sentence.get(..1) {
        let lower = first.to_lowercase();
        sentence.replace_range(..1, &lower);
    }
    sentence.trim_end_matches('.').to_owned()
}

fn plain(words: &str) -> String {
    let moment = ArrowType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())).to_string();
    let names = [
        (moment.as_str(), "timestamp"),
        ("LargeUtf8", "string"),
        ("Utf8View", "string"),
        ("Utf8", "string"),
        ("Boolean", "bool"),
        ("Int32", "i32"),
        ("Int64", "i64"),
        ("Float32", "f32"),
        ("Float64", "f64"),
    ];
    names
        .into_iter()
        .fold(words.to_owned(), |words, (from, to)| words.replace(from, to))
}
