//! The ingest service: streams in, decoded and validated events out.
