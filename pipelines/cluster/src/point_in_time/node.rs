//! The join in a logical plan, and how it becomes operators.

use super::events::EventsExec;
use super::exec::PointInTimeExec;
use super::spec::Join;
use arrow::datatypes::Schema;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use ondol_jobs::event_files::EventFiles;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A view's features joined to the rows of its input.
#[derive(Clone, Debug)]
pub(crate) struct PointInTimeNode {
    join: Join,
    events: Arc<EventFiles>,
    spine: LogicalPlan,
    schema: DFSchemaRef,
}

impl PointInTimeNode {
    /// Of `spine`, which has the view's key columns and the moments, and the files of what the view reads.
    pub(crate) fn new(join: Join, events: Arc<EventFiles>, spine: LogicalPlan) -> Result<Self> {
        let columns: &Schema = spine.schema().as_arrow();
        let schema = DFSchema::try_from(join.schema(columns).as_ref().clone())?;
        Ok(Self {
            join,
            events,
            spine,
            schema: Arc::new(schema),
        })
    }

    /// As a plan.
    pub(crate) fn plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }
}

impl PartialEq for PointInTimeNode {
    fn eq(&self, other: &Self) -> bool {
        self.join == other.join && self.events == other.events && self.spine == other.spine
    }
}

impl Eq for PointInTimeNode {}

impl Hash for PointInTimeNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.join.hash(state);
        self.spine.hash(state);
    }
}

impl PartialOrd for PointInTimeNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.join.partial_cmp(&other.join) {
            Some(Ordering::Equal) => self.spine.partial_cmp(&other.spine),
            unequal => unequal,
        }
    }
}

impl UserDefinedLogicalNodeCore for PointInTimeNode {
    fn name(&self) -> &str {
        "PointInTimeJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.spine]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    /// Rows of the spine may be left out before the join: none depends on another.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let spine = self.spine.schema();
        let features = self.schema.fields().iter().skip(spine.fields().len());
        features.map(|field| field.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PointInTimeJoin: {}", self.join.describe())
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let [spine] = <[LogicalPlan; 1]>::try_from(inputs)
            .map_err(|inputs| DataFusionError::Internal(format!("a join of {} inputs instead of 1", inputs.len())))?;
        Self::new(self.join.clone(), Arc::clone(&self.events), spine)
    }
}

/// Turns [`PointInTimeNode`] into operators.
#[derive(Debug)]
struct JoinPlanner;

#[async_trait]
impl ExtensionPlanner for JoinPlanner {
    async fn plan_extension(
        &self,
        _planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        _context: &datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<PointInTimeNode>() else {
            return Ok(None);
        };
        let [spine] = physical_inputs else {
            return Err(DataFusionError::Internal("a join without a spine".to_owned()));
        };
        let events = EventsExec::of_files(
            node.join.clone(),
            node.events.as_ref().clone(),
            session.config().target_partitions(),
        )?;
        let join = PointInTimeExec::new(node.join.clone(), Arc::clone(spine), Arc::new(events))?;
        Ok(Some(Arc::new(join)))
    }
}

/// The engine's planner, which knows the join.
pub(crate) struct PlannerWithJoins;

impl fmt::Debug for PlannerWithJoins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlannerWithJoins")
    }
}

#[async_trait]
impl QueryPlanner for PlannerWithJoins {
    async fn create_physical_plan(
        &self,
        logical_plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(JoinPlanner)])
            .create_physical_plan(logical_plan, session)
            .await
    }
}

/// The columns `names` of `schema` as expressions.
pub(super) fn columns<'a>(names: impl Iterator<Item = &'a str>, schema: &Schema) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
    names
        .map(|name| datafusion::physical_expr::expressions::col(name, schema))
        .collect()
}
