//! The file of cases: models by their head counts, loads, cache formats.
//!
//! JSON: `models` maps a name to `d`, `hq` and `hkv`; `decode` has `page` (tokens), `loads` (`[batch, tokens]` pairs) and
//! `kv` (formats). Other keys are ignored, so that one file may drive other programs too.
use crate::cli::CliError;
use serde::Deserialize;
use std::path::Path;

/// The part of the file that decode uses.
#[derive(Clone, Debug, Deserialize)]
pub struct Cases {
    models: serde_json::Map<String, serde_json::Value>,
    decode: DecodeSection,
}

#[derive(Clone, Debug, Deserialize)]
struct DecodeSection {
    page: usize,
    /// `[batch, tokens]`.
    loads: Vec<[usize; 2]>,
    kv: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Model {
    d: usize,
    hq: usize,
    hkv: usize,
}

/// What a case asks for besides one query token a sequence over all its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Query tokens a sequence: the last of its tokens.
    pub q_len: usize,
    /// Keys before its own that a query token sees; `None`: all.
    pub window: Option<u32>,
    /// Tokens before those of the load that all sequences have in the same pages.
    pub prefix: usize,
    /// Whether these are read once for all.
    pub shared: bool,
}

impl Default for Asked {
    fn default() -> Self {
        Self { q_len: 1, window: None, prefix: 0, shared: false }
    }
}

/// One cell of the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DecodeCase {
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

impl DecodeCase {
    /// Pages of a sequence, the prefix's among them.
    pub const fn table_width(&self) -> usize {
        self.asked.prefix.div_ceil(self.page_size) + self.tokens.div_ceil(self.page_size)
    }

    /// Tokens of a sequence, the prefix's among them.
    pub const fn length(&self) -> usize {
        self.asked.prefix + self.tokens
    }
}

impl core::fmt::Display for DecodeCase {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Asked { q_len, window, prefix, shared } = self.asked;
        write!(f, "{} {} x {} {}", self.model, self.batch, self.tokens, self.kv)?;
        if q_len > 1 {
            write!(f, ", {q_len} query tokens")?;
        }
        if let Some(left) = window {
            write!(f, ", window_left {left}")?;
        }
        if prefix > 0 {
            write!(f, ", {} {prefix}", if shared { "shared prefix" } else { "prefix" })?;
        }
        Ok(())
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

    fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// Every model by every load by every cache format, in the file's order; `models` narrows them, `loads` and `kv` are taken
    /// instead of the file's, where they are not empty.
    ///
    /// # Errors
    /// A model that the file does not have, or one without its numbers.
    pub fn decode_cases(
        &self,
        models: &[String],
        loads: &[[usize; 2]],
        kv: &[String],
    ) -> Result<Vec<DecodeCase>, CliError> {
        if let Some(unknown) = models.iter().find(|name| !self.models.contains_key(*name)) {
            let allowed = self.models.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(CliError::Argument { option: "models", value: unknown.clone(), allowed });
        }
        let loads = if loads.is_empty() { &self.decode.loads } else { loads };
        let formats = if kv.is_empty() { &self.decode.kv } else { kv };
        let mut cases = Vec::new();
        for (name, value) in self.models.iter().filter(|(name, _)| models.is_empty() || models.contains(name)) {
            let Ok(Model { d, hq, hkv }) = serde_json::from_value(value.clone()) else {
                let allowed = "numbers d, hq and hkv for each model".into();
                return Err(CliError::Argument { option: "cases", value: format!("{name}: {value}"), allowed });
            };
            for &[batch, tokens] in loads {
                cases.extend(formats.iter().map(|kv| DecodeCase {
                    model: name.clone(),
                    head_dim: d,
                    q_heads: hq,
                    kv_heads: hkv,
                    batch,
                    tokens,
                    kv: kv.clone(),
                    page_size: self.decode.page,
                    asked: Asked::default(),
                }));
            }
        }
        Ok(cases)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"models": {"b": {"d": 64, "hq": 64, "hkv": 8}, "a": {"d": 512, "hq": 16, "hkv": 1}},
        "decode": {"page": 16, "loads": [[1, 1024], [64, 4096]], "kv": ["bf16", "e4m3"]},
        "prefill": {"page": 16}}"#;

    #[test]
    fn every_combination_in_the_file_s_order() {
        let cases = Cases::parse(FILE.as_bytes()).expect("a file of cases");
        let all = cases.decode_cases(&[], &[], &[]).expect("cases");
        assert_eq!(all.len(), 8);
        assert_eq!(all[0].to_string(), "b 1 x 1024 bf16");
        assert_eq!(all[7].to_string(), "a 64 x 4096 e4m3");
        let some = cases.decode_cases(&["a".into()], &[], &["f16".into()]).expect("cases");
        assert_eq!(some.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a 1 x 1024 f16", "a 64 x 4096 f16"]);
        let load = load("3x17").expect("a load");
        let mut case = cases.decode_cases(&["b".into()], &[load], &["bf16".into()]).expect("cases").remove(0);
        case.asked = Asked { q_len: 4, window: Some(127), prefix: 32, shared: true };
        assert_eq!(case.to_string(), "b 3 x 17 bf16, 4 query tokens, window_left 127, shared prefix 32");
        assert_eq!((case.table_width(), case.length()), (4, 49));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = Cases::parse(FILE.as_bytes()).expect("a file of cases");
        let error = cases.decode_cases(&["c".into()], &[], &[]).expect_err("no such model").to_string();
        assert_eq!(error, "--models is c; allowed: b, a");
        let error = load("64").expect_err("no load");
        assert_eq!(error, "\"64\" is no load; allowed: BATCHxTOKENS, as 64x4096");
        assert!(Cases::parse(b"{}").is_err());
        let strange = Cases::parse(FILE.replace("\"hkv\": 1", "\"hkv\": -1").as_bytes()).expect("a file of cases");
        assert!(strange.decode_cases(&[], &[], &[]).is_err());
    }
}
