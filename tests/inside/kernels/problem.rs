//! An attention over chunks: what it computes, and numbers for it.

use annulus::ir::{DType, Scores};
use annulus::lower::{Element, MaskedScore, Operand};
use half::{bf16, f16};

/// Global rows start, start + step, …; `len` of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) start: i32,
    pub(crate) step: i32,
    pub(crate) len: usize,
}

pub(crate) fn rows(start: i32, step: i32, len: usize) -> Rows {
    Rows { start, step, len }
}

impl Rows {
    pub(crate) fn global(self, i: usize) -> i32 {
        self.start + self.step * i as i32
    }
}

/// Keys and values of some rows: (B, Hkv, len, D).
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) rows: Rows,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
}

/// The whole, and the chunks in the order in which they are taken.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) element: Element,
    pub(crate) batch: usize,
    pub(crate) q_heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) dk: usize,
    pub(crate) dv: usize,
    pub(crate) scale: f32,
    pub(crate) softcap: Option<f32>,
    /// Whether the last launch divides and casts; else the carry is what is looked at.
    pub(crate) cast_out: bool,
    /// What a row without a key yields.
    pub(crate) empty_row: f32,
    /// Row r sees keys r + low ≤ k < r + high.
    pub(crate) low: i32,
    pub(crate) high: i32,
    /// Per batch entry, added to both.
    pub(crate) shift: Option<Vec<i32>>,
    /// Where the documents begin, ascending, the first at row 0.
    pub(crate) documents: Option<Vec<i32>>,
    /// Zero for keys that are masked.
    pub(crate) mask: Option<Leaf>,
    /// Added to scores.
    pub(crate) bias: Option<Leaf>,
    pub(crate) sinks: Option<Leaf>,
    /// In which types bias and sinks are handed over.
    pub(crate) bias_in: Operand,
    pub(crate) sinks_in: Operand,
    /// What becomes of masked scores, and by which number.
    pub(crate) fill: (MaskedScore, f32),
    /// Rows of q in front of the first piece and between pieces, which nobody asks for.
    pub(crate) gap: usize,
    pub(crate) pieces: Vec<Rows>,
    pub(crate) q: Vec<f32>,
    /// Keys of one launch each.
    pub(crate) chunks: Vec<Vec<Piece>>,
    pub(crate) blocks: usize,
    pub(crate) head_group: usize,
    pub(crate) random: Random,
    pub(crate) size: f32,
    /// A score program in the place of scale, softcap, bias, masks and positions.
    pub(crate) program: Option<ScoreProgram>,
    /// Whether rows of other pieces and heads of other launches lie between those of q, k and v.
    pub(crate) apart: bool,
    /// Query heads that share a key head, where that is not all of the launch; and those of the first that are not in it.
    pub(crate) sharing: Option<usize>,
    pub(crate) head_shift: usize,
}

/// A score program with what it reads, from operand 3 on; truth is 1 or 0.
#[derive(Clone, Debug)]
pub(crate) struct ScoreProgram {
    pub(crate) scores: Scores,
    pub(crate) leaves: Vec<(Leaf, DType)>,
}

/// A tensor that broadcasts to (batch, head, query row, key row).
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) strides: [usize; 4],
    pub(crate) local_rows: bool,
    pub(crate) numbers: Vec<f32>,
}

impl Leaf {
    /// The number for row i of a piece of q.
    pub(crate) fn at(&self, p: &Problem, [batch, head, piece, i]: [usize; 4], key: i32) -> f32 {
        let row = if self.local_rows { p.local(piece) + i } else { p.pieces[piece].global(i) as usize };
        let place = [batch, head, row, key as usize];
        self.numbers[self.strides.iter().zip(place).map(|(s, x)| s * x).sum::<usize>()]
    }

    pub(crate) fn map(mut self, f: impl Fn(f32) -> f32) -> Leaf {
        self.numbers.iter_mut().for_each(|x| *x = f(*x));
        self
    }
}

pub(crate) const FAR: i32 = 1 << 30;

impl Problem {
    pub(crate) fn new(q_heads: usize, kv_heads: usize, dk: usize, dv: usize) -> Problem {
        Problem {
            element: Element::Bf16,
            batch: 1,
            q_heads,
            kv_heads,
            dk,
            dv,
            scale: 1.0 / (dk as f32).sqrt(),
            softcap: None,
            cast_out: true,
            empty_row: 0.0,
            low: -FAR,
            high: FAR,
            shift: None,
            documents: None,
            mask: None,
            bias: None,
            sinks: None,
            bias_in: Operand::F32,
            sinks_in: Operand::F32,
            fill: (MaskedScore::NegInf, 0.0),
            gap: 0,
            pieces: Vec::new(),
            q: Vec::new(),
            chunks: Vec::new(),
            blocks: 2,
            head_group: 3,
            random: Random(7),
            size: 1.0,
            program: None,
            apart: false,
            sharing: None,
            head_shift: 0,
        }
    }

    /// Query heads that share a key head.
    pub(crate) fn group(&self) -> usize {
        self.sharing.unwrap_or(self.q_heads / self.kv_heads)
    }

