//! What was measured: the lines of `qkv bench` and of other libraries' benchmarks, from a file or from the run itself.
//!
//! A file is a JSON array of lines, as of `peers.json`, or lines of their own; of these only what begins with `{` is read,
//! so that logs with words between will do. Of a line's keys those that say what was asked for are its [`Case`]: two lines of
//! one case may be compared.
use crate::cli::CliError;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

/// The project's own name in a line.
pub const OURS: &str = "qkv";

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Its work is bytes of the cache, read once.
    Decode,
    /// Bytes read and written.
    Append,
    /// Its work is floating-point operations.
    Prefill,
}

impl Kind {
    /// All, in the order of a report.
    pub const ALL: [Self; 3] = [Self::Decode, Self::Append, Self::Prefill];

    /// Its name in a line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Append => "append",
            Self::Prefill => "prefill",
        }
    }

    /// The unit of its rate.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Decode | Self::Append => "GB/s",
            Self::Prefill => "TFLOP/s",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What was asked for: the same of two lines that may be compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Case {
    /// What is timed.
    pub kind: Kind,
    /// The model's name.
    pub model: String,
    /// Sequences.
    pub b: u64,
    /// Tokens of each; where lengths differ those of the longest.
    pub s: u64,
    /// Cache format.
    pub kv: String,
    /// Format of queries that are not the model's.
    pub q: Option<String>,
    /// Of prefill.
    pub causal: Option<bool>,
    /// Query tokens where they are not decode's one or all of prefill's.
    pub q_len: Option<u64>,
    /// A window's keys before a query token.
    pub window_left: Option<u64>,
    /// Tokens of a common prefix, and whether it was read once for all.
    pub prefix: Option<(u64, bool)>,
    /// Tokens a page.
    pub page: u64,
    /// Whether pages follow one another in memory.
    pub contiguous: bool,
    /// Whether lengths differ.
    pub ragged: bool,
}

impl Case {
    /// What there is besides model and load, as words: cache, mask, variants.
    pub fn details(&self) -> String {
        let mut words = vec![self.kv.clone()];
        words.extend(self.q.as_ref().map(|q| format!("q {q}")));
        words.extend(self.causal.map(|causal| if causal { "causal" } else { "full" }.to_owned()));
        words.extend(self.q_len.map(|q_len| format!("{q_len} query tokens")));
        words.extend(self.window_left.map(|left| format!("window_left {left}")));
        words.extend(self.prefix.map(|(tokens, shared)| match shared {
            true => format!("shared prefix {tokens}"),
            false => format!("prefix {tokens}"),
        }));
        words.extend((self.page != PAGE).then(|| format!("page {}", self.page)));
        words.extend(self.contiguous.then(|| "contiguous".to_owned()));
        words.join(", ")
    }

    /// Sequences and tokens.
    pub fn load(&self) -> String {
        format!("{} \u{d7} {}{}", self.b, if self.ragged { "1\u{2026}" } else { "" }, self.s)
    }

    /// The ceiling that its rate is a part of: an append reads and writes, as a copy does.
    pub fn ceiling(&self) -> &'static str {
        match (self.kind, self.q.as_deref()) {
            (Kind::Decode, _) => "read",
            (Kind::Append, _) => "copy",
            (Kind::Prefill, Some("e4m3")) => "gemm-e4m3",
            (Kind::Prefill, _) => "gemm-bf16",
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.kind.name(), self.model, self.load(), self.details())
    }
}

/// Names that `--ceiling` takes.
pub const CEILINGS: [&str; 4] = ["read", "copy", "gemm-bf16", "gemm-e4m3"];

/// Ceilings by name, of each the first.
pub fn first_of_each<'c>(ceilings: impl IntoIterator<Item = &'c (String, f64)>) -> Vec<(String, f64)> {
    let mut firsts: Vec<(String, f64)> = Vec::new();
    for one in ceilings {
        if firsts.iter().all(|(name, _)| *name != one.0) {
            firsts.push(one.clone());
        }
    }
    firsts
}

/// Tokens a page where a line does not say it: other libraries' and those of 2026-11-23 to 25, all timed with pages of 16.
const PAGE: u64 = 16;

/// A time, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A case that ran.
    Time(Time),
    /// One that did not.
    Error(String),
}

impl Outcome {
    /// The time, if there is one.
    pub const fn time(&self) -> Option<Time> {
        match self {
            Self::Time(time) => Some(*time),
            Self::Error(_) => None,
        }
    }
}

/// What a call took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Time {
    /// Microseconds.
    pub us: f64,
    /// In the kind's unit; `None` where a line says neither rate, work nor shapes.
    pub rate: Option<f64>,
    /// The largest error of sampled rows, relative to the largest |output|; other libraries' lines have none.
    pub err: Option<f64>,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Whose it is.
    pub name: String,
    /// What was asked for.
    pub case: Case,
    /// What came of it.
    pub outcome: Outcome,
}

/// The lines of one run on one machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// The GPU.
    pub machine: Option<String>,
    /// What plain reads, copies and matrix products reach there: name and rate.
    pub ceilings: Vec<(String, f64)>,
    /// Cases.
    pub rows: Vec<Row>,
    /// `[D, KV heads]` of models, of those lines that have them.
    shapes: HashMap<String, [u64; 2]>,
}

/// A line's keys, whatever its kind.
#[derive(Clone, Debug, Deserialize)]
struct Line {
    kind: String,
    #[serde(default)]
    name: String,
    of: Option<String>,
    model: Option<String>,
    d: Option<u64>,
    hkv: Option<u64>,
    b: Option<u64>,
    s: Option<u64>,
    kv: Option<String>,
    q: Option<String>,
    causal: Option<bool>,
    q_len: Option<u64>,
    window_left: Option<u64>,
    prefix: Option<u64>,
    shared: Option<bool>,
    page: Option<u64>,
    contiguous: Option<bool>,
    ragged: Option<bool>,
    us: Option<f64>,
    err: Option<f64>,
    bytes: Option<f64>,
    gbps: Option<f64>,
    tflops: Option<f64>,
    error: Option<String>,
}

