//! The command line: see [`qkv::cli`].

fn main() -> std::process::ExitCode {
    qkv::cli::main()
}
