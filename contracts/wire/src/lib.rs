//! How any contract travels over HTTP. A contract crate says *what* is promised; this one says how a promise looks on
//! the wire: errors as RFC 9457 problems, small values as JSON, batches as Arrow IPC streams.

pub mod body;
pub mod caller;
pub mod path;
pub mod problem;
pub mod responses;

pub use body::{ArrowBody, ArrowStream, JsonBody};
pub use caller::{Caller, Credentials};
pub use path::{Query, Segment};
pub use problem::{ContractError, Problem, answer};
