//! The file of cases: models by their head counts, loads, cache formats.
//!
//! JSON: `models` maps a name to `d`, `hq` and `hkv`; `decode` has `page` (tokens), `loads` (`[batch, tokens]` pairs) and
//! `kv` (formats); `prefill` has `page`, `loads` and `causal` (true, false or both). Other keys are ignored, so that one file
//! may drive other programs too.
use super::ragged;
use crate::Mask;
use crate::cli::CliError;
pub use crate::cli::report::run::Kind;
use serde::Deserialize;
use std::path::Path;

/// The part of the file that this program uses.
#[derive(Clone, Debug, Deserialize)]
pub struct Cases {
    models: serde_json::Map<String, serde_json::Value>,
    decode: Option<DecodeSection>,
    prefill: Option<PrefillSection>,
}

#[derive(Clone, Debug, Deserialize)]
struct DecodeSection {
    page: usize,
    /// `[batch, tokens]`.
    loads: Vec<[usize; 2]>,
    kv: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct PrefillSection {
    page: usize,
    /// `[batch, tokens]`.
    loads: Vec<[usize; 2]>,
    causal: Vec<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Model {
    d: usize,
    hq: usize,
    hkv: usize,
}

/// What is taken instead of all that the file has, where it is not empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Narrowed<'a> {
    /// Models of the file.
    pub models: &'a [String],
    /// Loads, `[batch, tokens]`.
    pub loads: &'a [[usize; 2]],
    /// Cache formats.
    pub kv: &'a [String],
    /// Tokens a page.
    pub page: Option<usize>,
}

/// What a case asks for besides its load and its cache's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Query tokens a sequence: the last of its tokens.
    pub q_len: usize,
    /// Whether a query token sees no key behind its own.
    pub causal: bool,
    /// Keys before its own that a query token sees; `None`: all.
    pub window: Option<u32>,
    /// Tokens before those of the load that all sequences have in the same pages.
    pub prefix: usize,
    /// Whether these are read once for all.
    pub shared: bool,
    /// Whether a sequence's pages follow one another, and are not in random order.
    pub contiguous: bool,
    /// Whether queries are e4m3, as the cache then is.
    pub narrow: bool,
    /// Whether lengths differ ([`ragged`]); `tokens` is then the most.
    pub ragged: bool,
}

impl Default for Asked {
    fn default() -> Self {
        let (shared, contiguous, narrow, ragged) = (false, false, false, false);
        Self { q_len: 1, causal: true, window: None, prefix: 0, shared, contiguous, narrow, ragged }
    }
}

/// One cell of the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Case {
    /// What is timed.
    pub kind: Kind,
    /// The model's name.
    pub model: String,
    /// D.
    pub head_dim: usize,
    /// Query heads.
    pub q_heads: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Sequences.
    pub batch: usize,
    /// Tokens of each, those of a shared prefix aside.
    pub tokens: usize,
    /// Cache format.
    pub kv: String,
    /// Tokens a page.
    pub page_size: usize,
    /// What there is besides.
    pub asked: Asked,
}

impl Case {
    /// Pages of a sequence, the prefix's among them.
    pub const fn table_width(&self) -> usize {
        self.asked.prefix.div_ceil(self.page_size) + self.tokens.div_ceil(self.page_size)
    }

    /// Tokens of a sequence, the prefix's among them; of the longest where lengths differ.
    pub const fn length(&self) -> usize {
        self.asked.prefix + self.tokens
    }

    /// Those of each sequence, of a prefix aside.
    pub fn lengths(&self) -> Vec<usize> {
        if self.asked.ragged { ragged::lengths(self.batch) } else { vec![self.tokens; self.batch] }
    }

    /// The keys that its query tokens see.
    pub const fn mask(&self) -> Mask {
        let Asked { causal, window, .. } = self.asked;
        Mask { left: window, right: if causal { Some(0) } else { None } }
    }

    /// Floating-point operations of a call, as everybody counts them: 4 D for each pair of a query row and a key that it
    /// sees, and of a token's own square of keys half where attention is causal.
    pub fn flops(&self) -> f64 {
        let Asked { q_len, causal, window, .. } = self.asked;
        let (keys, queries) = (self.length(), q_len);
        let pairs = match window {
            None => queries as f64 * (keys as f64 - if causal { queries as f64 / 2.0 } else { 0.0 }),
            Some(left) => {
                let seen = |position: usize| {
                    let end = if causal { position + 1 } else { keys };
                    (end - position.saturating_sub(left as usize)) as f64
                };
                (keys.saturating_sub(queries)..keys).map(seen).sum()
            }
        };
        4.0 * (self.batch * self.q_heads * self.head_dim) as f64 * pairs
    }
}

