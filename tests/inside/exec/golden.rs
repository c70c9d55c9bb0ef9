//! The numeric goldens: float64 references of attention, read from `goldens/` of the folder named by `ANNULUS_TEST_DATA`.

use super::case::Case;
use annulus::ir::{AttentionSizes, DType, Data, EmptyRow, Scores, Tensor};
use annulus::layout::LayoutKind;
use annulus::mask::{Fill, Mask, Term};
use annulus::schedule::{AttentionFacts, Leaf};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The files of the attention goldens.
pub(crate) fn files() -> Vec<PathBuf> {
    let folder = crate::inside::support::data::folder("goldens");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    let golden = |p: &PathBuf| {
        let name = p.file_name().unwrap().to_str().unwrap().to_owned();
        name.ends_with(".safetensors") && !name.starts_with("merge")
    };
    files.retain(golden);
    files.sort();
    files
}

struct File {
    header: Value,
    bytes: Vec<u8>,
}

impl File {
    fn tensor(&self, name: &str) -> Option<Tensor> {
        let entry = self.header.get(name)?;
        let number = |v: &Value| usize::try_from(v.as_u64().unwrap()).unwrap();
        let shape: Vec<usize> = entry["shape"].as_array().unwrap().iter().map(number).collect();
        let (from, to) = (number(&entry["data_offsets"][0]), number(&entry["data_offsets"][1]));
        let dtype = match entry["dtype"].as_str().unwrap() {
            "F64" => DType::F64,
            "F32" => DType::F32,
            "F16" => DType::F16,
            "BF16" => DType::BF16,
            "I32" => DType::I32,
            "U8" => DType::Bool,
            other => panic!("{other}"),
        };
        Tensor::new(shape, Data::from_le_bytes(dtype, &self.bytes[from..to]).unwrap())
    }
}

/// A reference, and how it may be computed.
pub(crate) struct Golden {
    /// The name of its file.
    pub(crate) name: String,
    /// Its layout, ranks and seed are the caller's to set.
    pub(crate) case: Case,
    /// The rank counts that it names.
    pub(crate) ranks: Vec<usize>,
    /// Whether it has documents that all batch entries share.
    pub(crate) documents: bool,
    /// Output and log-sum-exp in f64 (or rounded to f32), not rounded to the type of the inputs.
    pub(crate) want: [Vec<f64>; 2],
    /// How far off output and log-sum-exp may be before the cast to the type of the inputs.
    pub(crate) tolerance: [f64; 2],
    /// How far off the output may be after it.
    pub(crate) after_cast: Option<f64>,
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Golden {
    let bytes = std::fs::read(path).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
    let header: Value = serde_json::from_slice(header).unwrap();
    let config: Value = serde_json::from_str(header["__metadata__"]["config"].as_str().unwrap()).unwrap();
    let file = File { header, bytes: data.to_vec() };
    let size = |name: &str| usize::try_from(config[name].as_u64().unwrap()).unwrap();
    let sizes = AttentionSizes {
        batch: size("batch"),
        q_heads: size("q_heads"),
        kv_heads: size("kv_heads"),
        q_len: size("q_len"),
        kv_len: size("kv_len"),
        head_dim: size("head_dim"),
        v_head_dim: size("v_head_dim"),
    };
    let mut args: Vec<Tensor> = ["q", "k", "v"].iter().map(|n| file.tensor(n).unwrap()).collect();
    let offset = config["query_offset"].as_i64().unwrap();
    let mut terms = Vec::new();
    if config["causal"].as_bool().unwrap() {
        terms.push(Term::Causal { offset });
    }
    if let Some(window) = config["window"].as_array() {
        let bound = |v: &Value| u64::try_from(v.as_i64().unwrap()).ok();
        terms.push(Term::Window { left: bound(&window[0]), right: bound(&window[1]), offset });
    }
    let mut leaves = Vec::new();
    let mut leaf = |args: &mut Vec<Tensor>, x: Tensor| {
        let shape: [usize; 4] = x.shape().try_into().unwrap();
        leaves.push(Leaf { dtype: x.dtype(), shape, by_query_rows: shape[2] == sizes.q_len });
        args.push(x);
        args.len() - 1
    };
    if let Some(allow) = file.tensor("allow") {
        terms.push(Term::Tensor { operand: leaf(&mut args, allow) });
    }
    if let (Some(q), Some(k)) = (file.tensor("doc_q"), file.tensor("doc_k")) {
        let (q, k) = (q.to_f64(), k.to_f64());
        if let Some(starts) = shared(&q, &k, sizes.kv_len) {
            terms.push(Term::Segments { starts: starts.into(), offset: 0 });
        } else {
            let mut same = Vec::new();
            for b in 0..sizes.batch {
                for i in 0..sizes.q_len {
                    let mine = q[b * sizes.q_len + i];
                    let keys = &k[b * sizes.kv_len..][..sizes.kv_len];
                    same.extend(keys.iter().map(|&other| f64::from(u8::from(mine == other))));
                }
            }
            let shape = [sizes.batch, 1, sizes.q_len, sizes.kv_len];
            let same = Tensor::from_f64(DType::Bool, shape, &same).unwrap();
            terms.push(Term::Tensor { operand: leaf(&mut args, same) });
        }
    }
    let bias = file.tensor("bias").map(|b| leaf(&mut args, b));
    let dtype = args[0].dtype();
    let tolerance = |kind: &str, name: &str| config[kind][name].as_f64();
    let documents = terms.iter().any(|t| matches!(t, Term::Segments { .. }));
    let facts = AttentionFacts {
        sizes,
        dtype,
        acc: DType::F32,
        scores: Scores::usual(
            config["scale"].as_f64().unwrap(),
            config["softcap"].as_f64().unwrap_or(0.0),
            bias,
            Mask { terms, fill: Fill::NegInf },
        ),
        sinks: None,
        dropout: None,
        empty_row: EmptyRow::Zero,
        lse: true,
        leaves,
    };
    let ranks = config["ranks"].as_array().unwrap().iter().map(|r| r.as_u64().unwrap() as usize).collect();
    Golden {
        name: path.file_stem().unwrap().to_string_lossy().into_owned(),
        case: Case { facts, args, layout: LayoutKind::Contiguous, ranks: 1, seed: 1 },
        ranks,
        documents,
        want: ["out", "lse"].map(|n| file.tensor(n).unwrap().to_f64()),
        tolerance: ["out", "lse"].map(|n| tolerance("tolerance_f32", n).unwrap()),
        after_cast: tolerance("tolerance_lowp", "out"),
    }
}

/// Where documents begin, if queries and keys of all batch entries have the same.
fn shared(q: &[f64], k: &[f64], rows: usize) -> Option<Vec<usize>> {
    let first = &k[..rows];
    let same = q == k && k.chunks(rows).all(|entry| entry == first) && first.is_sorted();
    same.then(|| (1..rows).filter(|&i| first[i] != first[i - 1]).collect())
}
