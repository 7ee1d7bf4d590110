//! Cases that hold on the embedded log and on Kafka alike.

use crate::setup::kafka_config;
use ondol_ingest::source::Stream;
use ondol_ingest::source::kafka::KafkaStream;
use std::path::Path;
use std::sync::Arc;

/// Runs each case, an `async fn(&impl Fn() -> Arc<dyn Stream>)` of the calling module, on both: as `embedded::case` and as
/// `kafka::case`.
macro_rules! on_both_streams {
    (@each $open:path; $($case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let dir = tempfile::tempdir().unwrap();
                let open = $open(dir.path());
                super::$case(&open).await;
            }
        )*
    };
    ($($case:ident,)*) => {
        mod embedded {
            on_both_streams!(@each crate::both_streams::on_disk; $($case,)*);
        }
        mod kafka {
            on_both_streams!(@each crate::both_streams::on_kafka; $($case,)*);
        }
    };
}

pub(crate) fn on_disk(dir: &Path) -> impl Fn() -> Arc<dyn Stream> + Sync + use<> {
    let dir = dir.to_owned();
    move || crate::setup::embedded(&dir)
}

pub(crate) fn on_kafka(_: &Path) -> impl Fn() -> Arc<dyn Stream> + Sync + use<> {
    let config = kafka_config();
    move || Arc::new(KafkaStream::new(&config).unwrap())
}