impl core::fmt::Display for Case {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Asked { q_len, causal, window, prefix, shared, contiguous, narrow, ragged } = self.asked;
        let shortest = if ragged { "1 to " } else { "" };
        write!(f, "{} {} x {shortest}{} {}", self.model, self.batch, self.tokens, self.kv)?;
        if self.kind == Kind::Prefill {
            write!(f, ", prefill{}", if causal { ", causal" } else { "" })?;
        }
        if narrow {
            write!(f, ", q e4m3")?;
        }
        if q_len != 1 && q_len != self.tokens {
            write!(f, ", {q_len} query tokens")?;
        }
        if let Some(left) = window {
            write!(f, ", window_left {left}")?;
        }
        if prefix > 0 {
            write!(f, ", {} {prefix}", if shared { "shared prefix" } else { "prefix" })?;
        }
        write!(f, "{}", if contiguous { ", contiguous" } else { "" })
    }
}

/// `BATCHxTOKENS`.
///
/// # Errors
/// Anything else.
pub fn load(text: &str) -> Result<[usize; 2], String> {
    let wrong = || format!("{text:?} is no load; allowed: BATCHxTOKENS, as 64x4096");
    let (batch, tokens) = text.split_once('x').ok_or_else(wrong)?;
    Ok([batch.parse().map_err(|_| wrong())?, tokens.parse().map_err(|_| wrong())?])
}

impl Cases {
    /// Reads a file.
    ///
    /// # Errors
    /// Where it cannot be read or is no file of cases.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let text = std::fs::read(path).map_err(|source| CliError::Read { path: path.into(), source })?;
        Self::parse(&text).map_err(|source| CliError::Cases { path: path.into(), source })
    }

    pub(super) fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// Decode: every model by every load by every cache format, in the file's order.
    ///
    /// # Errors
    /// A file without a section `decode`, a model that the file does not have, or one without its numbers.
    pub fn decode_cases(&self, narrowed: Narrowed<'_>) -> Result<Vec<Case>, CliError> {
        let DecodeSection { page, loads, kv } = section(&self.decode, "decode")?;
        self.cases(Kind::Decode, *page, loads, kv, narrowed)
    }

    /// Prefill: every model by every load, causal and not as the file says, by the cache formats asked for or bf16, in the
    /// file's order. Queries are the last `chunk` tokens of each sequence; `None`: all.
    ///
    /// # Errors
    /// A file without a section `prefill`; as [`Cases::decode_cases`].
    pub fn prefill_cases(&self, narrowed: Narrowed<'_>, chunk: Option<usize>) -> Result<Vec<Case>, CliError> {
        let PrefillSection { page, loads, causal } = section(&self.prefill, "prefill")?;
        let cases = self.cases(Kind::Prefill, *page, loads, &["bf16".to_owned()], narrowed)?;
        let masked = |case: Case| {
            let q_len = chunk.unwrap_or(case.tokens);
            causal.iter().map(move |&causal| Case { asked: Asked { q_len, causal, ..case.asked }, ..case.clone() })
        };
        Ok(cases.into_iter().flat_map(masked).collect())
    }

    /// Every model by every load by every cache format.
    fn cases(
        &self,
        kind: Kind,
        page: usize,
        loads: &[[usize; 2]],
        kv: &[String],
        narrowed: Narrowed<'_>,
    ) -> Result<Vec<Case>, CliError> {
        let models = narrowed.models;
        if let Some(unknown) = models.iter().find(|name| !self.models.contains_key(*name)) {
            let allowed = self.models.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(CliError::Argument { option: "models", value: unknown.clone(), allowed });
        }
        let loads = if narrowed.loads.is_empty() { loads } else { narrowed.loads };
        let formats = if narrowed.kv.is_empty() { kv } else { narrowed.kv };
        let mut cases = Vec::new();
        for (name, value) in self.models.iter().filter(|(name, _)| models.is_empty() || models.contains(name)) {
            let Ok(Model { d, hq, hkv }) = serde_json::from_value(value.clone()) else {
                let allowed = "numbers d, hq and hkv for each model".into();
                return Err(CliError::Argument { option: "cases", value: format!("{name}: {value}"), allowed });
            };
            for &[batch, tokens] in loads {
                cases.extend(formats.iter().map(|kv| Case {
                    kind,
                    model: name.clone(),
                    head_dim: d,
                    q_heads: hq,
                    kv_heads: hkv,
                    batch,
                    tokens,
                    kv: kv.clone(),
                    page_size: narrowed.page.unwrap_or(page),
                    asked: Asked::default(),
                }));
            }
        }
        Ok(cases)
    }
}

