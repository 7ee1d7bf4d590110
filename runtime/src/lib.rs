//! What every service needs and no feature noun: configuration, telemetry, health, shutdown.
