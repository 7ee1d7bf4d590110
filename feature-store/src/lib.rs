//! The feature store service: registry, write path, online rows, event log, read path.
