//! The command line of annulus: `annulus --help` teaches it, `annulus COMMAND --help` each command.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
