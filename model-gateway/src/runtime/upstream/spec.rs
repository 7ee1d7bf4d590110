//! The description of a model on another server: what is registered as an artifact of kind `upstream`.

use crate::runtime::kind::parse_description;
use crate::runtime::signature::Slot;
use crate::runtime::tensor::ElementType;
use ondol_runtime::Secret;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A model on another server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamSpec {
    /// The server: `http://host:port`, `https://…`, or `unix:///path/of/its.sock`; a path after it is kept.
    pub url: String,
    /// A file (PEM) of authorities that its certificate may be of, beside those of the system. Absent: those alone.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// What it speaks.
    pub protocol: Protocol,
    /// The model's name there. MLflow serves one model and takes none.
    #[serde(default)]
    pub model: String,
    /// The model's version there. Empty: the one it serves.
    #[serde(default)]
    pub version: String,
    /// How long one call may take, in milliseconds; never longer than the request's deadline.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// How often a call that failed is made again. All retries and hedges together stay within a tenth of the calls.
    #[serde(default = "retries")]
    pub retries: u32,
    /// A second call is made when the first has not answered after so many milliseconds; the first answer counts. 0: never.
    #[serde(default)]
    pub hedge_ms: u64,
    /// Whether a call may be made twice. Only such calls are hedged, or repeated once they were sent.
    #[serde(default = "yes")]
    pub idempotent: bool,
    /// Calls under way at most; more are refused at once.
    #[serde(default = "concurrency")]
    pub concurrency: usize,
    /// The largest answer taken, in bytes.
    #[serde(default = "max_answer_bytes")]
    pub max_answer_bytes: usize,
    /// Tensors as bytes rather than JSON (`v2-rest` only). Absent: where the server says that it speaks the extension.
    #[serde(default)]
    pub binary: Option<bool>,
    /// How a request's rows are laid out (`mlflow` and `tf-serving` only).
    #[serde(default)]
    pub shape: BodyShape,
    /// Headers sent with each call. `${env:NAME}` and `${file:PATH}` stand for secrets kept elsewhere, and are read for
    /// each call.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// When calls stop because they fail.
    #[serde(default)]
    pub breaker: BreakerSpec,
    /// The model's inputs, where the server does not tell them. Absent: one per feature of the model's definition.
    #[serde(default)]
    pub inputs: Vec<SlotSpec>,
    /// The model's outputs, where the server does not tell them.
    #[serde(default)]
    pub outputs: Vec<SlotSpec>,
}

/// What an upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// The Open Inference Protocol V2 over HTTP: Triton, MLServer, KServe, another Ondol.
    V2Rest,
    /// The Open Inference Protocol V2 over gRPC.
    V2Grpc,
    /// MLflow's scoring server: `/invocations`.
    Mlflow,
    /// TensorFlow Serving over HTTP: `/v1/models/M:predict`.
    TfServing,
}

/// How a request's rows are laid out in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BodyShape {
    /// A list per column: `inputs` of TensorFlow Serving, `dataframe_split` of MLflow.
    #[default]
    Columns,
    /// An entry per row: `instances` of both.
    Rows,
}

/// When calls stop because they fail, and when they are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerSpec {
    /// Failures in a row that open it.
    pub failures: u32,
    /// Percentage of failures among the last 20 calls that opens it.
    pub failure_percent: u32,
    /// How long it stays open before a call is tried, in milliseconds; doubled each time the trial fails.
    pub open_ms: u64,
    /// The longest it stays open, in milliseconds.
    pub max_open_ms: u64,
    /// Trials that must succeed to close it again; as many may be under way.
    pub probes: u32,
}

impl Default for BreakerSpec {
    fn default() -> Self {
        Self {
            failures: 5,
            failure_percent: 50,
            open_ms: 1_000,
            max_open_ms: 30_000,
            probes: 1,
        }
    }
}

/// An input or output, described by hand.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotSpec {
    /// Its name.
    pub name: String,
    /// Its element type in the words of the Open Inference Protocol: `FP32`, `INT64`, `BYTES`, …
    pub datatype: String,
    /// Its dimensions; -1 where any size goes. Absent: one value a row.
    #[serde(default = "one_a_row")]
    pub shape: Vec<i64>,
}

fn timeout_ms() -> u64 {
    1_000
}

fn retries() -> u32 {
    1
}

fn concurrency() -> usize {
    64
}

fn max_answer_bytes() -> usize {
    64 << 20
}

fn yes() -> bool {
    true
}

fn one_a_row() -> Vec<i64> {
    vec![-1]
}

