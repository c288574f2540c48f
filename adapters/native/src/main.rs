//! The `causeway` command.

fn main() -> std::process::ExitCode {
    causeway_native::cli::main()
}
