//! The command line. In: arguments. Out: text or one JSON object on standard output, one message on standard error, and an
//! exit status: 0 done and within tolerance, 1 a comparison or check failed or something was refused, 2 usage or
//! unreadable input, 3 annulus itself is at fault.

mod args;
mod check;
mod compile;
mod doctor;
mod eval;
mod fault;
mod find;
mod flight;
mod gpu;
mod launch;
mod model;
mod opt;
mod print;
mod processes;
mod progress;
mod stop;
mod text_file;

use clap::Parser;
use std::process::ExitCode;
use stop::Stop;

/// Parses the arguments, runs the command, prints, and gives the exit status.
pub(crate) fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` are no errors; clap knows where each goes.
            let code = if error.use_stderr() { 2 } else { 0 };
            return if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::from(2) };
        }
    };
    status(fault::caught(|| match cli.command {
        args::Command::Find(a) => find::run(&a),
        args::Command::Eval(a) => eval::run(&a),
        args::Command::Compile(a) => compile::compile(&a),
        args::Command::Run(a) => compile::run(&a),
        args::Command::Check(a) => check::run(&a),
        args::Command::Opt(a) => opt::run(&a),
        args::Command::Doctor(a) => doctor::run(&a),
        args::Command::Launch(a) => launch::run(&a),
    }))
}

/// Prints the message of a command that stopped, and gives the exit status.
fn status(outcome: Result<(), Stop>) -> ExitCode {
    let (why, code) = match outcome {
        Ok(()) => {
            processes::leave(None);
            return ExitCode::SUCCESS;
        }
        Err(Stop::Failed(why)) => (why, 1),
        Err(Stop::Usage(why)) => (why, 2),
        Err(Stop::Fault(why)) => (why, 3),
        Err(Stop::Ended(code)) => (String::new(), code),
    };
    // What other ranks say of themselves says which.
    let rank = if why.starts_with("rank ") { String::new() } else { processes::of_rank() };
    let flight = annulus::exec::flight::kept_in().map_or(String::new(), |folder| {
        format!("; what the ranks did last: annulus check --flight {}", folder.display())
    });
    print::error(&format!("{rank}{why}{flight}"));
    processes::leave(Some(&why));
    ExitCode::from(code)
}
