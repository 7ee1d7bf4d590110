//! Fakes of each contract, a clock, and handles to the real services the tests run against.
