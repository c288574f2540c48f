//! The `causeway` command.

fn main() -> std::process::ExitCode {
    // What keeps a server is started with each one: it is to cost nothing that it does not need.
    causeway_native::sandbox::entry().unwrap_or_else(causeway_native::cli::main)
}
