//! The pipelines service: training sets and materialization.
