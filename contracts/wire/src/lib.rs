//! How any contract travels over HTTP. A contract crate says *what* is promised; this one says how a promise looks on
//! the wire: errors as RFC 9457 problems, small values as JSON, batches as Arrow IPC streams.

pub mod body;
pub mod caller;
pub mod problem;

pub use body::{ArrowBody, ArrowStream, JsonBody};
pub use caller::Caller;
pub use problem::{ContractError, Problem};
