//! From options to cases, and from cases to lines.
use super::cases::{Asked, Case, Cases, Kind, Narrowed};
use super::{BenchError, KindChoice, Measured, Options, ragged};
use crate::cli::CliError;
use crate::cli::report::run::{self, OURS, Run};
use serde_json::{Value, json};

/// The cases that the options ask for: kind by kind, with and without sharing where there is a prefix.
pub fn asked(file: &Cases, options: &Options) -> Result<Vec<Case>, CliError> {
    let Options { models, loads, kv, page, .. } = options;
    let narrowed = Narrowed { models, loads, kv, page: *page };
    let has = |kind| options.kind.contains(&kind);
    // What one kind alone is asked for would be left out of the other in silence.
    let alone = |option, value: &dyn core::fmt::Display, kind: &str| {
        let allowed = format!("with --kind {kind} alone");
        Err(CliError::Argument { option, value: value.to_string(), allowed })
    };
    match (options.shared_prefix, options.chunk) {
        (Some(prefix), _) if has(KindChoice::Prefill) => return alone("shared-prefix", &prefix, "decode"),
        (_, Some(chunk)) if has(KindChoice::Decode) => return alone("chunk", &chunk, "prefill"),
        _ if options.q_len != 1 && has(KindChoice::Prefill) => return alone("q-len", &options.q_len, "decode"),
        _ => {}
    }
    let mut narrowed = narrowed;
    let ragged = options.ragged.map(|batch| [[batch, ragged::LONGEST]]);
    match (&ragged, options.ragged) {
        (_, Some(batch)) if has(KindChoice::Prefill) => return alone("ragged", &batch, "decode"),
        (Some(load), _) => narrowed.loads = load,
        (None, _) => {}
    }
    let mut cases = Vec::new();
    if has(KindChoice::Decode) {
        let prefix = options.shared_prefix.unwrap_or(0);
        let shared: &[bool] = if prefix > 0 { &[false, true] } else { &[false] };
        for case in file.decode_cases(narrowed)? {
            let asked = Asked { q_len: options.q_len, prefix, ragged: ragged.is_some(), ..case.asked };
            cases.extend(shared.iter().map(|&shared| Case { asked: Asked { shared, ..asked }, ..case.clone() }));
        }
    }
    if has(KindChoice::Prefill) {
        cases.extend(file.prefill_cases(narrowed, options.chunk)?);
    }
    for case in &mut cases {
        (case.asked.window, case.asked.contiguous) = (options.window, options.contiguous);
        case.asked.narrow = options.q.is_some();
    }
    if let Some(tokens) = options.append {
        // One case a model and format: loads are decode's.
        cases.iter_mut().for_each(|case| (case.kind, case.batch, case.tokens) = (Kind::Append, 1, tokens));
        let mut seen = std::collections::HashSet::new();
        cases.retain(|case| seen.insert(case.clone()));
    }
    Ok(cases)
}

/// A case's line.
pub fn line(case: &Case, done: &Result<Measured, BenchError>) -> Value {
    let Case { kind, model, batch, tokens, kv, page_size, asked, .. } = case;
    let Asked { q_len, causal, window, prefix, shared, contiguous, narrow, ragged } = *asked;
    let mut line = json!({ "kind": kind.name(), "name": "qkv", "model": model, "b": batch, "s": tokens });
    if *kind == Kind::Prefill {
        line["causal"] = json!(causal);
    }
    line["kv"] = json!(kv);
    if narrow {
        line["q"] = json!("e4m3");
    }
    if q_len != if *kind == Kind::Prefill { *tokens } else { 1 } {
        line["q_len"] = json!(q_len);
    }
    if let Some(left) = window {
        line["window_left"] = json!(left);
    }
    if prefix > 0 {
        (line["prefix"], line["shared"]) = (json!(prefix), json!(shared));
    }
    line["page"] = json!(page_size);
    if contiguous {
        line["contiguous"] = json!(true);
    }
    if ragged {
        line["ragged"] = json!(true);
    }
    match done {
        Ok(Measured { us, err, bytes }) => {
            (line["us"], line["err"]) = (json!(us), json!(err));
            if let Some(bytes) = bytes {
                (line["bytes"], line["gbps"]) = (json!(bytes), json!(*bytes as f64 / us / 1e3));
            }
            if *kind == Kind::Prefill {
                line["tflops"] = json!(case.flops() / us / 1e6);
            }
        }
        Err(error) => {
            (line["kind"], line["of"], line["error"]) = (json!("error"), json!(kind.name()), json!(error.to_string()));
        }
    }
    line
}

