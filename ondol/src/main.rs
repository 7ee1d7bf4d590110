//! The command line, and the one-process composition.
fn main() {}
