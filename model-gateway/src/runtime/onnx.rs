//! ONNX models in process: each loaded artifact is a bounded pool of sessions.
//!
//! Cost model. A run on few rows takes microseconds (a boosted ensemble of 100 trees: 5 µs for a row), a hop to another
//! thread takes 10–20 µs, and an async thread must not be held for more than about 500 µs. Nothing is measured at run
//! time: a dense network does one multiply-add for each 4 bytes of its file and row, about 0.1 ns a byte, and trees do
//! far less; so a run of `rows × bytes` up to [`INLINE_BUDGET`] stays on the calling thread, anything above goes to
//! the blocking pool. Each session keeps its own copy of the weights and runs one request at a time
//! (`Session::run` is not thread-safe), so the pool's size bounds both memory and parallel runs.

use crate::runtime::heap::GivenBack;
use crate::runtime::library::LibrarySearch;
use crate::runtime::signature::{Signature, Slot, SlotKind};
use crate::runtime::tensor::{ElementType, NamedTensor, TensorData};
use crate::runtime::{Runtime, RuntimeError};
use async_trait::async_trait;
use bytes::Bytes;
use ort::environment::Environment;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Outlet, Tensor, ValueType};
use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Rows times bytes of the artifact up to which a run stays on the calling thread: under about 500 µs.
pub const INLINE_BUDGET: usize = 4 << 20;

/// The property of an ONNX file that lists the feature names of its matrix, in order, as a JSON list.
pub const FEATURES_PROPERTY: &str = "ondol.features";

/// One environment a process: ONNX Runtime allows no second. Kept for the life of the process on purpose.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// How models are loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnnxOptions {
    /// Where the library is.
    pub library: LibrarySearch,
    /// Sessions a model.
    pub sessions: usize,
    /// Threads that share one run.
    pub intra_op_threads: usize,
}

/// A loaded artifact.
#[derive(Clone, Debug)]
pub struct OnnxModel {
    signature: Arc<Signature>,
    pool: Arc<Pool>,
}

/// The sessions of a loaded artifact.
#[derive(Debug)]
struct Pool {
    artifact: Bytes,
    environment: Environment,
    intra_op_threads: usize,
    sessions: usize,
    idle: Mutex<Vec<Session>>,
    permits: Arc<Semaphore>,
    /// Behind the sessions: fields are dropped in order.
    _given_back: GivenBack,
}

impl OnnxModel {
    /// Loads `artifact`. Blocks for milliseconds; the first load of a process also finds and loads the library.
    pub fn load(artifact: Bytes, options: &OnnxOptions) -> Result<Self, RuntimeError> {
        let environment = environment(&options.library)?;
        let session = open_session(&environment, &artifact, options.intra_op_threads)?;
        let signature = Arc::new(introspect(&session)?);
        let pool = Arc::new(Pool {
            artifact,
            environment,
            intra_op_threads: options.intra_op_threads,
            sessions: options.sessions.max(1),
            idle: Mutex::new(vec![session]),
            permits: Arc::new(Semaphore::new(options.sessions.max(1))),
            _given_back: GivenBack,
        });
        Ok(Self { signature, pool })
    }
}

#[async_trait]
impl Runtime for OnnxModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn memory_bytes(&self) -> usize {
        memory_bytes(self.pool.artifact.len(), self.pool.sessions)
    }

    /// Waits for a free session.
    async fn run(
        &self,
        rows: usize,
        inputs: Vec<NamedTensor>,
        _deadline: Instant,
    ) -> Result<Vec<NamedTensor>, RuntimeError> {
        let pool = &self.pool;
        let permit = Arc::clone(&pool.permits)
            .acquire_owned()
            .await
            .map_err(|_| RuntimeError::Run("the session pool is closed".to_owned()))?;
        let session = pool.take();
        let inline = rows.saturating_mul(pool.artifact.len()) <= INLINE_BUDGET;
        match session {
            Some(session) if inline => pool.run_on(session, inputs),
            session => {
                let pool = Arc::clone(pool);
                let run = move || {
                    let _permit = permit;
                    let session = session.map_or_else(|| pool.another_session(), Ok)?;
                    pool.run_on(session, inputs)
                };
                tokio::task::spawn_blocking(run)
                    .await
                    .map_err(|error| RuntimeError::Run(error.to_string()))?
            }
        }
    }
}

impl Pool {
    fn another_session(&self) -> Result<Session, RuntimeError> {
        open_session(&self.environment, &self.artifact, self.intra_op_threads)
    }