/// A ceiling's line.
pub fn ceiling(name: &str, rate: f64) -> Value {
    let unit = if name.starts_with("gemm") { "tflops" } else { "gbps" };
    json!({ "kind": "ceiling", "name": name, unit: rate })
}

/// Leaves of a record the cases that these options may ask for: the command line's choice is no missing case.
pub fn narrow(record: &mut Run, options: &Options) {
    let kind_of = |kind: &KindChoice| match kind {
        KindChoice::Decode => Kind::Decode,
        KindChoice::Prefill => Kind::Prefill,
    };
    record.rows.retain(|run::Row { case, .. }| {
        let is_kind = match options.append {
            Some(tokens) => case.kind == Kind::Append && case.s == tokens as u64,
            None => options.kind.iter().map(kind_of).any(|kind| case.kind == kind),
        };
        let q_len = match case.kind {
            Kind::Prefill => options.chunk.map(|tokens| tokens as u64),
            _ => (options.q_len != 1).then_some(options.q_len as u64),
        };
        let any = |names: &[String], name: &String| names.is_empty() || names.contains(name);
        is_kind
            && any(&options.models, &case.model)
            && any(&options.kv, &case.kv)
            && (options.loads.is_empty() || options.loads.iter().any(|load| load.map(|n| n as u64) == [case.b, case.s]))
            && options.page.is_none_or(|page| case.page == page as u64)
            && options.ragged.map(|batch| batch as u64) == case.ragged.then_some(case.b)
            && options.window.map(u64::from) == case.window_left
            && options.shared_prefix.map(|tokens| tokens as u64) == case.prefix.map(|(tokens, _)| tokens)
            && (options.q.is_some(), options.contiguous, q_len) == (case.q.is_some(), case.contiguous, case.q_len)
    });
}

