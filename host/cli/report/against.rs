//! `--against FILE`: a run beside a recorded one. What is compared are parts of each run's own ceiling, so that a slower
//! card or lower clocks are not taken for slower kernels.
use super::run::{Case, OURS, Outcome, Run};
use std::collections::HashSet;
use std::fmt;

/// How much smaller than the recorded part of the ceiling is a failure. The same kernels differed by up to 3 % from run to
/// run (records of 2026-11-23 to 27).
pub const ALLOWED: f64 = 0.05;

/// What has become of a case.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// At most [`ALLOWED`] below the record.
    Held,
    /// Further below.
    Slower,
    /// The record has no time of it.
    New,
    /// The record has a time of it, and this run no line.
    Missing,
    /// The record has a time of it, and this run an error.
    Broken(String),
    /// Neither has a time of it; what this run's error is, or the record's.
    StillBroken(String),
    /// Without a ceiling on one side, or a rate.
    NoRatio(String),
}

impl Verdict {
    /// Whether the guard fails.
    pub const fn fails(&self) -> bool {
        matches!(self, Self::Slower | Self::Missing | Self::Broken(_) | Self::NoRatio(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held => write!(f, "ok"),
            Self::Slower => write!(f, "FAIL: slower"),
            Self::New => write!(f, "new: the record has no time of it"),
            Self::Missing => write!(f, "FAIL: missing"),
            Self::Broken(error) => write!(f, "FAIL: {error}"),
            Self::StillBroken(error) => write!(f, "in neither: {error}"),
            Self::NoRatio(reason) => write!(f, "FAIL: {reason}"),
        }
    }
}

/// A case's parts of its ceilings, as recorded and now.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// What was asked for.
    pub case: Case,
    /// The recorded part.
    pub recorded: Option<f64>,
    /// That of this run.
    pub now: Option<f64>,
    /// What it is.
    pub verdict: Verdict,
}

/// Every case of both, in the record's order, then what is new.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// A case each.
    pub cases: Vec<Compared>,
}

impl Comparison {
    /// Compares this project's lines of two runs. A case that occurs more than once in a run is its first line.
    pub fn new(record: &Run, run: &Run) -> Self {
        let mut seen = HashSet::new();
        let ours = record.rows.iter().chain(&run.rows).filter(|row| row.name == OURS);
        let cases = ours.filter(|row| seen.insert(&row.case)).map(|row| compared(record, run, &row.case));
        Self { cases: cases.collect() }
    }

    /// Whether no case fails.
    pub fn holds(&self) -> bool {
        !self.cases.iter().any(|case| case.verdict.fails())
    }
}

fn compared(record: &Run, run: &Run, case: &Case) -> Compared {
    let (then, now) = (record.ours(case), run.ours(case));
    let part = |side: &Run, outcome: Option<&Outcome>| {
        Some(outcome?.time()?.rate? / side.ceiling(case.ceiling()).filter(|&ceiling| ceiling > 0.0)?)
    };
    let (recorded, part_now) = (part(record, then), part(run, now));
    let verdict = match (then, now) {
        (Some(Outcome::Time(_)), None) => Verdict::Missing,
        (Some(Outcome::Time(_)), Some(Outcome::Error(error))) => Verdict::Broken(error.clone()),
        (_, Some(Outcome::Error(error))) | (Some(Outcome::Error(error)), None) => Verdict::StillBroken(error.clone()),
        (None | Some(Outcome::Error(_)), _) => Verdict::New,
        (Some(Outcome::Time(_)), Some(Outcome::Time(_))) => match (recorded, part_now) {
            (Some(recorded), Some(now)) if now >= (1.0 - ALLOWED) * recorded => Verdict::Held,
            (Some(_), Some(_)) => Verdict::Slower,
            (None, _) => Verdict::NoRatio(no_ratio("the record", record, case)),
            (_, None) => Verdict::NoRatio(no_ratio("this run", run, case)),
        },
    };
    Compared { case: case.clone(), recorded, now: part_now, verdict }
}

