//! The command line.

fn main() -> std::process::ExitCode {
    sandkeep::api::cli::main()
}
