//! `serve` and `dev`: a process that serves until it is told to stop.

use crate::cli::{DevArgs, Output, ServeArgs, ServerArgs, ServiceName};
use crate::compose::Process;
use crate::config::OndolConfig;
use crate::print;
use anyhow::{Context as _, Result};
use ondol_model_gateway_api::wire::AccessMode;
use ondol_runtime::{LogFormat, Shutdown};
use serde_json::json;

/// `ondol serve`.
pub(crate) async fn serve(args: &ServeArgs) -> Result<()> {
    let config = OndolConfig::load(&args.server, |_| {})?;
    ondol_runtime::telemetry::init(config.log_format, &config.log_filter)?;
    let process = Process::start(args.service, config).await?;
    until_stopped(process).await
}

/// `ondol dev`.
pub(crate) async fn dev(args: &DevArgs, output: Output) -> Result<()> {
    let process = start_dev(&args.server).await?;
    let address = process.url();
    let access = process.access();
    print::result(output, &json!({"address": address, "access": access}), |_| {
        welcome(&address, access)
    })?;
    until_stopped(process).await
}

/// Every service in this process; only warnings are logged, so that what to try next stays in sight.
pub(crate) async fn start_dev(args: &ServerArgs) -> Result<Process> {
    let config = OndolConfig::load(args, |defaults| {
        defaults.log_format = LogFormat::Text;
        defaults.log_filter = "warn".to_owned();
    })?;
    ondol_runtime::telemetry::init(config.log_format, &config.log_filter)?;
    Process::start(ServiceName::All, config).await
}

/// Serves until SIGINT or SIGTERM, then drains.
pub(crate) async fn until_stopped(process: Process) -> Result<()> {
    let signals = Shutdown::new();
    signals.on_signals().context("signals can't be caught")?;
    signals.triggered().await;
    process.stop().await;
    Ok(())
}

fn welcome(at: &str, access: Option<AccessMode>) -> String {
    let access = match access {
        Some(AccessMode::Required) => "required: `ondol key bootstrap` makes a first key",
        Some(AccessMode::Off) | None => "off: this address is on this machine only, and anyone on it may do anything",
    };
    format!(
        "ondol dev: every service at {at}  (API: {at}/docs)\n\
         Access is {access}.\n\n\
         Try next, in another terminal:\n  \
         ondol init                                   # write features.toml\n  \
         ondol plan && ondol apply                    # make it the definitions in force\n  \
         ondol push transactions events.jsonl         # events, one JSON object a line\n  \
         ondol training-set fraud --spine labels.csv -o train.parquet\n  \
         ondol model register fraud model.onnx --training-set train.parquet\n  \
         ondol predict fraud card_id=c1 amount=120\n\n\
         Data is kept in the data folder; Ctrl-C stops, a restart goes on where it was."
    )
}