    fn take(&self) -> Option<Session> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn run_on(&self, mut session: Session, inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, RuntimeError> {
        let result = run_session(&mut session, inputs);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        result
    }
}

/// What a model of `size_bytes` takes with all of its `sessions` open: each has the weights once, and the file is kept to
/// open more of them.
pub(super) fn memory_bytes(size_bytes: usize, sessions: usize) -> usize {
    size_bytes.saturating_mul(sessions.max(1).saturating_add(1))
}

fn environment(library: &LibrarySearch) -> Result<Environment, RuntimeError> {
    let mut slot = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = slot.as_ref() {
        return Ok(environment.clone());
    }
    let path = library.find()?;
    let builder = ort::init_from(&path).map_err(|error| RuntimeError::Library(error.to_string()))?;
    let environment = builder
        .with_name("ondol")
        .with_telemetry(false)
        .build()
        .map_err(|error| RuntimeError::Library(format!("ONNX Runtime at `{}` failed: {error}", path.display())))?;
    tracing::info!(library = %path.display(), "onnx runtime loaded");
    *slot = Some(environment.clone());
    Ok(environment)
}

fn open_session(environment: &Environment, artifact: &[u8], threads: usize) -> Result<Session, RuntimeError> {
    let open = || -> Result<Session, ort::Error> {
        let mut builder = Session::builder(environment)?
            .with_intra_threads(threads)?
            .with_inter_threads(1)?;
        builder.commit_from_memory(artifact)
    };
    open().map_err(|error| RuntimeError::Artifact(error.to_string()))
}

fn introspect(session: &Session) -> Result<Signature, RuntimeError> {
    let metadata = session
        .metadata()
        .map_err(|error| RuntimeError::Artifact(error.to_string()))?;
    let features = match metadata.custom(FEATURES_PROPERTY) {
        None => None,
        Some(text) => Some(serde_json::from_str(&text).map_err(|error| {
            RuntimeError::Artifact(format!(
                "its property `{FEATURES_PROPERTY}` is not a JSON list of names: {error}"
            ))
        })?),
    };
    Ok(Signature {
        inputs: session.inputs().iter().map(slot).collect(),
        outputs: session.outputs().iter().map(slot).collect(),
        features,
    })
}

fn slot(outlet: &Outlet) -> Slot {
    let kind = match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => match ElementType::from_ort(*ty) {
            Some(element) => SlotKind::Tensor {
                element,
                shape: shape.to_vec(),
            },
            None => SlotKind::Unsupported(format!("{ty:?} tensor")),
        },
        ValueType::Sequence(inner) if matches!(**inner, ValueType::Map { .. }) => {
            SlotKind::Unsupported("sequence of maps".to_owned())
        }
        ValueType::Sequence(_) => SlotKind::Unsupported("sequence".to_owned()),
        ValueType::Map { .. } => SlotKind::Unsupported("map".to_owned()),
        ValueType::Optional(_) => SlotKind::Unsupported("optional".to_owned()),
    };
    Slot {
        name: outlet.name().to_owned(),
        kind,
    }
}

fn run_session(session: &mut Session, inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, RuntimeError> {
    let run = || -> Result<Vec<NamedTensor>, ort::Error> {
        let mut values: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::with_capacity(inputs.len());
        for NamedTensor { name, shape, data } in inputs {
            values.push((Cow::Owned(name), SessionInputValue::Owned(to_value(shape, data)?)));
        }
        let outputs = session.run(values)?;
        outputs.iter().map(|(name, value)| from_value(name, &value)).collect()
    };
    run().map_err(|error| RuntimeError::Run(error.to_string()))
}

fn to_value(shape: Vec<i64>, data: TensorData) -> Result<DynValue, ort::Error> {
    Ok(match data {
        TensorData::Bool(values) => Tensor::from_array((shape, values))?.into_dyn(),
        TensorData::U8(values) => Tensor::from_array((shape, values))?.into_dyn(),
        TensorData::U16(values) => Tensor::from_array((shape, values))?.into_dyn(),
        TensorData::U32(values) => Tensor::from_array((shape, values))?.into_dyn(),
        TensorData::U64(values) => Tensor::from_array((shape, values))?.into_dyn(),
        TensorData::I8(values) => Tensor::from_array((shape, values))?.into_dyn(),
        TensorData::I16(values) => Tensor::from_array((shape, values))?.into_dyn(),
        TensorData::I32(values) => Tensor::from_array((shape, values))?.into_dyn(),
        TensorData::I64(values) => Tensor::from_array((shape, values))?.into_dyn(),
        TensorData::F32(values) => Tensor::from_array((shape, values))?.into_dyn(),
        TensorData::F64(values) => Tensor::from_array((shape, values))?.into_dyn(),
        TensorData::String(values) => Tensor::from_string_array((shape, values.as_slice()))?.into_dyn(),
    })
}

fn from_value(name: &str, value: &DynValue) -> Result<NamedTensor, ort::Error> {
    let element = value.dtype().tensor_type().and_then(ElementType::from_ort);
    macro_rules! read {
        ($variant:ident) => {{
            let (shape, values) = value.try_extract_tensor()?;
            (shape.to_vec(), TensorData::$variant(values.to_vec()))
        }};
    }
    let (shape, data) = match element {
        Some(ElementType::Bool) => read!(Bool),
        Some(ElementType::U8) => read!(U8),
        Some(ElementType::U16) => read!(U16),
        Some(ElementType::U32) => read!(U32),
        Some(ElementType::U64) => read!(U64),
        Some(ElementType::I8) => read!(I8),
        Some(ElementType::I16) => read!(I16),
        Some(ElementType::I32) => read!(I32),
        Some(ElementType::I64) => read!(I64),
        Some(ElementType::F32) => read!(F32),
        Some(ElementType::F64) => read!(F64),
        Some(ElementType::String) => {
            let (shape, values) = value.try_extract_strings()?;
            (shape.to_vec(), TensorData::String(values))
        }
        None => {
            return Err(ort::Error::new(format!(
                "output `{name}` is no tensor the gateway can read"
            )));
        }
    };
    Ok(NamedTensor {
        name: name.to_owned(),
        shape,
        data,
    })
}
