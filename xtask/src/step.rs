//! Steps on screen: what is being done, how far it is, how long it took; and programs run as steps.
use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A program that ended badly.
#[derive(Debug)]
pub struct Failed {
    /// The program, as typed.
    pub program: String,
    /// Its exit code; 0 where a signal ended it.
    pub code: u8,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            0 => write!(f, "{} was ended by a signal", self.program),
            code => write!(f, "{} ended with exit code {code}", self.program),
        }
    }
}

impl std::error::Error for Failed {}

/// Something that takes time. Without a terminal its begin and its end are a line each.
pub struct Step {
    what: String,
    bar: ProgressBar,
    begin: Instant,
}

impl Step {
    /// Begins.
    pub fn begin(what: impl Into<String>) -> Self {
        Self::with_bar(what.into(), ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}")
    }

    /// Begins something of a known number of bytes.
    pub fn begin_bytes(what: impl Into<String>, bytes: u64) -> Self {
        let template = "{msg} {wide_bar} {bytes}/{total_bytes} {elapsed}";
        Self::with_bar(what.into(), ProgressBar::new(bytes), template)
    }

    fn with_bar(what: String, bar: ProgressBar, template: &str) -> Self {
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if std::io::stderr().is_terminal() {
            bar.set_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
        } else {
            eprintln!("    {what} ...");
        }
        Self { what, bar, begin: Instant::now() }
    }

    /// So many bytes are there.
    pub fn position(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// Ends, with the time it took.
    pub fn end(self) {
        self.bar.finish_and_clear();
        eprintln!("    {}: {:.1} s", self.what, self.begin.elapsed().as_secs_f64());
    }
}

/// A headed part of a long command; its time is printed when it ends.
pub fn part<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {name}");
    let begin = Instant::now();
    let result = work();
    let seconds = begin.elapsed().as_secs_f64();
    eprintln!("<== {name}: {} in {seconds:.1} s", if result.is_ok() { "ok" } else { "FAILED" });
    result
}

/// Runs `command` with the terminal's streams.
pub fn run(command: &mut Command) -> Result<()> {
    let program = describe(command);
    let status = command.status().with_context(|| format!("cannot run {program}"))?;
    if status.success() {
        return Ok(());
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(0);
    Err(Failed { program, code }.into())
}

/// Runs `command` in silence and gives its standard output; its errors are shown only if it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let program = describe(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let from = said.lines().count().saturating_sub(20);
        let last: Vec<&str> = said.lines().skip(from).collect();
        anyhow::bail!("{program} failed ({}):\n{}", output.status, last.join("\n"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
