//! `bed`: the command line of the bed.

mod cli;

fn main() -> std::process::ExitCode {
    match cli::run(&<cli::Arguments as clap::Parser>::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bed: {error}");
            std::process::ExitCode::from(if matches!(error, etcd_operator_bed::Error::Interrupted) { 130 } else { 1 })
        }
    }
}
