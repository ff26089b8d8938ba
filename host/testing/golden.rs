//! Golden files: q, k, v as a model hands them to its attention, and the answer that comes with them.
//!
//! A file is a safetensors container; `tests/golden/README.md` has the format. Reading one checks everything that the
//! rest of the program relies on (names, formats, shapes, metadata), so a `Golden` is consistent by construction, and
//! a malformed file is an error that names what is wrong with it, whatever its bytes are.
use super::format;
use crate::DType;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// One recorded attention call. Numbers are held as f32, exact in [`Golden::format`].
#[derive(Clone, Debug)]
pub struct Golden {
    /// The file's name without its extension.
    pub name: String,
    /// Format of q, k and v.
    pub format: DType,
    /// D.
    pub head_dim: usize,
    /// Query heads.
    pub q_heads: usize,
    /// KV heads, a divisor of the query heads.
    pub kv_heads: usize,
    /// Keys.
    pub tokens: usize,
    /// Queries: those of the last tokens.
    pub queries: usize,
    /// Softmax scale.
    pub scale: f32,
    /// `[q_heads, queries, D]`.
    pub q: Vec<f32>,
    /// `[kv_heads, tokens, D]`.
    pub k: Vec<f32>,
    /// `[kv_heads, tokens, D]`.
    pub v: Vec<f32>,
    /// `[queries, q_heads, D]`.
    pub out: Vec<f32>,
    /// What the answer contains besides plain causal attention.
    pub needs: Vec<Need>,
}

/// Something besides plain causal attention.
#[derive(Clone, Debug, PartialEq)]
pub enum Need {
    /// A query sees itself and this many keys before it.
    Window(u64),
    /// Scores pass through `c * tanh(s / c)`.
    SoftCap(f64),
    /// One more logit a head in the denominator, `[q_heads]`.
    Sinks(Vec<f32>),
}

impl core::fmt::Display for Need {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Window(left) => write!(f, "window_left {left}"),
            Self::SoftCap(cap) => write!(f, "softcap {cap}"),
            Self::Sinks(_) => write!(f, "sinks"),
        }
    }
}

