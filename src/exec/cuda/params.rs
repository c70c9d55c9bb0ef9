//! The argument of one launch of `attn_partial`.
//!
//! In: the key of a kernel and a step. Out: [`StepParams`], of which a kernel without steps takes the fields that all have. Invariants: the step is one that the kernel does; every range that the
//! argument leads to lies within its buffer; nothing that is written overlaps what another part of the launch reads or writes.

use super::aliasing::Ranges;
use super::bounds::{all, check_rows, end_of, number};
use super::error::{CudaError, refuse, too_large};
use super::gpu::Gpu;
use super::step::{AttentionStep, BufferRange, DeviceTensor, StepInput};
use crate::lower::{
    Band, Element, FAR, KernelKey, KvPiece, MAX_PIECES, MaskedScore, Operand, Params, QPiece, StepKind,
    StepParams, Tiling,
};

/// Keys and values that are worked on side by side stay below this: most of the L2 cache of an H100.
const CACHED_BYTES: usize = 32 << 20;

impl Gpu {
    /// The argument of a launch.
    ///
    /// # Errors
    /// Something does not fit its buffer or the key, lies on another GPU, or overlaps what is written.
    pub(super) fn params(&self, key: &KernelKey, step: &AttentionStep) -> Result<StepParams, CudaError> {
        fits(key, step)?;
        let mut params = numbers(key, step)?;
        let heads = all(&[step.batch, step.q_heads]);
        let heads = heads.filter(|n| *n < FAR as usize).ok_or_else(|| too_large("heads"))?;
        let mut ranges = Ranges::default();
        let whole_rows = self.place_rows(key, step, heads, &mut ranges)?;
        params.counter =
            self.address(&BufferRange { buffer: &self.counter, offset: 0 }, Some(8), "counter")?;
        let (tiles, last_row) =
            self.place_queries(key, step, (heads, whole_rows), &mut params, &mut ranges)?;
        let (kv_len, last_key) = self.place_keys(key, step, &mut params, &mut ranges)?;
        let mut whole = StepParams::default();
        self.place_masks(key, step, (last_row, last_key), &mut params, &mut ranges)?;
        self.place_steps(key, step, (last_row, last_key), &mut whole, &mut ranges)?;
        ranges.disjoint()?;
        // The counter of tiles goes on past the last, once for every block.
        params.tiles = number(tiles).ok().filter(|n| *n < FAR).ok_or_else(|| too_large("tiles"))?;
        let [dk, dv] = step.head_dims;
        let per_kv_head = (kv_len * (dk + dv) * key.element.bytes()).max(1);
        let kv_heads = step.batch * step.kv_heads;
        params.head_group =
            number((CACHED_BYTES / per_kv_head).max(1).min(kv_heads) * (step.q_heads / step.kv_heads))?;
        Ok(StepParams { usual: params, ..whole })
    }

    /// Addresses of q, out and lse, which have all of the rank's rows.
    fn place_rows(
        &self,
        key: &KernelKey,
        step: &AttentionStep,
        heads: usize,
        ranges: &mut Ranges,
    ) -> Result<[u64; 3], CudaError> {
        let ([dk, dv], element) = (step.head_dims, key.element.bytes());
        let q_bytes = all(&[heads, step.q_rows, dk, element]);
        let mut places = [0; 3];
        places[0] = ranges.read("q", self.address(&step.q, q_bytes, "q")?, q_bytes);
        if let Some(out) = &step.out {
            let bytes = all(&[heads, step.q_rows, dv, element]);
            places[1] = ranges.written("out", self.address(out, bytes, "out")?, bytes);
        }
        if let Some(lse) = &step.lse {
            let bytes = all(&[heads, step.q_rows, 4]);
            places[2] = ranges.written("lse", self.address(lse, bytes, "lse")?, bytes);
        }
        Ok(places)
    }

    /// The pieces of queries with their carries. Returns how many tiles there are, and one past the greatest row.
    fn place_queries(
        &self,
        key: &KernelKey,
        step: &AttentionStep,
        (heads, [q, out, lse]): (usize, [u64; 3]),
        params: &mut Params,
        ranges: &mut Ranges,
    ) -> Result<(usize, usize), CudaError> {
        let [dk, dv] = step.head_dims;
        let mut tiles = 0usize;
        let mut last_row = 0usize;
        for (at, piece) in params.q_piece.iter_mut().zip(&step.q_pieces) {
            let len = check_rows(&piece.rows)?;
            if piece.rows.local < 0 || piece.rows.local as usize + len > step.q_rows {
                return refuse("query rows outside of q".into());
            }
            let carry = match &piece.carry {
                None if key.carry_in || !key.cast_out => return refuse("there is no carry".into()),
                None => 0,
                Some(carry) => {
                    let bytes = all(&[heads, len, dv + 2, 4]);
                    ranges.written("a carry", self.address(carry, bytes, "carry")?, bytes)
                }
            };
            // So many bytes behind the first row, if the tensor is there.
            let behind = |at: u64, width: usize| {
                if at == 0 { 0 } else { at + piece.rows.local as u64 * width as u64 }
            };
            let (rows, element) = (number(step.q_rows)?, key.element.bytes());
            *at = QPiece {
                rows: piece.rows,
                carry,
                q: behind(q, dk * element),
                out: behind(out, dv * element),
                lse: behind(lse, 4),
                q_rows: rows,
                q_heads: number(step.q_heads)?,
                out_rows: rows,
                out_heads: number(step.q_heads)?,
            };
            tiles += len.div_ceil(key.rows()) * heads;
            last_row = last_row.max(end_of(&piece.rows));
        }
        Ok((tiles, last_row))
    }

