//! Graphs of registered models: sequences, weighted or computed ensembles, and switches, under one deadline.
//!
//! A graph is itself a model with a definition: its feature vector is what its nodes draw from. A node has one number a
//! row (null is NaN); a model node is fed features by name, and other nodes' numbers where its `features` say so. Nodes
//! that do not wait for each other run side by side, and a switch runs each of its nodes only on the rows that chose it.
//! The members' own definitions are those they were registered with; their versions are pinned, so a graph answers the
//! same until it is registered anew. A version can only name versions that exist before it, so there is no cycle among
//! graphs; within one it is refused.

mod columns;
mod run;
mod spec;

use crate::models::{Hold, Scorer};
use crate::runtime::signature::{Signature, Slot};
use crate::runtime::tensor::{ElementType, NamedTensor, TensorData};
use crate::runtime::{Runtime, RuntimeError};
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, Schema, SchemaRef};
use async_trait::async_trait;
use columns::{input_slot, of_tensors};
use ondol_transform::expression::Expression;
use ondol_vocabulary::{DataType, ModelDefinition, ModelFeature, VersionedName};
use run::Run;
use spec::{GraphSpec, NodeSpec};
use std::fmt;
use std::sync::Arc;
use tokio::time::Instant;

/// The output of a graph.
const OUTPUT: &str = "prediction";

/// Finds registered versions for a graph.
#[async_trait]
pub trait Members: fmt::Debug + Send + Sync {
    /// Version `model`, loaded.
    async fn member(&self, model: &VersionedName) -> Result<FoundMember, RuntimeError>;
}

/// A version that a graph names.
#[derive(Debug)]
pub struct FoundMember {
    /// Its model.
    pub scorer: Arc<Scorer>,
    /// The definition it was registered with.
    pub definition: ModelDefinition,
    /// Keeps it in memory.
    pub hold: Hold,
}

/// A graph of registered models.
#[derive(Debug)]
pub struct Graph {
    signature: Signature,
    features: Vec<ModelFeature>,
    schema: SchemaRef,
    names: Vec<String>,
    nodes: Vec<Node>,
    output: usize,
}

/// A node, compiled. Nodes are named by their place.
#[derive(Debug)]
enum Node {
    Model(Box<Member>),
    Weights(Vec<(usize, f64)>),
    Expression(Computed),
    Switch {
        cases: Vec<(Computed, usize)>,
        otherwise: usize,
    },
}

/// A model in a graph, and where each of its features comes from.
#[derive(Debug)]
struct Member {
    model: VersionedName,
    scorer: Arc<Scorer>,
    /// It stays in memory with the graph.
    _hold: Hold,
    schema: SchemaRef,
    sources: Vec<Source>,
}

/// An expression and the nodes it reads.
#[derive(Debug)]
struct Computed {
    expression: Expression,
    reads: Vec<Source>,
    schema: SchemaRef,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A column of the vector.
    Feature(usize),
    /// A node.
    Node(usize),
}

impl Graph {
    /// The graph that `artifact` describes, over the vector of `definition`. On its `first` opening its models are tried
    /// as well: later they may be down for now.
    pub async fn open(
        artifact: &[u8],
        definition: &ModelDefinition,
        members: &dyn Members,
        first: bool,
    ) -> Result<Self, RuntimeError> {
        let text = std::str::from_utf8(artifact)
            .map_err(|error| RuntimeError::Artifact(format!("the graph's description is no text: {error}")))?;
        let spec = GraphSpec::parse(text).map_err(RuntimeError::Artifact)?;
        let names: Vec<String> = spec.nodes.keys().cloned().collect();
        let compiler = Compiler::new(definition, &names)?;
        let mut nodes = Vec::with_capacity(names.len());
        for (name, node) in &spec.nodes {
            let explain = |error: String| RuntimeError::Artifact(format!("node `{name}`: {error}"));
            nodes.push(match &node.model {
                Some(model) => {
                    let found = members.member(model).await?;
                    if first {
                        try_member(&found.scorer).await.map_err(explain)?;
                    }
                    let member = compiler.member(model, found, node).map_err(explain)?;
                    Node::Model(Box::new(member))
                }
                None => compiler.node(node).map_err(explain)?,
            });
        }
        let output = names.iter().position(|name| *name == spec.output).unwrap_or_default();
        let graph = Self {
            signature: Signature {
                inputs: definition.features.iter().map(input_slot).collect(),
                outputs: vec![Slot::tensor(OUTPUT, ElementType::F64, vec![-1])],
                features: None,
            },
            features: definition.features.clone(),
            schema: compiler.vector,
            names,
            nodes,
            output,
        };
        graph.refuse_cycles()?;
        Ok(graph)
    }

