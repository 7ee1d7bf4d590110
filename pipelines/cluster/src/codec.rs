//! Our operators as bytes, for plans that run elsewhere. Everything else of a plan is DataFusion's own to write.
//!
//! A byte says which operator, the rest is its [`Join`] as JSON: definitions and the range of events. The reader
//! compiles it anew. Both ends are of one version of Ondol: the scheduler refuses others before a plan is sent.

use crate::fault::EngineError;
use crate::point_in_time::{EventsExec, Join, PointInTimeExec};
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use std::sync::Arc;

/// What every operator of ours begins with; Ballista's own begin with a Protobuf tag, which is never this.
const MAGIC: &[u8] = b"\0ondol/1/";
const JOIN: u8 = b'J';
const EVENTS: u8 = b'E';

/// Writes and reads our operators, and leaves the others to Ballista.
#[derive(Debug, Default)]
pub(crate) struct JoinCodec {
    ballista: BallistaPhysicalExtensionCodec,
}

impl JoinCodec {
    fn write(buffer: &mut Vec<u8>, kind: u8, join: &Join) {
        buffer.extend_from_slice(MAGIC);
        buffer.push(kind);
        buffer.extend_from_slice(join.encode());
    }
}

impl PhysicalExtensionCodec for JoinCodec {
    fn try_decode(
        &self,
        buffer: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(ours) = buffer.strip_prefix(MAGIC) else {
            return self.ballista.try_decode(buffer, inputs, context, converter);
        };
        let odd = |detail: &str| DataFusionError::from(EngineError::Internal(format!("a plan of {detail}")));
        match (ours.split_first(), inputs) {
            (Some((&JOIN, join)), [spine, events]) => {
                let join = Join::decode(join)?;
                Ok(Arc::new(PointInTimeExec::new(
                    join,
                    Arc::clone(spine),
                    Arc::clone(events),
                )?))
            }
            (Some((&EVENTS, join)), [lists]) => Ok(Arc::new(EventsExec::new(Join::decode(join)?, Arc::clone(lists)))),
            _ => Err(odd("an operator that this version does not know")),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buffer: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        if let Some(join) = node.downcast_ref::<PointInTimeExec>() {
            Self::write(buffer, JOIN, join.join());
            return Ok(());
        }
        if let Some(events) = node.downcast_ref::<EventsExec>() {
            Self::write(buffer, EVENTS, events.join());
            return Ok(());
        }
        self.ballista.try_encode(node, buffer, converter)
    }
}