    /// The key head that a query head reads.
    pub(crate) fn key_head(&self, head: usize) -> usize {
        (head + self.head_shift) / self.group()
    }

    /// Rows of so many heads with what is not of the launch between them, if they lie apart; where the first begins, rows of a head,
    /// and heads of a batch entry. The copy engine takes all heads of a batch entry.
    pub(crate) fn spread(
        &self,
        bytes: &[u8],
        [heads, rows]: [usize; 2],
        width: usize,
        all_heads: bool,
    ) -> (Vec<u8>, usize, [usize; 2]) {
        if !self.apart {
            return (bytes.to_vec(), 0, [rows, heads]);
        }
        let (before, more) = (2, usize::from(!all_heads));
        let ([head_rows, batch_heads], row) = ([rows + 5, heads + more], width * self.element.bytes());
        // Nothing of it is a number.
        let mut out = vec![0xff; self.batch * batch_heads * head_rows * row];
        let at = |batch: usize, head: usize| ((batch * batch_heads + head + more) * head_rows + before) * row;
        for (i, run) in bytes.chunks(rows * row).enumerate() {
            out[at(i / heads, i % heads)..][..run.len()].copy_from_slice(run);
        }
        (out, at(0, 0), [head_rows, batch_heads])
    }

    /// Rounds to the element type.
    pub(crate) fn round(&self, x: f32) -> f32 {
        match self.element {
            Element::Bf16 => bf16::from_f32(x).to_f32(),
            Element::F16 => f16::from_f32(x).to_f32(),
            Element::F32 => x,
        }
    }

    fn numbers(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count)
            .map(|_| {
                let x = self.random.normal() * size;
                self.round(x)
            })
            .collect()
    }

    /// The query rows that are asked for, with numbers.
    pub(crate) fn queries(&mut self, pieces: &[Rows]) -> &mut Self {
        self.pieces = pieces.to_vec();
        let count = self.batch * self.q_heads * self.q_rows() * self.dk;
        self.q = self.numbers(count, self.size);
        self
    }

    /// One launch more, over these keys.
    pub(crate) fn chunk(&mut self, pieces: &[Rows]) -> &mut Self {
        let chunk = pieces
            .iter()
            .map(|&rows| {
                let count = self.batch * self.kv_heads * rows.len;
                Piece { rows, k: self.numbers(count * self.dk, 1.0), v: self.numbers(count * self.dv, 1.0) }
            })
            .collect();
        self.chunks.push(chunk);
        self
    }

    /// Random numbers for the axes among batch, head, row and key that are asked for. Rows are counted as q's or globally.
    pub(crate) fn leaf(&mut self, has: [bool; 4], local_rows: bool) -> Leaf {
        let end = |rows: &Rows| if rows.len > 0 { rows.global(rows.len - 1) as usize + 1 } else { 0 };
        let rows = if local_rows { self.q_rows() } else { self.pieces.iter().map(end).max().unwrap_or(0) };
        let keys = self.chunks.iter().flatten().map(|p| end(&p.rows)).max().unwrap_or(0);
        let sizes = [self.batch, self.q_heads, rows, keys];
        let mut count = 1;
        let mut strides = [0; 4];
        for axis in (0..4).rev().filter(|&a| has[a]) {
            strides[axis] = count;
            count *= sizes[axis];
        }
        Leaf { strides, local_rows, numbers: self.numbers(count, 1.0) }
    }

    /// Whether rows decide what is visible.
    pub(crate) fn positions(&self) -> bool {
        self.low != -FAR || self.high != FAR || self.documents.is_some()
    }

    /// Row r sees keys up to r + offset.
    pub(crate) fn causal(&mut self, offset: i32) -> &mut Self {
        self.high = offset + 1;
        self
    }

    /// Rows of the tensor q.
    pub(crate) fn q_rows(&self) -> usize {
        self.local(self.pieces.len())
    }

    /// Where in q a piece begins.
    pub(crate) fn local(&self, piece: usize) -> usize {
        self.gap + self.pieces[..piece].iter().map(|r| r.len + self.gap).sum::<usize>()
    }

    /// The keys that a row sees by position, as global rows.
    pub(crate) fn sight(&self, batch: usize, row: i32) -> std::ops::Range<i64> {
        let at = i64::from(row) + self.shift.as_ref().map_or(0, |s| i64::from(s[batch]));
        let far = i64::from(FAR);
        let low = if self.low == -FAR { -far } else { at + i64::from(self.low) };
        let high = if self.high == FAR { far } else { at + i64::from(self.high) };
        let (begin, end) = self.document(row);
        low.max(begin.into())..high.min(end.into())
    }

    /// First row and end of the document of a row.
    pub(crate) fn document(&self, row: i32) -> (i32, i32) {
        let Some(starts) = &self.documents else { return (-FAR, FAR) };
        let i = starts.partition_point(|&s| s <= row) - 1;
        (starts[i], starts.get(i + 1).copied().unwrap_or(FAR))
    }
}

/// A stream of numbers (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Nearly normal: a sum of uniforms, variance 1.
    pub(crate) fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.next() as f32 / u64::MAX as f32).sum::<f32>() - 6.0
    }
}