    /// The pieces of keys and values. Returns how many keys there are, and one past the greatest.
    fn place_keys(
        &self,
        key: &KernelKey,
        step: &AttentionStep,
        params: &mut Params,
        ranges: &mut Ranges,
    ) -> Result<(usize, usize), CudaError> {
        let element = key.element.bytes();
        let (mut kv_len, mut last_key) = (0, 0);
        let kv_heads = step.batch * step.kv_heads;
        for (at, piece) in params.kv_piece.iter_mut().zip(&step.kv_pieces) {
            let len = check_rows(&piece.rows)?;
            let [k, v] = step.head_dims.map(|d| all(&[kv_heads, len, d, element]));
            *at = KvPiece {
                rows: piece.rows,
                k: ranges.read("k", self.address(&piece.k, k, "k")?, k),
                v: ranges.read("v", self.address(&piece.v, v, "v")?, v),
                head_rows: piece.rows.len,
                batch_heads: number(step.kv_heads)?,
            };
            kv_len += len;
            last_key = last_key.max(end_of(&piece.rows));
        }
        Ok((kv_len, last_key))
    }

    /// What masks and what is added to the scores; rows and keys are counted up to these.
    fn place_masks(
        &self,
        key: &KernelKey,
        step: &AttentionStep,
        (last_row, last_key): (usize, usize),
        params: &mut Params,
        ranges: &mut Ranges,
    ) -> Result<(), CudaError> {
        if let Some(shift) = &step.shift {
            let bytes = all(&[step.batch, 4]);
            params.shift = ranges.read("shift", self.address(shift, bytes, "shift")?, bytes);
        }
        if let Some(documents) = &step.documents {
            [params.first_key, params.end_key] = self.documents(documents, last_row, ranges)?;
        }
        let size = |o: Operand| if o == Operand::F32 { 4 } else { key.element.bytes() };
        let extents = |tensor: &DeviceTensor, keys: usize| extents(step, tensor, last_row, keys);
        if let Some(bias) = &step.bias {
            params.bias = self.leaf(bias, extents(bias, last_key), size(key.bias), "bias", ranges)?;
        }
        if let Some(mask) = &step.mask {
            params.mask = self.leaf(mask, extents(mask, last_key), 1, "mask", ranges)?;
        }
        if let Some(sinks) = &step.sinks {
            params.sinks = self.leaf(sinks, extents(sinks, 1), size(key.sinks), "sinks", ranges)?;
        }
        Ok(())
    }

    /// What the steps are handed, which [`fits`] has held to the key.
    fn place_steps(
        &self,
        key: &KernelKey,
        step: &AttentionStep,
        (last_row, last_key): (usize, usize),
        params: &mut StepParams,
        ranges: &mut Ranges,
    ) -> Result<(), CudaError> {
        let mut leaves = params.leaf.iter_mut();
        for (i, (kind, input)) in key.steps.iter().zip(&step.steps).enumerate() {
            params.number[i] = input.number;
            params.band[i] = band(input);
            if let Some(documents) = &input.documents {
                let [first_key, end_key] = self.documents(documents, last_row, ranges)?;
                params.band[i] = Band { first_key, end_key, ..params.band[i] };
            }
            let size = match kind {
                StepKind::FactorLeaf(Element::F32) | StepKind::Add(Element::F32) => 4,
                StepKind::FactorLeaf(_) | StepKind::Add(_) => key.element.bytes(),
                StepKind::Fill { .. } | StepKind::Factor | StepKind::Softcap | StepKind::Round(_) => 1,
            };
            for (tensor, place) in input.leaves.iter().zip(&mut leaves) {
                let extents = extents(step, tensor, last_row, last_key);
                *place = self.leaf(tensor, extents, size, "a tensor of the steps", ranges)?;
            }
        }
        Ok(())
    }