/// A section of the file, where it has it.
fn section<'a, T>(section: &'a Option<T>, name: &str) -> Result<&'a T, CliError> {
    section.as_ref().ok_or_else(|| CliError::Argument {
        option: "kind",
        value: name.into(),
        allowed: "kinds that the file of cases has a section of".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"models": {"b": {"d": 64, "hq": 64, "hkv": 8}, "a": {"d": 512, "hq": 16, "hkv": 1}},
        "decode": {"page": 16, "loads": [[1, 1024], [64, 4096]], "kv": ["bf16", "e4m3"]},
        "prefill": {"page": 32, "loads": [[2, 100]], "causal": [true, false]}, "other": 1}"#;

    fn file() -> Cases {
        Cases::parse(FILE.as_bytes()).expect("a file of cases")
    }

    fn names(cases: &[Case]) -> Vec<String> {
        cases.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_combination_in_the_file_s_order() {
        let all = file().decode_cases(Narrowed::default()).expect("cases");
        assert_eq!(all.len(), 8);
        assert_eq!(all[0].to_string(), "b 1 x 1024 bf16");
        assert_eq!(all[7].to_string(), "a 64 x 4096 e4m3");
        let narrowed = Narrowed { models: &["a".into()], kv: &["f16".into()], ..Narrowed::default() };
        let some = file().decode_cases(narrowed).expect("cases");
        assert_eq!(names(&some), ["a 1 x 1024 f16", "a 64 x 4096 f16"]);
        let loads = [load("3x17").expect("a load")];
        let narrowed = Narrowed { models: &["b".into()], loads: &loads, page: Some(8), ..Narrowed::default() };
        let mut case = file().decode_cases(narrowed).expect("cases").remove(0);
        assert_eq!((case.page_size, case.table_width()), (8, 3));
        (case.page_size, case.asked) =
            (16, Asked { q_len: 4, window: Some(127), prefix: 32, shared: true, ..case.asked });
        assert_eq!(case.to_string(), "b 3 x 17 bf16, 4 query tokens, window_left 127, shared prefix 32");
        case.asked.narrow = true;
        assert_eq!(case.to_string(), "b 3 x 17 bf16, q e4m3, 4 query tokens, window_left 127, shared prefix 32");
        assert_eq!((case.table_width(), case.length(), case.mask()), (4, 49, Mask::sliding_window(127)));
    }

    #[test]
    fn prefill_is_of_all_tokens_or_a_chunk_causal_and_not() {
        let all = file().prefill_cases(Narrowed::default(), None).expect("cases");
        let named = ["b 2 x 100 bf16, prefill, causal", "b 2 x 100 bf16, prefill", "a 2 x 100 bf16, prefill, causal"];
        assert_eq!(names(&all)[..3], named);
        assert_eq!(all.len(), 4);
        assert!(all.iter().all(|case| case.asked.q_len == 100 && case.page_size == 32));
        assert_eq!([all[0].mask(), all[1].mask()], [Mask::CAUSAL, Mask::FULL]);
        let narrowed = Narrowed { kv: &["e4m3".into()], ..Narrowed::default() };
        let chunks = file().prefill_cases(narrowed, Some(7)).expect("cases");
        assert_eq!(chunks[0].to_string(), "b 2 x 100 e4m3, prefill, causal, 7 query tokens");
    }

    #[test]
    fn operations_are_counted_as_everybody_does() {
        let all = file().prefill_cases(Narrowed::default(), None).expect("cases");
        let whole = (4 * 2 * 64 * 100 * 100 * 64) as f64;
        assert_eq!([all[0].flops(), all[1].flops()], [whole / 2.0, whole]);
        // Tokens 90 to 99 of 100: ten rows of 90 keys, and half of their own square.
        let of = |causal, window| {
            let asked = Asked { q_len: 10, causal, window, ..Asked::default() };
            Case { asked, ..all[0].clone() }.flops() / f64::from(4 * 2 * 64 * 64)
        };
        assert_eq!([of(true, None), of(false, None)], [950.0, 1000.0]);
        assert_eq!([of(true, Some(7)), of(false, Some(7))], [80.0, 125.0]);
        assert_eq!(of(true, Some(1000)), 955.0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let models = ["c".to_owned()];
        let narrowed = Narrowed { models: &models, ..Narrowed::default() };
        let error = file().decode_cases(narrowed).expect_err("no such model").to_string();
        assert_eq!(error, "--models is c; allowed: b, a");
        let error = load("64").expect_err("no load");
        assert_eq!(error, "\"64\" is no load; allowed: BATCHxTOKENS, as 64x4096");
        assert!(Cases::parse(b"{}").is_err());
        let strange = Cases::parse(FILE.replace("\"hkv\": 1", "\"hkv\": -1").as_bytes()).expect("a file of cases");
        assert!(strange.decode_cases(Narrowed::default()).is_err());
        let decode = Cases::parse(FILE.replace("prefill", "later").as_bytes()).expect("a file of cases");
        let error = decode.prefill_cases(Narrowed::default(), None).expect_err("no section").to_string();
        assert_eq!(error, "--kind is prefill; allowed: kinds that the file of cases has a section of");
    }
}