    fn refuse_cycles(&self) -> Result<(), RuntimeError> {
        let mut done = vec![false; self.nodes.len()];
        let mut path = Vec::new();
        (0..self.nodes.len()).try_for_each(|node| self.visit(node, &mut path, &mut done))
    }

    /// As deep as the graph has nodes, which is bounded.
    fn visit(&self, node: usize, path: &mut Vec<usize>, done: &mut [bool]) -> Result<(), RuntimeError> {
        if done.get(node).copied().unwrap_or(true) {
            return Ok(());
        }
        if let Some(begin) = path.iter().position(|other| *other == node) {
            let cycle: Vec<&str> = path[begin..]
                .iter()
                .chain([&node])
                .map(|node| self.name(*node))
                .collect();
            return Err(RuntimeError::Artifact(format!(
                "the nodes form a cycle: {}",
                cycle.join(" needs ")
            )));
        }
        path.push(node);
        for other in self.nodes.get(node).map(Node::reads).unwrap_or_default() {
            self.visit(other, path, done)?;
        }
        path.pop();
        if let Some(done) = done.get_mut(node) {
            *done = true;
        }
        Ok(())
    }

    fn name(&self, node: usize) -> &str {
        self.names.get(node).map(String::as_str).unwrap_or_default()
    }
}

impl Node {
    /// The nodes it may read.
    fn reads(&self) -> Vec<usize> {
        let of = |sources: &[Source]| -> Vec<usize> {
            let node = |source: &Source| match source {
                Source::Node(node) => Some(*node),
                Source::Feature(_) => None,
            };
            sources.iter().filter_map(node).collect()
        };
        match self {
            Self::Model(member) => of(&member.sources),
            Self::Weights(weights) => weights.iter().map(|(node, _)| *node).collect(),
            Self::Expression(computed) => of(&computed.reads),
            Self::Switch { cases, otherwise } => {
                let mut nodes = vec![*otherwise];
                for (when, then) in cases {
                    nodes.extend(of(&when.reads));
                    nodes.push(*then);
                }
                nodes
            }
        }
    }
}

/// That a member answers a number, on a row that says nothing.
async fn try_member(scorer: &Scorer) -> Result<(), String> {
    let predictions = scorer.trial(1).await.map_err(|error| error.to_string())?;
    match predictions.first() {
        Some(value) if number(value).is_none() => Err(format!(
            "its model predicts {value}: a node has one number a row, so use a model that gives one"
        )),
        _ => Ok(()),
    }
}

/// A prediction as a number; null is NaN.
fn number(prediction: &serde_json::Value) -> Option<f64> {
    match prediction {
        serde_json::Value::Null => Some(f64::NAN),
        serde_json::Value::Bool(value) => Some(f64::from(u8::from(*value))),
        other => other.as_f64(),
    }
}

/// Compiles nodes over a vector and the names of all nodes.
struct Compiler<'a> {
    definition: &'a ModelDefinition,
    names: &'a [String],
    vector: SchemaRef,
    /// The vector's columns, then the nodes.
    all: SchemaRef,
}

impl<'a> Compiler<'a> {
    fn new(definition: &'a ModelDefinition, names: &'a [String]) -> Result<Self, RuntimeError> {
        let features = &definition.features;
        if let Some(name) = names
            .iter()
            .find(|name| features.iter().any(|feature| feature.name == **name))
        {
            return Err(RuntimeError::Artifact(format!(
                "node `{name}` has the name of a feature of `{}`: give it another",
                definition.name
            )));
        }
        let field = |feature: &ModelFeature| ArrowField::new(&feature.name, feature.data_type.arrow(), true);
        let vector: Vec<ArrowField> = features.iter().map(field).collect();
        let nodes = names.iter().map(|name| ArrowField::new(name, ArrowType::Float64, true));
        let all: Vec<ArrowField> = vector.iter().cloned().chain(nodes).collect();
        Ok(Self {
            definition,
            names,
            vector: Arc::new(Schema::new(vector)),
            all: Arc::new(Schema::new(all)),
        })
    }

    fn source(&self, name: &str) -> Option<Source> {
        let feature = self.definition.features.iter().position(|feature| feature.name == name);
        let node = || self.names.iter().position(|node| node == name).map(Source::Node);
        feature.map(Source::Feature).or_else(node)
    }

    fn node_named(&self, name: &str) -> usize {
        // Checked by the description.
        self.names.iter().position(|node| node == name).unwrap_or_default()
    }