fn no_ratio(whose: &str, side: &Run, case: &Case) -> String {
    match side.ceiling(case.ceiling()) {
        None => format!("{whose} has no ceiling {:?}", case.ceiling()),
        Some(_) => format!("{whose} has no {} of it", case.kind.unit()),
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.cases.iter().map(|one| one.case.to_string()).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        writeln!(f, "{:width$}  recorded     now   change", "part of the ceiling")?;
        let percent = |part: Option<f64>| part.map_or_else(|| "-".into(), |part| format!("{:.1} %", 100.0 * part));
        for (name, Compared { recorded, now, verdict, .. }) in names.iter().zip(&self.cases) {
            let change = recorded.zip(*now).map(|(recorded, now)| now / recorded - 1.0);
            let change = change.map_or_else(|| "-".into(), |change| format!("{:+.1} %", 100.0 * change));
            let (recorded, now) = (percent(*recorded), percent(*now));
            writeln!(f, "{name:width$}  {recorded:>8}  {now:>6}  {change:>7}  {verdict}")?;
        }
        let failed = self.cases.iter().filter(|one| one.verdict.fails()).count();
        write!(f, "{} cases, {failed} failed; allowed: {} % below the record", self.cases.len(), 100.0 * ALLOWED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A read ceiling and lines of decode: tokens, and GB/s or an error.
    fn run(ceiling: Option<f64>, lines: &[(u64, Result<f64, &str>)]) -> Run {
        let mut text: String = ceiling.map_or_else(String::new, |rate| {
            format!("{{\"kind\": \"ceiling\", \"name\": \"read\", \"gbps\": {rate}}}\n")
        });
        for (s, done) in lines {
            let (kind, done) = match done {
                Ok(gbps) => ("decode", format!("\"us\": 10.0, \"gbps\": {gbps}")),
                Err(error) => ("error", format!("\"of\": \"decode\", \"error\": {error:?}")),
            };
            text +=
                &format!("{{\"kind\": {kind:?}, \"name\": \"qkv\", \"model\": \"m\", \"b\": 1, \"s\": {s}, {done}}}\n");
        }
        Run::parse(&text).expect("lines")
    }

    #[test]
    fn each_run_is_measured_by_its_own_ceiling() {
        // 90, 90 and 50 % of 3000; a card with a tenth less: 90, 85.6 and 47.4 %.
        let record = run(Some(3000.0), &[(1, Ok(2700.0)), (2, Ok(2700.0)), (3, Ok(1500.0))]);
        let now = run(Some(2700.0), &[(1, Ok(2430.0)), (2, Ok(2311.0)), (3, Ok(1283.0))]);
        let compared = Comparison::new(&record, &now);
        assert!(compared.holds(), "{compared}");
        let slower = run(Some(2700.0), &[(1, Ok(2430.0)), (2, Ok(2308.0)), (3, Ok(1283.0))]);
        let compared = Comparison::new(&record, &slower);
        let verdicts: Vec<_> = compared.cases.iter().map(|one| &one.verdict).collect();
        assert_eq!(verdicts, [&Verdict::Held, &Verdict::Slower, &Verdict::Held]);
        let text = compared.to_string();
        assert!(!compared.holds() && text.contains("90.0 %  85.5 %   -5.0 %  FAIL: slower"), "{text}");
        assert!(text.ends_with("3 cases, 1 failed; allowed: 5 % below the record"), "{text}");
    }

    #[test]
    fn what_is_missing_or_broken_fails_where_the_record_had_it() {
        let record =
            run(Some(3000.0), &[(1, Ok(2700.0)), (2, Ok(2700.0)), (3, Err("no kernel")), (4, Err("no kernel"))]);
        let now = run(Some(3000.0), &[(2, Err("an infinity")), (3, Err("still none")), (4, Ok(10.0)), (5, Ok(10.0))]);
        let compared = Comparison::new(&record, &now);
        let verdicts: Vec<_> = compared.cases.iter().map(|one| one.verdict.clone()).collect();
        let (broken, still) = (Verdict::Broken("an infinity".into()), Verdict::StillBroken("still none".into()));
        assert_eq!(verdicts, [Verdict::Missing, broken, still, Verdict::New, Verdict::New]);
        let fails: Vec<_> = verdicts.iter().map(Verdict::fails).collect();
        assert_eq!(fails, [true, true, false, false, false]);
        assert!(
            compared.to_string().contains("decode m 1 \u{d7} 2 bf16    90.0 %       -        -  FAIL: an infinity")
        );
    }

    #[test]
    fn without_a_ceiling_nothing_holds() {
        let lines = [(1, Ok(2700.0))];
        for (record, now, said) in [
            (run(None, &lines), run(Some(3000.0), &lines), "the record has no ceiling \"read\""),
            (run(Some(3000.0), &lines), run(None, &lines), "this run has no ceiling \"read\""),
        ] {
            let compared = Comparison::new(&record, &now);
            assert!(!compared.holds() && compared.to_string().contains(said), "{compared}");
        }
    }
}
