//! One attention as the kernels see it: sizes, rows, masks, and its inputs.

use annulus::lower::{Element, MaskedScore, Operand, Rows};
use half::{bf16, f16};

/// Global rows start, start + step, …
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) start: i32,
    pub(crate) step: i32,
    pub(crate) len: i32,
}

pub(crate) fn run(start: i32, step: i32, len: i32) -> Run {
    Run { start, step, len }
}

impl Run {
    pub(crate) fn rows(self, local: i32) -> Rows {
        Rows { start: self.start, step: self.step, len: self.len, local }
    }

    pub(crate) fn globals(self) -> impl Iterator<Item = i32> {
        (0..self.len).map(move |i| self.start + i * self.step)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// Whether it runs on the portable kernel where there is a faster one.
    pub(crate) portable: bool,
    /// Whether it runs in the cut for long rows of keys.
    pub(crate) long: bool,
    pub(crate) element: Element,
    pub(crate) batch: usize,
    pub(crate) q_heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) dk: usize,
    pub(crate) dv: usize,
    /// Query rows, piece by piece, as they lie in q.
    pub(crate) q: Vec<Run>,
    /// Key rows: a launch each, of pieces. Taken in this order; the first starts from nothing.
    pub(crate) launches: Vec<Vec<Run>>,
    pub(crate) window: [Option<i32>; 2],
    pub(crate) shift: Option<Vec<i32>>,
    /// First rows of documents, from 0.
    pub(crate) documents: Option<Vec<i32>>,
    pub(crate) softcap: f32,
    /// Per query head.
    pub(crate) sinks: Operand,
    /// Per pair of rows and query head, the same for all batch entries.
    pub(crate) bias: Operand,
    /// Per pair of rows and batch entry, the same for all heads; half of the keys are kept.
    pub(crate) mask: bool,
    pub(crate) fill: MaskedScore,
    pub(crate) scale: f32,
    /// What q is multiplied by: scores grow with it.
    pub(crate) gain: f32,
    pub(crate) empty_row: f32,
    /// Whether some values are infinite or NaN.
    pub(crate) odd: bool,
}

/// Numbers that look normal: a sum of uniform ones, from a counter, the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        // splitmix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Box and Muller's method.
    pub(crate) fn normal(&mut self) -> f32 {
        let unit = |x: u64| ((x >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let (a, b) = (unit(self.next()), unit(self.next()));
        ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    }
}

/// To the element type.
pub(crate) fn round(element: Element, x: f32) -> f32 {
    match element {
        Element::F16 => f16::from_f32(x).to_f32(),
        Element::Bf16 => bf16::from_f32(x).to_f32(),
        Element::F32 => x,
    }
}

/// As the device holds them.
pub(crate) fn bytes(element: Element, numbers: &[f32]) -> Vec<u8> {
    match element {
        Element::F16 => numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        Element::Bf16 => numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        Element::F32 => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

pub(crate) fn numbers(element: Element, bytes: &[u8]) -> Vec<f32> {
    let pairs = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match element {
        Element::F16 => pairs.map(|b| f16::from_bits(b).to_f32()).collect(),
        Element::Bf16 => pairs.map(|b| bf16::from_bits(b).to_f32()).collect(),
        Element::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    }
}

/// q (B, Hq, rows, Dk), k and v (B, Hkv, global keys, D) as numbers that the element type holds.
pub(crate) struct Inputs {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) sinks: Vec<f32>,
    /// (Hq, global query rows, global keys).
    pub(crate) bias: Vec<f32>,
    /// (B, global query rows, global keys).
    pub(crate) mask: Vec<u8>,
}

impl Case {
    pub(crate) fn q_rows(&self) -> usize {
        self.q.iter().map(|r| r.len as usize).sum()
    }

    /// One past the greatest global key row.
    pub(crate) fn keys(&self) -> usize {
        self.launches
            .iter()
            .flatten()
            .map(|r| (r.start + (r.len - 1) * r.step + 1) as usize)
            .max()
            .unwrap_or(0)
    }

    pub(crate) fn last_q_row(&self) -> usize {
        self.q.iter().map(|r| (r.start + (r.len - 1) * r.step + 1) as usize).max().unwrap_or(0)
    }

    pub(crate) fn positions(&self) -> bool {
        self.window != [None, None] || self.documents.is_some()
    }

    /// What a masked score becomes, or what is added to it.
    pub(crate) fn fill_value(&self) -> f32 {
        if self.fill == MaskedScore::Add { -20.0 } else { -1e4 }
    }

    pub(crate) fn inputs(&self, seed: u64) -> Inputs {
        let mut random = Random(seed);
        let mut take = |n: usize, gain: f32| -> Vec<f32> {
            (0..n).map(|_| round(self.element, random.normal() * gain)).collect()
        };
        let pairs = self.last_q_row() * self.keys();
        let bias = if self.bias == Operand::None { 0 } else { self.q_heads * pairs };
        let mask = if self.mask { self.batch * pairs } else { 0 };
        let mut inputs = Inputs {
            mask: take(mask, 1.0).iter().map(|x| u8::from(*x > 0.0)).collect(),
            bias: take(bias, 3.0),
            q: take(self.batch * self.q_heads * self.q_rows() * self.dk, self.gain),
            k: take(self.batch * self.kv_heads * self.keys() * self.dk, 1.0),
            v: take(self.batch * self.kv_heads * self.keys() * self.dv, 1.0),
            sinks: take(self.q_heads, 2.0),
        };
        if self.odd {
            let keys = self.keys();
            for (key, value) in
                [(keys / 2, f32::INFINITY), (keys - 20, f32::NAN), (keys * 3 / 4, f32::NEG_INFINITY)]
            {
                inputs.v[key * self.dv + key % 3..(key + 1) * self.dv].fill(value);
            }
        }
        inputs
    }

    /// The keys that a query row sees: first, and one past the last.
    pub(crate) fn visible(&self, batch: usize, row: i32) -> (i64, i64) {
        let shift = self.shift.as_ref().map_or(0, |s| i64::from(s[batch]));
        let at = i64::from(row) + shift;
        let mut low = self.window[0].map_or(0, |l| at + i64::from(l));
        let mut high = self.window[1].map_or(i64::MAX, |h| at + i64::from(h));
        if let Some((first, end)) = self.document(row) {
            low = low.max(first.into());
            high = high.min(end.into());
        }
        (low, high)
    }

    /// The document of a global row: its first and one past its last.
    pub(crate) fn document(&self, row: i32) -> Option<(i32, i32)> {
        let starts = self.documents.as_ref()?;
        let i = starts.partition_point(|s| *s <= row);
        Some((starts[i - 1], starts.get(i).copied().unwrap_or(i32::MAX / 4)))
    }
}
