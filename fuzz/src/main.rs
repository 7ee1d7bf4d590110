//! `ondol-fuzz list`: the targets. `ondol-fuzz seeds FOLDER`: their first inputs, a folder a target. `ondol-fuzz run TARGET
//! FILE…`: feeds files to a target, to see a finding again.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool at the terminal")]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["list"] => {
            ondol_fuzz::TARGETS.iter().for_each(|(name, _)| println!("{name}"));
            Ok(())
        }
        ["seeds", folder] => seeds(Path::new(folder)),
        ["run", name, files @ ..] => run(name, files),
        _ => Err("usage: ondol-fuzz list | seeds FOLDER | run TARGET FILE…".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn seeds(folder: &Path) -> Result<(), String> {
    for (target, seeds) in ondol_fuzz::seeds::all() {
        let folder = folder.join(target);
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        for (at, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{at}")), seed).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

fn run(name: &str, files: &[&str]) -> Result<(), String> {
    let target =
        ondol_fuzz::target(name).ok_or_else(|| format!("there is no target `{name}`: see `ondol-fuzz list`"))?;
    for file in files {
        target(&std::fs::read(file).map_err(|error| format!("can't read `{file}`: {error}"))?);
    }
    Ok(())
}
