//! `dead-letters`: what could not be taken of a stream, and why.

use crate::cli::{DeadLettersArgs, Output};
use crate::print;
use anyhow::Result;
use ondol_ingest_api::wire::{DeadLetter, DeadLetterQuery};

/// `ondol dead-letters`.
pub(crate) async fn run(args: &DeadLettersArgs, output: Output) -> Result<()> {
    let letters = args
        .connect
        .ingest()?
        .dead_letters(&args.source, DeadLetterQuery { limit: args.limit })
        .await?;
    print::result(output, &letters, |letters: &Vec<DeadLetter>| {
        if letters.is_empty() {
            return format!("`{}` has no dead letters", args.source);
        }
        let rows = letters.iter().map(|letter| {
            [
                letter.position.partition.to_string(),
                letter.position.offset.to_string(),
                letter.reason.clone(),
                letter.detail.clone(),
            ]
        });
        print::table(["partition", "offset", "reason", "detail"], rows)
    })
}
