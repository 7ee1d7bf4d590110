//! Metrics in the Prometheus text format. Code counts through the `metrics` macros; this module keeps and renders.

use crate::Shutdown;
use axum::Router;
use axum::http::{HeaderValue, header};
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Upper bounds of the buckets of histograms of durations, in seconds: 50 µs to 60 s in steps of about 2.
pub const BUCKETS_S: [f64; 19] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
];

/// Upper bounds of the buckets of histograms whose names end with `_events`, `_bytes` or `_rows`: 1 to 64 Mi in steps of 4.
pub const BUCKETS_COUNT: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// How often recorded values are folded into their buckets. Until then they take memory.
const UPKEEP: Duration = Duration::from_secs(5);

/// Starts recording. The first call of a process decides; later ones change nothing.
///
/// # Errors
/// When another recorder than this module's is installed.
pub fn install() -> Result<(), BuildError> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if RECORDER.get().is_none() {
        let counts = |suffix: &str| Matcher::Suffix(suffix.to_owned());
        let handle = PrometheusBuilder::new()
            .set_buckets(&BUCKETS_S)?
            .set_buckets_for_metric(counts("_events"), &BUCKETS_COUNT)?
            .set_buckets_for_metric(counts("_bytes"), &BUCKETS_COUNT)?
            .set_buckets_for_metric(counts("_rows"), &BUCKETS_COUNT)?
            .install_recorder()?;
        RECORDER.get_or_init(|| handle);
    }
    Ok(())
}

/// Spawns the task that keeps the recorder's memory bounded between scrapes. Once per process.
pub fn maintain(shutdown: &Shutdown) {
    let token = shutdown.token();
    shutdown.spawn("metrics-upkeep", async move {
        while token.run_until_cancelled(tokio::time::sleep(UPKEEP)).await.is_some() {
            if let Some(recorder) = RECORDER.get() {
                recorder.run_upkeep();
            }
        }
    });
}

/// Everything recorded, in the Prometheus text format; empty before [`install`].
pub fn render() -> String {
    RECORDER.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// `/metrics`.
pub fn routes() -> Router {
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Router::new().route(
        "/metrics",
        get(move || async move { ([(header::CONTENT_TYPE, content_type)], render()) }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_rendered() {
        install().unwrap();
        install().unwrap();
        metrics::counter!("ondol_test_total", "kind" => "sentence").increment(3);
        metrics::histogram!("ondol_test_seconds").record(0.000_15);
        metrics::histogram!("ondol_test_events").record(1000.0);
        let text = render();
        assert!(text.contains("ondol_test_events_bucket{le=\"1024\"} 1"), "{text}");
        assert!(text.contains("ondol_test_total{kind=\"sentence\"} 3"), "{text}");
        assert!(text.contains("ondol_test_seconds_bucket{le=\"0.0001\"} 0"), "{text}");
        assert!(text.contains("ondol_test_seconds_bucket{le=\"0.0002\"} 1"), "{text}");
    }
}