/// Why a file is no golden file.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct GoldenError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: Problem,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[source] std::io::Error),
    /// It is no safetensors container, or one cut short.
    #[error("not a whole safetensors file: {0}")]
    Container(#[source] safetensors::SafeTensorError),
    /// A tensor is not there.
    #[error("no tensor `{0}`; q, k, v and out are needed")]
    MissingTensor(&'static str),
    /// A tensor that this reader does not know, which might change what attention means.
    #[error("unknown tensor `{0}`; allowed are q, k, v, out and sinks")]
    UnknownTensor(String),
    /// A tensor's elements are of another format.
    #[error("tensor `{name}` is {got}; allowed: {allowed}")]
    Format {
        /// The tensor.
        name: &'static str,
        /// Its format.
        got: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// A tensor's shape does not fit the others or the metadata.
    #[error("tensor `{name}` has shape {got:?}; expected {expected}")]
    Shape {
        /// The tensor.
        name: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// What it should be.
        expected: String,
    },
    /// An infinity or a NaN.
    #[error("tensor `{name}` has {value} at element {index}; all must be finite")]
    NotFinite {
        /// The tensor.
        name: &'static str,
        /// Where, in the tensor's order.
        index: usize,
        /// What is there.
        value: f32,
    },
    /// A metadata key is not there.
    #[error("no metadata `{0}`")]
    MissingMetadata(&'static str),
    /// A metadata value is not what it should be.
    #[error("metadata `{key}` is `{value}`; expected {expected}")]
    Metadata {
        /// The key.
        key: &'static str,
        /// Its text.
        value: String,
        /// What it should be.
        expected: String,
    },
}

impl Golden {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Where it cannot be read or is no golden file.
    pub fn read(path: &Path) -> Result<Self, GoldenError> {
        let name = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        std::fs::read(path)
            .map_err(Problem::Io)
            .and_then(|bytes| Self::parse(name, &bytes))
            .map_err(|problem| GoldenError { path: path.into(), problem })
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// Where they are no golden file.
    pub fn parse(name: String, bytes: &[u8]) -> Result<Self, Problem> {
        let file = SafeTensors::deserialize(bytes).map_err(Problem::Container)?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(Problem::Container)?;
        let nothing = HashMap::new();
        let metadata = Metadata(header.metadata().as_ref().unwrap_or(&nothing));
        for name in ["q", "k", "v", "out"] {
            tensor(&file, name)?;
        }
        for name in file.names() {
            if !["q", "k", "v", "out", "sinks"].contains(&name) {
                return Err(Problem::UnknownTensor(name.into()));
            }
        }
        let head_dim = metadata.count("head_dim")?;
        let (q_heads, kv_heads) = (metadata.count("q_heads")?, metadata.count("kv_heads")?);
        if q_heads % kv_heads != 0 {
            let expected = format!("a divisor of q_heads, {q_heads}");
            return Err(Problem::Metadata { key: "kv_heads", value: kv_heads.to_string(), expected });
        }
        let tokens = metadata.count("tokens")?;

        let q = tensor(&file, "q")?;
        let format = sixteen_bit("q", &q)?;
        let queries = match *q.shape() {
            [_, n, _] if n > 0 && n <= tokens => n,
            _ => return Err(shape("q", &q, format!("[{q_heads}, 1 to {tokens}, {head_dim}]"))),
        };
        let rows = [q_heads, queries, head_dim];
        let keys = [kv_heads, tokens, head_dim];
        let out = f32s("out", &tensor(&file, "out")?, &[queries, q_heads, head_dim])?;
        let (k, v) = (tensor(&file, "k")?, tensor(&file, "v")?);
        let needs = metadata.needs(&file, q_heads)?;
        Ok(Self {
            name,
            format,
            head_dim,
            q_heads,
            kv_heads,
            tokens,
            queries,
            scale: metadata.scale()?,
            q: halves("q", &q, &rows, format)?,
            k: halves("k", &k, &keys, format)?,
            v: halves("v", &v, &keys, format)?,
            out,
            needs,
        })
    }

    /// Tokens that query `index` sees: those up to its own.
    pub fn length(&self, index: usize) -> usize {
        self.tokens - self.queries + index + 1
    }
}

fn tensor<'a>(file: &SafeTensors<'a>, name: &'static str) -> Result<TensorView<'a>, Problem> {
    file.tensor(name).map_err(|_| Problem::MissingTensor(name))
}

fn shape(name: &'static str, tensor: &TensorView<'_>, expected: String) -> Problem {
    Problem::Shape { name, got: tensor.shape().to_vec(), expected }
}

fn wrong_format(name: &'static str, tensor: &TensorView<'_>, allowed: &'static str) -> Problem {
    Problem::Format { name, got: format!("{:?}", tensor.dtype()), allowed }
}

fn sixteen_bit(name: &'static str, tensor: &TensorView<'_>) -> Result<DType, Problem> {
    match tensor.dtype() {
        Dtype::BF16 => Ok(DType::Bf16),
        Dtype::F16 => Ok(DType::F16),
        _ => Err(wrong_format(name, tensor, "BF16, F16")),
    }
}

fn halves(name: &'static str, tensor: &TensorView<'_>, expected: &[usize], q: DType) -> Result<Vec<f32>, Problem> {
    if sixteen_bit(name, tensor)? != q {
        return Err(wrong_format(name, tensor, "that of q"));
    }
    if tensor.shape() != expected {
        return Err(shape(name, tensor, format!("{expected:?}")));
    }
    finite(name, format::decode_bytes(q, tensor.data()))
}

fn f32s(name: &'static str, tensor: &TensorView<'_>, expected: &[usize]) -> Result<Vec<f32>, Problem> {
    if tensor.dtype() != Dtype::F32 {
        return Err(wrong_format(name, tensor, "F32"));
    }
    if tensor.shape() != expected {
        return Err(shape(name, tensor, format!("{expected:?}")));
    }
    let values = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    finite(name, values.collect())
}

fn finite(name: &'static str, values: Vec<f32>) -> Result<Vec<f32>, Problem> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(Problem::NotFinite { name, index, value: values[index] }),
        None => Ok(values),
    }
}

/// The header's strings, each a JSON value.
struct Metadata<'a>(&'a HashMap<String, String>);

impl Metadata<'_> {
    /// The value of `key` where `read` takes it.
    fn get<T>(
        &self,
        key: &'static str,
        expected: &str,
        read: impl Fn(&serde_json::Value) -> Option<T>,
    ) -> Result<T, Problem> {
        let text = self.0.get(key).ok_or(Problem::MissingMetadata(key))?;
        let value = serde_json::from_str(text).ok();
        value.as_ref().and_then(read).ok_or_else(|| Problem::Metadata {
            key,
            value: text.clone(),
            expected: expected.into(),
        })
    }

    fn count(&self, key: &'static str) -> Result<usize, Problem> {
        // The limit keeps products of three counts within 64 bits.
        self.get(key, "an integer from 1 to 1048576", |value| {
            value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=1 << 20).contains(n))
        })
    }

    fn scale(&self) -> Result<f32, Problem> {
        self.get("scale", "a positive number", |value| {
            value.as_f64().map(|s| s as f32).filter(|s| s.is_finite() && *s > 0.0)
        })
    }

    fn needs(&self, file: &SafeTensors<'_>, q_heads: usize) -> Result<Vec<Need>, Problem> {
        let window = self.get("window", "null or an integer of at least 1", |value| match value {
            serde_json::Value::Null => Some(None),
            // A file's window counts the query itself.
            value => value.as_u64().filter(|w| *w >= 1).map(|w| Some(Need::Window(w - 1))),
        })?;
        let softcap = self.get("softcap", "null or a positive number", |value| match value {
            serde_json::Value::Null => Some(None),
            value => value.as_f64().filter(|c| *c > 0.0).map(|c| Some(Need::SoftCap(c))),
        })?;
        let sinks = match file.tensor("sinks") {
            Ok(sinks) => f32s("sinks", &sinks, &[q_heads]).map(|sinks| Some(Need::Sinks(sinks)))?,
            Err(_) => None,
        };
        Ok([window, softcap, sinks].into_iter().flatten().collect())
    }
}