impl UpstreamSpec {
    /// Parses a description and checks what can be checked without its server.
    pub fn parse(text: &str) -> Result<Self, String> {
        let spec: Self = parse_description(text)?;
        spec.address()?;
        if spec.model.is_empty() && spec.protocol != Protocol::Mlflow {
            return Err("`model` is missing: the model's name at the upstream".to_owned());
        }
        let bounds = [
            ("timeout_ms", spec.timeout_ms),
            ("concurrency", spec.concurrency as u64),
            ("breaker.failures", u64::from(spec.breaker.failures)),
            ("breaker.probes", u64::from(spec.breaker.probes)),
        ];
        if let Some((key, _)) = bounds.iter().find(|(_, value)| *value == 0) {
            return Err(format!("`{key}` is 0: it must be at least 1"));
        }
        if spec.ca.is_some() && !spec.url.starts_with("https:") {
            return Err(format!(
                "`ca` is set, and `url` is `{}`: TLS is spoken with https://",
                spec.url
            ));
        }
        if spec.hedge_ms > 0 && !spec.idempotent {
            return Err(
                "`hedge_ms` makes calls twice, which `idempotent = false` forbids: remove one of them".to_owned(),
            );
        }
        slots(&spec.inputs)?;
        slots(&spec.outputs)?;
        Ok(spec)
    }

    /// Where the server is.
    pub(super) fn address(&self) -> Result<Address, String> {
        if let Some(path) = self.url.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(format!(
                    "`url` is `{}`: a socket is `unix:///path/of/its.sock`",
                    self.url
                ));
            }
            return Ok(Address {
                base: "http://localhost".to_owned(),
                socket: Some(PathBuf::from(path)),
                name: format!("unix:{path}"),
            });
        }
        let url = url::Url::parse(&self.url).map_err(|error| format!("`url` is `{}`: {error}", self.url))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(format!("`url` is `{}`: use http://, https:// or unix:///", self.url));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("`url` holds a user or password: put them in `headers`, by reference".to_owned());
        }
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        Ok(Address {
            base: url.as_str().trim_end_matches('/').to_owned(),
            socket: None,
            name: format!("{host}{port}"),
        })
    }

    /// What the upstream is called in errors and metrics: its host and model, no secret.
    pub(super) fn label(&self) -> String {
        let name = self.address().map(|address| address.name).unwrap_or_default();
        match (self.model.as_str(), self.version.as_str()) {
            ("", _) => name,
            (model, "") => format!("{name}/{model}"),
            (model, version) => format!("{name}/{model}@{version}"),
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(super) fn hedge(&self) -> Option<Duration> {
        (self.hedge_ms > 0).then(|| Duration::from_millis(self.hedge_ms))
    }
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// What paths are appended to.
    pub(super) base: String,
    /// The socket by which it is reached, where it is no TCP port.
    pub(super) socket: Option<PathBuf>,
    /// Its name without a secret.
    pub(super) name: String,
}

/// The slots described by hand.
pub(super) fn slots(specs: &[SlotSpec]) -> Result<Vec<Slot>, String> {
    let slot = |spec: &SlotSpec| {
        let element = ElementType::from_name(&spec.datatype).ok_or_else(|| {
            format!(
                "`{}` has datatype `{}`: one of BOOL, UINT8, …, INT64, FP32, FP64, BYTES",
                spec.name, spec.datatype
            )
        })?;
        Ok(Slot::tensor(&spec.name, element, spec.shape.clone()))
    };
    specs.iter().map(slot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        UpstreamSpec::parse(text).unwrap_err()
    }

    #[test]
    fn a_description_in_toml_and_in_json_is_the_same() {
        let toml = "url = \"http://models:8000/\"\nprotocol = \"v2-rest\"\nmodel = \"fraud\"\nversion = \"3\"\n";
        let json = r#"{"url":"http://models:8000/","protocol":"v2-rest","model":"fraud","version":"3"}"#;
        let spec = UpstreamSpec::parse(toml).unwrap();
        assert_eq!(UpstreamSpec::parse(json).unwrap(), spec);
        assert_eq!(spec.label(), "models:8000/fraud@3");
        assert_eq!(spec.address().unwrap().base, "http://models:8000");
    }

    #[test]
    fn a_socket_is_an_address() {
        let spec = UpstreamSpec::parse("url = \"unix:///run/m.sock\"\nprotocol = \"mlflow\"\n").unwrap();
        assert_eq!(spec.address().unwrap().socket, Some(PathBuf::from("/run/m.sock")));
        assert_eq!(spec.label(), "unix:/run/m.sock");
    }

    #[test]
    fn what_can_not_be_is_refused_by_its_key() {
        let of = |more: &str| format!("url = \"http://m\"\nprotocol = \"v2-rest\"\nmodel = \"a\"\n{more}");
        for (text, expected) in [
            ("url = \"ftp://m\"\nprotocol = \"mlflow\"\n".to_owned(), "`url`"),
            (
                "url = \"http://u:p@m\"\nprotocol = \"mlflow\"\n".to_owned(),
                "`headers`",
            ),
            ("url = \"http://m\"\nprotocol = \"v2-rest\"\n".to_owned(), "`model`"),
            (of("timeout_ms = 0\n"), "`timeout_ms`"),
            (of("hedge_ms = 5\nidempotent = false\n"), "`idempotent = false`"),
            (of("ca = \"/ca.pem\"\n"), "https://"),
            (of("speed = 5\n"), "speed"),
            (of("[[inputs]]\nname = \"x\"\ndatatype = \"FP31\"\n"), "FP31"),
        ] {
            let error = refusal(&text);
            assert!(error.contains(expected), "{error}");
        }
        assert!(!refusal("url = \"http://u:hunter2@m\"\nprotocol = \"mlflow\"\n").contains("hunter2"));
    }
}
