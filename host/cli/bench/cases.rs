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
    /// Tokens of each.
    pub tokens: usize,
    /// Cache format.
    pub kv: String,
    /// Tokens a page.
    pub page_size: usize,
}

impl core::fmt::Display for DecodeCase {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} {} x {} {}", self.model, self.batch, self.tokens, self.kv)
    }
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

    /// Every model by every load by every cache format, in the file's order; `models` and `kv` narrow them where they
    /// are not empty.
    ///
    /// # Errors
    /// A model that the file does not have, or one without its numbers.
    pub fn decode_cases(&self, models: &[String], kv: &[String]) -> Result<Vec<DecodeCase>, CliError> {
        if let Some(unknown) = models.iter().find(|name| !self.models.contains_key(*name)) {
            let allowed = self.models.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(CliError::Argument { option: "models", value: unknown.clone(), allowed });
        }
        let formats = if kv.is_empty() { &self.decode.kv } else { kv };
        let mut cases = Vec::new();
        for (name, value) in self.models.iter().filter(|(name, _)| models.is_empty() || models.contains(name)) {
            let Ok(Model { d, hq, hkv }) = serde_json::from_value(value.clone()) else {
                let allowed = "numbers d, hq and hkv for each model".into();
                return Err(CliError::Argument { option: "cases", value: format!("{name}: {value}"), allowed });
            };
            for &[batch, tokens] in &self.decode.loads {
                cases.extend(formats.iter().map(|kv| DecodeCase {
                    model: name.clone(),
                    head_dim: d,
                    q_heads: hq,
                    kv_heads: hkv,
                    batch,
                    tokens,
                    kv: kv.clone(),
                    page_size: self.decode.page,
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
        let all = cases.decode_cases(&[], &[]).expect("cases");
        assert_eq!(all.len(), 8);
        assert_eq!(all[0].to_string(), "b 1 x 1024 bf16");
        assert_eq!(all[7].to_string(), "a 64 x 4096 e4m3");
        let some = cases.decode_cases(&["a".into()], &["f16".into()]).expect("cases");
        assert_eq!(some.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a 1 x 1024 f16", "a 64 x 4096 f16"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = Cases::parse(FILE.as_bytes()).expect("a file of cases");
        let error = cases.decode_cases(&["c".into()], &[]).expect_err("no such model").to_string();
        assert_eq!(error, "--models is c; allowed: b, a");
        assert!(Cases::parse(b"{}").is_err());
        let strange = Cases::parse(FILE.replace("\"hkv\": 1", "\"hkv\": -1").as_bytes()).expect("a file of cases");
        assert!(strange.decode_cases(&[], &[]).is_err());
    }
}
