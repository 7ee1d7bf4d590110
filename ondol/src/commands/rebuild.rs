//! `rebuild`: online rows built anew from the log, watched until they serve.

use crate::cli::{Output, RebuildArgs};
use crate::print;
use anyhow::Result;
use ondol_feature_store_api::FeatureStore;
use ondol_feature_store_api::wire::{Rebuild, RebuildRequest, RebuildState};
use std::time::Duration;

/// How often there is a look at how it goes.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// `ondol rebuild`.
pub(crate) async fn run(args: &RebuildArgs, output: Output) -> Result<()> {
    let store = args.connect.feature_store()?;
    let rebuilds = if args.status {
        store.rebuilds().await?
    } else {
        let request = RebuildRequest {
            names: args.names.clone(),
        };
        let begun = store.rebuild(request).await?;
        if args.no_wait {
            begun
        } else {
            wait(store.as_ref(), begun).await?
        }
    };
    print::result(output, &rebuilds, |rebuilds: &Vec<Rebuild>| table(rebuilds))
}

/// Watches `begun` until none of them is under way any more.
async fn wait(store: &dyn FeatureStore, begun: Vec<Rebuild>) -> Result<Vec<Rebuild>> {
    let mut rebuilds = begun;
    let bar = print::progress(None, "events");
    loop {
        let running: Vec<&Rebuild> = rebuilds
            .iter()
            .filter(|rebuild| rebuild.state == RebuildState::Running)
            .collect();
        if running.is_empty() {
            bar.finish_and_clear();
            return Ok(rebuilds);
        }
        let names: Vec<&str> = running.iter().map(|rebuild| rebuild.view.as_str()).collect();
        let troubled = running.iter().find_map(|rebuild| rebuild.error.as_deref());
        bar.set_message(match troubled {
            Some(error) => format!("{}: {error}", names.join(", ")),
            None => names.join(", "),
        });
        let total: Option<u64> = rebuilds.iter().map(|rebuild| rebuild.rows_total).sum();
        bar.set_style(print::bar_style(total.is_some(), "events"));
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(rebuilds.iter().map(|rebuild| rebuild.rows_done).sum());
        tokio::time::sleep(LOOK_EVERY).await;
        let known = store.rebuilds().await?;
        let asked = |rebuild: &Rebuild| rebuilds.iter().any(|begun| begun.view == rebuild.view);
        // A view that a new version replaced meanwhile is no longer among them, and has no rebuild any more.
        rebuilds = known.into_iter().filter(asked).collect();
    }
}

fn table(rebuilds: &[Rebuild]) -> String {
    if rebuilds.is_empty() {
        return "no view is being built anew, and none needs it".to_owned();
    }
    let rows = rebuilds.iter().map(|rebuild| {
        let events = match rebuild.rows_total {
            Some(total) => format!("{} of {total}", rebuild.rows_done),
            None => rebuild.rows_done.to_string(),
        };
        [
            format!("{}@{}", rebuild.view, rebuild.version),
            rebuild.source.clone(),
            state(rebuild.state).to_owned(),
            events,
            rebuild.finished_at.map(|time| time.to_string()).unwrap_or_default(),
            rebuild.error.clone().unwrap_or_default(),
        ]
    });
    print::table(["view", "source", "state", "events", "finished", "held up by"], rows)
}

const fn state(state: RebuildState) -> &'static str {
    match state {
        RebuildState::Advised => "rows were lost: run `ondol rebuild`",
        RebuildState::Running => "running",
        RebuildState::Done => "done",
    }
}