/// Refuses a record that this run cannot be held against, before anything is timed.
///
/// # Errors
/// No case left of it; a case without a ceiling, of the record or of this run.
pub fn comparable(record: &Run, ceilings: &[(String, f64)]) -> Result<(), CliError> {
    let wrong =
        |option, value: String, allowed: &str| Err(CliError::Argument { option, value, allowed: allowed.to_owned() });
    let cases = || record.rows.iter().filter(|row| row.name == OURS).map(|row| &row.case);
    if cases().next().is_none() {
        return wrong("against", "a record of no case that is asked for".into(), "one that has some of them");
    }
    if let Some(case) = cases().find(|case| record.ceiling(case.ceiling()).is_none()) {
        return wrong(
            "against",
            format!("a record without a ceiling {:?}", case.ceiling()),
            "one of a run that had it",
        );
    }
    match cases().find(|case| ceilings.iter().all(|(name, _)| name != case.ceiling())) {
        Some(case) => wrong(
            "ceiling",
            format!("without {:?}", case.ceiling()),
            "with --against every ceiling of its cases, here or in --peers",
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        options: Options,
    }

    fn parsed(arguments: &str) -> Options {
        let arguments = ["bench", "--cases", "FILE"].into_iter().chain(arguments.split_whitespace());
        Arguments::try_parse_from(arguments).expect("arguments").options
    }

    fn lines(arguments: &str) -> Result<Vec<serde_json::Value>, String> {
        let file = r#"{"models": {"m": {"d": 64, "hq": 8, "hkv": 1}},
            "decode": {"page": 16, "loads": [[1, 1024]], "kv": ["bf16", "e4m3"]},
            "prefill": {"page": 16, "loads": [[2, 4096]], "causal": [true, false]}}"#;
        let cases = asked(&Cases::parse(file.as_bytes()).expect("a file of cases"), &parsed(arguments));
        let bytes = |case: &Case| (case.kind != Kind::Prefill).then_some(2_000_000);
        let done = |case: &Case| Ok(Measured { us: 1000.0, err: 1e-3, bytes: bytes(case) });
        cases.map(|cases| cases.iter().map(|case| line(case, &done(case))).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn decode_is_the_kind_where_none_is_named() {
        let lines = lines("").expect("cases");
        assert_eq!(lines.len(), 2);
        let first = json!({ "kind": "decode", "name": "qkv", "model": "m", "b": 1, "s": 1024, "kv": "bf16", "page": 16,
            "us": 1000.0, "err": 1e-3, "bytes": 2_000_000, "gbps": 2.0 });
        assert_eq!(lines[0], first);
    }

    #[test]
    fn both_kinds_of_one_command() {
        let lines = lines("--kind decode,prefill --kv bf16").expect("cases");
        assert_eq!(lines.len(), 3);
        let last = json!({ "kind": "prefill", "name": "qkv", "model": "m", "b": 2, "s": 4096, "causal": false, "kv": "bf16",
            "page": 16, "us": 1000.0, "err": 1e-3, "tflops": 4.0 * 2.0 * 8.0 * 4096.0 * 4096.0 * 64.0 / 1e9 });
        assert_eq!(lines[2], last);
        assert_eq!(lines[1]["tflops"].as_f64().map(|half| 2.0 * half), last["tflops"].as_f64());
    }

    #[test]
    fn what_is_asked_for_besides_is_in_the_line() {
        let asked = "--kind prefill --loads 1x64 --kv nvfp4 --page 64 --contiguous --chunk 16 --window 7";
        let lines = lines(asked).expect("cases");
        let wanted =
            [("q_len", json!(16)), ("page", json!(64)), ("contiguous", json!(true)), ("window_left", json!(7))];
        for (key, value) in wanted.into_iter().chain([("kv", json!("nvfp4")), ("s", json!(64))]) {
            assert_eq!(lines[0][key], value, "{key}");
        }
        let line = &self::lines("--kind prefill --kv e4m3 --q e4m3").expect("cases")[0];
        assert_eq!((&line["kv"], &line["q"]), (&json!("e4m3"), &json!("e4m3")));
        assert!(Arguments::try_parse_from(["bench", "--cases", "FILE", "--q", "bf16"]).is_err());
    }

    #[test]
    fn what_one_kind_alone_has_is_refused_of_the_other() {
        for (arguments, said) in [
            ("--chunk 16", "--chunk is 16; allowed: with --kind prefill alone"),
            ("--kind prefill,decode --chunk 16", "--chunk is 16; allowed: with --kind prefill alone"),
            ("--kind prefill --q-len 2", "--q-len is 2; allowed: with --kind decode alone"),
            ("--kind prefill --shared-prefix 32", "--shared-prefix is 32; allowed: with --kind decode alone"),
        ] {
            assert_eq!(lines(arguments).expect_err(arguments), said);
        }
        let appended = lines("--append 100").expect("cases");
        assert!(appended.len() == 2 && appended.iter().all(|line| line["kind"] == "append" && line["s"] == 100));
    }
    #[test]
    fn ragged_lengths_are_one_load_of_decode() {
        let lines = lines("--ragged --kv bf16").expect("cases");
        let asked = json!({ "kind": "decode", "name": "qkv", "model": "m", "b": 128, "s": 131_072, "kv": "bf16", "page": 16,
            "ragged": true, "us": 1000.0, "err": 1e-3, "bytes": 2_000_000, "gbps": 2.0 });
        assert_eq!(lines, [asked]);
        assert_eq!(self::lines("--ragged 7").expect("cases")[1]["b"], 7);
        let said = self::lines("--ragged --kind prefill").expect_err("decode alone");
        assert_eq!(said, "--ragged is 128; allowed: with --kind decode alone");
        assert!(Arguments::try_parse_from(["bench", "--cases", "FILE", "--ragged", "--loads", "1x1"]).is_err());
    }

    #[test]
    fn a_case_that_cannot_run_keeps_its_kind() {
        let options = parsed("--append 100 --kv bf16");
        let file =
            r#"{"models": {"m": {"d": 64, "hq": 8, "hkv": 1}}, "decode": {"page": 16, "loads": [[1, 1]], "kv": []}}"#;
        let cases = asked(&Cases::parse(file.as_bytes()).expect("a file of cases"), &options).expect("cases");
        let line = line(&cases[0], &Err(BenchError::OutOfTime { seconds: 3 }));
        assert_eq!((&line["kind"], &line["of"]), (&json!("error"), &json!("append")));
        let run = Run::of_lines([line]).expect("a line");
        assert_eq!(run.rows[0].case.kind, Kind::Append);
        assert_eq!(run.rows[0].outcome, run::Outcome::Error("not begun within --seconds 3".into()));
    }

    /// Every line of a run is a case that its own options ask for, and no other options do.
    #[test]
    fn a_record_is_held_to_what_is_asked_for() {
        let all = [
            "--kv bf16",
            "--kv e4m3",
            "--loads 2x7 --kv bf16",
            "--page 64 --kv bf16",
            "--q-len 4 --kv bf16",
            "--window 7 --kv bf16",
            "--shared-prefix 32 --kv bf16",
            "--contiguous --kv bf16",
            "--ragged --kv bf16",
            "--append 100 --kv bf16",
            "--kind prefill --kv e4m3",
            "--kind prefill --kv e4m3 --q e4m3",
            "--kind prefill --kv e4m3 --chunk 16",
        ];
        for wanted in all {
            for asked in all {
                let mut record = Run::of_lines(lines(asked).expect("cases")).expect("lines");
                let (before, options) = (record.rows.len(), parsed(wanted));
                narrow(&mut record, &options);
                // The file's load of decode, and its pages, are only narrowed where the option says so.
                let wider = wanted == "--kv bf16" && ["--loads 2x7 --kv bf16", "--page 64 --kv bf16"].contains(&asked)
                    || wanted.starts_with("--page") && asked == "--page 64 --kv bf16";
                let kept = if asked == wanted || wider { before } else { 0 };
                assert_eq!(record.rows.len(), kept, "{asked:?} where {wanted:?} is asked for");
            }
        }
        let mut record = Run::of_lines(lines("").expect("cases")).expect("lines");
        narrow(&mut record, &parsed("--models other"));
        assert!(record.rows.is_empty());
    }

    #[test]
    fn a_record_without_what_it_takes_is_refused_before_the_run() {
        let ceilings = [("read".to_owned(), 3000.0)];
        let mut lines = lines("").expect("cases");
        let refused = |lines: &[Value], ceilings: &[(String, f64)]| {
            let record = Run::of_lines(lines.iter().cloned()).expect("lines");
            comparable(&record, ceilings).map_err(|error| error.to_string())
        };
        let said = refused(&lines, &ceilings).expect_err("no ceiling");
        assert_eq!(said, "--against is a record without a ceiling \"read\"; allowed: one of a run that had it");
        lines.push(ceiling("read", 3000.0));
        assert_eq!(refused(&lines, &ceilings), Ok(()));
        let said = refused(&lines, &[]).expect_err("no ceiling");
        assert!(said.starts_with("--ceiling is without \"read\"; allowed: with --against every"), "{said}");
        let said = refused(&lines[2..], &ceilings).expect_err("no case");
        assert!(said.starts_with("--against is a record of no case that is asked for"), "{said}");
        assert_eq!(ceiling("gemm-bf16", 799.0), json!({ "kind": "ceiling", "name": "gemm-bf16", "tflops": 799.0 }));
    }
}