    fn node(&self, node: &NodeSpec) -> Result<Node, String> {
        if let Some(weights) = &node.weights {
            let weight = |(node, weight): (&String, &f64)| (self.node_named(node), *weight);
            return Ok(Node::Weights(weights.iter().map(weight).collect()));
        }
        if let Some(text) = &node.expression {
            let computed = self.computed(text)?;
            let data_type = computed.expression.data_type();
            if !data_type.is_numeric() && *data_type != ArrowType::Boolean {
                return Err(format!("`{text}` is no number: a node has one number a row"));
            }
            return Ok(Node::Expression(computed));
        }
        let mut cases = Vec::new();
        let mut otherwise = 0;
        for case in node.switch.iter().flatten() {
            match &case.when {
                None => otherwise = self.node_named(&case.then),
                Some(text) => {
                    let when = self.computed(text)?;
                    if *when.expression.data_type() != ArrowType::Boolean {
                        return Err(format!("`when = \"{text}\"` is no condition: it must be true or false"));
                    }
                    cases.push((when, self.node_named(&case.then)));
                }
            }
        }
        Ok(Node::Switch { cases, otherwise })
    }

    fn computed(&self, text: &str) -> Result<Computed, String> {
        let expression = Expression::plan(text, &self.all).map_err(|error| format!("`{text}`: {error}"))?;
        let mut reads = Vec::new();
        let mut fields = Vec::new();
        for name in expression.columns() {
            let unknown = || format!("`{text}`: `{name}` is neither a feature nor a node");
            reads.push(self.source(&name).ok_or_else(unknown)?);
            fields.push(self.all.field_with_name(&name).map_err(|_| unknown())?.clone());
        }
        Ok(Computed {
            expression,
            reads,
            schema: Arc::new(Schema::new(fields)),
        })
    }

    fn member(&self, model: &VersionedName, member: FoundMember, node: &NodeSpec) -> Result<Member, String> {
        let features = &member.definition.features;
        if let Some(name) = node
            .features
            .keys()
            .find(|name| !features.iter().any(|feature| feature.name == **name))
        {
            return Err(format!("`features` names `{name}`, which is no feature of `{model}`"));
        }
        let mut sources = Vec::with_capacity(features.len());
        for feature in features {
            let from = node.features.get(&feature.name).unwrap_or(&feature.name);
            let source = self.source(from).ok_or_else(|| {
                format!(
                    "`{model}` takes {} ({}), and `{from}` is neither a feature of `{}` nor a node: add it to the model's \
                     features, or say in `features` what stands for it",
                    feature.name, feature.data_type, self.definition.name
                )
            })?;
            let found = match source {
                Source::Node(_) => DataType::F64,
                Source::Feature(place) => self
                    .definition
                    .features
                    .get(place)
                    .map_or(DataType::F64, |known| known.data_type),
            };
            let is_float = matches!(feature.data_type, DataType::F32 | DataType::F64);
            let is_number = matches!(
                found,
                DataType::F32 | DataType::F64 | DataType::I32 | DataType::I64 | DataType::Bool
            );
            if found != feature.data_type && !(is_float && is_number) {
                return Err(format!(
                    "`{model}` takes {} as {}, and `{from}` is {found}",
                    feature.name, feature.data_type
                ));
            }
            sources.push(source);
        }
        let field = |feature: &ModelFeature| ArrowField::new(&feature.name, feature.data_type.arrow(), true);
        Ok(Member {
            model: model.clone(),
            scorer: member.scorer,
            _hold: member.hold,
            schema: Arc::new(Schema::new(features.iter().map(field).collect::<Vec<_>>())),
            sources,
        })
    }
}

#[async_trait]
impl Runtime for Graph {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn members(&self) -> Vec<VersionedName> {
        let member = |node: &Node| match node {
            Node::Model(member) => Some(member.model.clone()),
            Node::Weights(_) | Node::Expression(_) | Node::Switch { .. } => None,
        };
        self.nodes.iter().filter_map(member).collect()
    }

    async fn run(
        &self,
        rows: usize,
        inputs: Vec<NamedTensor>,
        deadline: Instant,
    ) -> Result<Vec<NamedTensor>, RuntimeError> {
        let vector = of_tensors(&self.schema, &self.features, rows, &inputs)?;
        let run = Run::new(self, vector, deadline);
        let all = (0..rows).map(|row| u32::try_from(row).unwrap_or(u32::MAX)).collect();
        let values = run.values(self.output, all).await?;
        Ok(vec![NamedTensor {
            name: OUTPUT.to_owned(),
            shape: vec![i64::try_from(rows).unwrap_or(i64::MAX)],
            data: TensorData::F64(values),
        }])
    }
}
