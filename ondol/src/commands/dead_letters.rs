//! `dead-letters`: what could not be taken of a stream, and why.

use crate::cli::{DeadLettersArgs, Output};
use crate::print;
use anyhow::Result;
use ondol_ingest_api::wire::{DeadLetterEntry, DeadLetterQuery};

/// `ondol dead-letters`.
pub(crate) async fn run(args: &DeadLettersArgs, output: Output) -> Result<()> {
    let letters = args
        .connect
        .ingest()?
        .dead_letters(&args.source, DeadLetterQuery {
            limit: args.limit,
            ..DeadLetterQuery::default()
        })
        .await?
        .letters;
    print::result(output, &letters, |letters: &Vec<DeadLetterEntry>| {
        if letters.is_empty() {
            return format!("`{}` has no dead letters", args.source);
        }
        let rows = letters.iter().map(|letter| {
            let letter = &letter.letter;
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