    /// The first and one past the last key of the documents of so many rows.
    fn documents(
        &self,
        documents: &[BufferRange; 2],
        rows: usize,
        ranges: &mut Ranges,
    ) -> Result<[u64; 2], CudaError> {
        let bytes = all(&[rows, 4]);
        let mut place = |at| Ok(ranges.read("documents", self.address(at, bytes, "documents")?, bytes));
        Ok([place(&documents[0])?, place(&documents[1])?])
    }
}

/// How far the indices of a tensor reach.
fn extents(step: &AttentionStep, tensor: &DeviceTensor, last_row: usize, keys: usize) -> [usize; 4] {
    let rows = if tensor.local_rows { step.q_rows } else { last_row };
    [step.batch, step.q_heads, rows, keys]
}

/// What positions keep, documents aside.
fn band(input: &StepInput) -> Band {
    let [low, high] = input.window;
    Band {
        low: low.unwrap_or(-FAR).clamp(-FAR, FAR),
        high: high.unwrap_or(FAR).clamp(-FAR, FAR),
        ..Band::default()
    }
}

/// The step is one that the kernel does.
fn fits(key: &KernelKey, step: &AttentionStep) -> Result<(), CudaError> {
    let [dk, dv] = step.head_dims;
    let element = key.element.bytes();
    let whole = |d: usize| (d * element).is_multiple_of(key.copy.into());
    if dk > key.dk.into() || dv > key.dv.into() || !whole(dk) || !whole(dv) {
        return refuse(format!("head sizes {dk} and {dv} are not the kernel's"));
    }
    if step.kv_heads == 0 || !step.q_heads.is_multiple_of(step.kv_heads) {
        return refuse(format!("{} query heads for {} key heads", step.q_heads, step.kv_heads));
    }
    if step.q_pieces.len() > MAX_PIECES || step.kv_pieces.len() > MAX_PIECES {
        return refuse(format!("more than {MAX_PIECES} pieces"));
    }
    let operands = [
        step.sinks.is_some() == (key.sinks != Operand::None),
        step.bias.is_some() == (key.bias != Operand::None),
        step.mask.is_some() == key.mask,
        step.out.is_some() == key.cast_out,
    ];
    if operands.contains(&false) {
        return refuse("bias, mask, sinks and output are not the kernel's".into());
    }
    let masked = step.window != [None, None] || step.documents.is_some();
    if masked && !key.positions {
        return refuse("the kernel does not mask".into());
    }
    if (step.softcap > 0.0) != key.softcap || !step.softcap.is_finite() {
        return refuse(format!("a softcap of {} is not the kernel's", step.softcap));
    }
    // The Hopper kernel takes maxima before it scales.
    let ascending = step.scale > 0.0 || matches!(key.tiling, Tiling::Portable(_));
    if !step.scale.is_finite() || !ascending {
        return refuse(format!("a scale of {} is not the kernel's", step.scale));
    }
    fits_steps(key, step)
}

/// The inputs of the steps are those of the kernel's.
fn fits_steps(key: &KernelKey, step: &AttentionStep) -> Result<(), CudaError> {
    if step.steps.len() != key.steps.len() {
        return refuse(format!("inputs of {} steps for {}", step.steps.len(), key.steps.len()));
    }
    if !key.steps.is_empty() && step.scale != 1.0 {
        return refuse(format!("a scale of {} beside steps", step.scale));
    }
    for (kind, input) in key.steps.iter().zip(&step.steps) {
        if input.leaves.len() != kind.leaves() {
            return refuse(format!("{} tensors for the step {kind}", input.leaves.len()));
        }
        let by_position = matches!(kind, StepKind::Fill { positions: true, .. });
        if !by_position && (input.window != [None, None] || input.documents.is_some()) {
            return refuse(format!("positions for the step {kind}"));
        }
        let able = input.number.is_finite() && (kind != StepKind::Softcap || input.number > 0.0);
        if !able {
            return refuse(format!("a number of {} for the step {kind}", input.number));
        }
    }
    Ok(())
}

/// The numbers of the argument; addresses come after.
fn numbers(key: &KernelKey, step: &AttentionStep) -> Result<Params, CudaError> {
    let [dk, dv] = step.head_dims;
    Ok(Params {
        batch: number(step.batch)?,
        q_heads: number(step.q_heads)?,
        kv_heads: number(step.kv_heads)?,
        group: number(step.q_heads / step.kv_heads.max(1))?,
        head_shift: 0,
        dk: number(dk)?,
        dv: number(dv)?,
        scale: step.scale,
        softcap: step.softcap,
        empty_row: step.empty_row,
        fill: if key.fill == MaskedScore::NegInf { 0.0 } else { step.fill },
        low: step.window[0].unwrap_or(-FAR).clamp(-FAR, FAR),
        high: step.window[1].unwrap_or(FAR).clamp(-FAR, FAR),
        q_pieces: number(step.q_pieces.len())?,
        kv_pieces: number(step.kv_pieces.len())?,
        ..Params::default()
    })
}