impl Line {
    /// What it is of: a case that cannot run has its kind in `of`, or is told by what it has, as other libraries' errors.
    fn case(&self) -> Option<Case> {
        let kind = match Kind::named(self.of.as_deref().unwrap_or(&self.kind)) {
            None if self.kind != "error" => return None,
            None if self.causal.is_some() => Kind::Prefill,
            None => Kind::Decode,
            Some(kind) => kind,
        };
        Some(Case {
            kind,
            model: self.model.clone()?,
            b: self.b?,
            s: self.s?,
            kv: self.kv.clone().unwrap_or_else(|| "bf16".into()),
            q: self.q.clone(),
            causal: self.causal,
            q_len: self.q_len,
            window_left: self.window_left,
            prefix: self.prefix.map(|tokens| (tokens, self.shared.unwrap_or(false))),
            page: self.page.unwrap_or(PAGE),
            contiguous: self.contiguous.unwrap_or(false),
            ragged: self.ragged.unwrap_or(false),
        })
    }

    /// GB/s or TFLOP/s, where the line says it or its bytes.
    fn rate(&self, case: &Case) -> Option<f64> {
        match case.kind {
            Kind::Prefill => self.tflops,
            Kind::Decode | Kind::Append => self.gbps.or_else(|| Some(self.bytes? / self.us? / 1e3)),
        }
    }
}

/// Bits of an element with its block scales.
fn bits(kv: &str) -> Option<f64> {
    match kv {
        "bf16" | "f16" => Some(16.0),
        "e4m3" | "e5m2" => Some(8.0),
        "nvfp4" => Some(4.5),
        _ => None,
    }
}

impl Run {
    /// Reads a file.
    ///
    /// # Errors
    /// One that cannot be read, has a line that is none, or no line at all.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let text = std::fs::read_to_string(path).map_err(|source| CliError::Read { path: path.into(), source })?;
        Self::parse(&text).map_err(|reason| CliError::Run { path: path.into(), reason })
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// As [`Run::read`], in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let values: Vec<Value> = if text.trim_start().starts_with('[') {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            let lines = text.lines().enumerate().filter(|(_, line)| line.starts_with('{'));
            let value =
                |(index, line)| serde_json::from_str(line).map_err(|error| format!("line {}: {error}", index + 1));
            lines.map(value).collect::<Result<_, _>>()?
        };
        let run = Self::of_lines(values)?;
        if run.rows.is_empty() && run.ceilings.is_empty() {
            return Err("no line of a case or ceiling".into());
        }
        Ok(run)
    }

    /// Of lines as they are printed. Those of kinds that nobody here knows are passed over.
    ///
    /// # Errors
    /// A line without its kind, or with another type of value, in words.
    pub fn of_lines(lines: impl IntoIterator<Item = Value>) -> Result<Self, String> {
        let line = |value: Value| {
            let shown = value.to_string();
            serde_json::from_value(value).map_err(|error| format!("{error} in {shown}"))
        };
        let lines: Vec<Line> = lines.into_iter().map(line).collect::<Result<_, _>>()?;
        let shape = |line: &Line| Some((line.model.clone()?, [line.d?, line.hkv?]));
        let mut run = Self { shapes: lines.iter().filter_map(shape).collect(), ..Self::default() };
        for line in lines {
            match (line.kind.as_str(), line.case()) {
                ("machine", _) => run.machine = Some(line.name),
                ("ceiling", _) => run.ceilings.extend(line.gbps.or(line.tflops).map(|rate| (line.name, rate))),
                (_, Some(case)) => {
                    let outcome = match (line.us, &line.error) {
                        (Some(us), None) => Outcome::Time(Time { us, rate: line.rate(&case), err: line.err }),
                        (_, Some(error)) => Outcome::Error(error.clone()),
                        (None, None) => Outcome::Error("a line without a time".into()),
                    };
                    run.rows.push(Row { name: line.name, case, outcome });
                }
                _ => {}
            }
        }
        run.rate_by_shapes(&Self::default());
        Ok(run)
    }

    /// Works out rates of decodes that read all of their caches once, of lines without bytes, as ours had before 2026-11-27: by
    /// the models' shapes of this run's lines, or of those of `other` on the same models.
    pub fn rate_by_shapes(&mut self, other: &Self) {
        for Row { case, outcome, .. } in &mut self.rows {
            let whole =
                case.kind == Kind::Decode && !case.ragged && case.window_left.is_none() && case.prefix.is_none();
            let shape = self.shapes.get(&case.model).or_else(|| other.shapes.get(&case.model));
            if let (true, Outcome::Time(Time { us, rate: rate @ None, .. }), Some([d, hkv])) = (whole, outcome, shape) {
                let elements = (2 * case.b * case.s * hkv * d) as f64;
                *rate = bits(&case.kv).map(|bits| elements * bits / 8.0 / *us / 1e3);
            }
        }
    }

    /// The rate of a ceiling.
    pub fn ceiling(&self, name: &str) -> Option<f64> {
        self.ceilings.iter().find(|(one, _)| one == name).map(|&(_, rate)| rate)
    }

    /// This project's line of a case.
    pub fn ours(&self, case: &Case) -> Option<&Outcome> {
        self.rows.iter().find(|row| row.name == OURS && row.case == *case).map(|row| &row.outcome)
    }
}
