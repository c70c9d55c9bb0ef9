//! One launch of `attn_partial`: checks what it may touch, describes the tensors to the copy engine, launches.

use super::gpu::{driver, foreign};
use super::ranges::Ranges;
use super::{Buffer, CudaError, Gpu, Kernel};
use crate::lower::{
    FAR, Fill, KernelKey, KvPiece, Leaf, MAX_PIECES, Operand, PANEL, Params, QPiece, Rows, Tiling,
};
use cudarc::driver::{DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg, sys};
use std::mem::MaybeUninit;

/// A place on the device, in bytes from a buffer's begin.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The buffer.
    pub buffer: &'a Buffer,
    /// Where in it.
    pub offset: usize,
}

/// Query rows and where their carry lies.
#[derive(Clone, Copy, Debug)]
pub struct QRows<'a> {
    /// Which rows.
    pub rows: Rows,
    /// f32: o (B, Hq, len, Dv), then m (B, Hq, len), then l (B, Hq, len).
    pub carry: Option<Place<'a>>,
}

/// Key rows and where they lie.
#[derive(Clone, Copy, Debug)]
pub struct KvRows<'a> {
    /// Which rows.
    pub rows: Rows,
    /// (B, Hkv, len, Dk).
    pub k: Place<'a>,
    /// (B, Hkv, len, Dv).
    pub v: Place<'a>,
}

/// A tensor that broadcasts to (B, Hq, query row, key row).
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Its first element.
    pub at: Place<'a>,
    /// Strides in elements, 0 along what is broadcast.
    pub strides: [usize; 4],
    /// Whether its rows are counted as q's are, else globally.
    pub local_rows: bool,
}

/// One step: query rows against key rows.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// B.
    pub batch: usize,
    /// Hq, a multiple of `kv_heads`.
    pub q_heads: usize,
    /// Hkv.
    pub kv_heads: usize,
    /// Rows of q, out and lse.
    pub q_rows: usize,
    /// Head size of q and k, and of v and out.
    pub head_dims: [usize; 2],
    /// (B, Hq, q_rows, Dk).
    pub q: Place<'a>,
    /// (B, Hq, q_rows, Dv), written if the key says cast_out.
    pub out: Option<Place<'a>>,
    /// f32 (B, Hq, q_rows), natural logarithm, if wanted.
    pub lse: Option<Place<'a>>,
    /// At most eight.
    pub q_pieces: Vec<QRows<'a>>,
    /// At most eight; none leaves the carry as it is.
    pub kv_pieces: Vec<KvRows<'a>>,
    /// Factor on q·k.
    pub scale: f32,
    /// cap of cap·tanh(score/cap).
    pub softcap: f32,
    /// What a row without a live key yields.
    pub empty_row: f32,
    /// Row r sees keys r + low ≤ k < r + high.
    pub window: [Option<i32>; 2],
    /// Added to both per batch entry: i32 (B).
    pub shift: Option<Place<'a>>,
    /// Per global query row the first and one past the last key of its document: i32, up to the greatest row.
    pub documents: Option<[Place<'a>; 2]>,
    /// What a masked score becomes, or what is added to it, if the key's fill is finite.
    pub fill: f32,
    /// Added to the scores, in the type that the key says.
    pub bias: Option<Tensor<'a>>,
    /// A byte an element, nonzero for kept; if the key says so.
    pub mask: Option<Tensor<'a>>,
    /// In the type that the key says.
    pub sinks: Option<Tensor<'a>>,
}

/// Keys and values that are worked on side by side stay below this: most of the L2 cache of an H100.
const CACHED_BYTES: usize = 32 << 20;

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct TensorMap([u64; 16]);

#[repr(C)]
struct Maps {
    q: TensorMap,
    k: [TensorMap; MAX_PIECES],
    v: [TensorMap; MAX_PIECES],
}

// SAFETY: laid out as the kernel's arguments are, which the kernel's text asserts.
unsafe impl DeviceRepr for Params {}
// SAFETY: 128-byte maps one after another, as in the kernel.
unsafe impl DeviceRepr for Maps {}

impl Gpu {
    /// Launches the step: the kernel, and behind it the one that does the rows that it leaves, [`KernelKey::redo`]. Without the
    /// latter the caller promises finite values: where a hidden key's value is not, its rows become NaN. Kernels run after all that
    /// was launched before.
    ///
    /// # Errors
    /// Something does not fit its buffer or the key, lies on another GPU, or overlaps what is written; then nothing is launched.
    pub fn attn_partial(&self, kernel: &Kernel, redo: Option<&Kernel>, step: &Step) -> Result<(), CudaError> {
        if [Some(kernel), redo].into_iter().flatten().any(|k| !self.is_of(&k.context)) {
            return Err(foreign("the kernel"));
        }
        let mut params = self.params(&kernel.key, step)?;
        let Some(redo) = redo else { return self.launch(kernel, &params) };
        if kernel.key.redo(redo.arch).as_ref() != Some(&redo.key) {
            return refuse(format!("{} is not the kernel behind {}", redo.key, kernel.key));
        }
        let again = self.params(&redo.key, step)?;
        let sixteens: usize = step.q_pieces.iter().map(|p| (p.rows.len as usize).div_ceil(16)).sum();
        let mut marks = self.marks.borrow_mut();
        let place = self.at_least(&mut marks, sixteens * step.batch * step.q_heads)?;
        params.odd = self.address(&Place { buffer: place, offset: 0 }, Some(place.bytes()), "marks")?;
        self.launch(kernel, &params)?;
        let done = self.launch(redo, &Params { odd: params.odd, ..again });
        if done.is_err() {
            // Nobody clears the marks of the first launch: the next step must not meet them.
            *marks = self.filled(marks.bytes(), 0)?;
        }
        done
    }

    fn launch(&self, kernel: &Kernel, params: &Params) -> Result<(), CudaError> {
        let key = &kernel.key;
        if params.tiles == 0 {
            return Ok(());
        }
        let maps = match key.tiling {
            Tiling::Hopper(_) => Some(maps(key, params)?),
            Tiling::Portable(_) => None,
        };
        let tiles = params.tiles as usize;
        // Hopper's blocks stay and take one tile after another.
        let blocks = if maps.is_some() { self.multiprocessors.min(tiles) } else { tiles };
        let config = LaunchConfig {
            grid_dim: (blocks as u32, 1, 1),
            block_dim: (key.threads() as u32, 1, 1),
            shared_mem_bytes: key.shared_bytes() as u32,
        };
        let mut launch = self.stream.launch_builder(&kernel.function);
        launch.arg(params);
        if let Some(maps) = &maps {
            launch.arg(maps);
        }
        // SAFETY: the arguments are the kernel's, and every range they lead to was checked against its buffer.
        driver("launching attn_partial", unsafe { launch.launch(config) })?;
        Ok(())
    }

    /// The address of so many bytes, which must be there, at a multiple of 16.
    pub(super) fn address(&self, place: &Place, bytes: Option<usize>, what: &str) -> Result<u64, CudaError> {
        if !place.offset.is_multiple_of(16) {
            return refuse(format!("{what} does not begin at a multiple of 16 bytes"));
        }
        self.bytes(place, bytes, what)
    }

    /// The same, wherever it begins.
    pub(super) fn bytes(&self, place: &Place, bytes: Option<usize>, what: &str) -> Result<u64, CudaError> {
        if !self.owns(place.buffer) {
            return Err(foreign(what));
        }
        let end = bytes.and_then(|b| place.offset.checked_add(b));
        if end.is_none_or(|end| end > place.buffer.bytes()) {
            return refuse(format!("{what} reaches outside of its buffer of {} bytes", place.buffer.bytes()));
        }
        let (at, _) = place.buffer.0.device_ptr(&self.stream);
        Ok(at + place.offset as u64)
    }

    fn params(&self, key: &KernelKey, step: &Step) -> Result<Params, CudaError> {
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
        let all = |factors: &[usize]| factors.iter().try_fold(1usize, |n, f| n.checked_mul(*f));
        let heads = all(&[step.batch, step.q_heads]);
        let mut params = Params {
            batch: number(step.batch)?,
            q_heads: number(step.q_heads)?,
            kv_heads: number(step.kv_heads)?,
            q_rows: number(step.q_rows)?,
            dk: number(dk)?,
            dv: number(dv)?,
            scale: step.scale,
            softcap: step.softcap,
            empty_row: step.empty_row,
            fill: if key.fill == Fill::NegInf { 0.0 } else { step.fill },
            low: step.window[0].unwrap_or(-FAR).clamp(-FAR, FAR),
            high: step.window[1].unwrap_or(FAR).clamp(-FAR, FAR),
            q_pieces: number(step.q_pieces.len())?,
            kv_pieces: number(step.kv_pieces.len())?,
            ..Params::default()
        };
        let heads = heads.filter(|n| *n < FAR as usize).ok_or_else(|| too_large("heads"))?;
        let mut ranges = Ranges::default();
        let q_bytes = all(&[heads, step.q_rows, dk, element]);
        params.q = ranges.read("q", self.address(&step.q, q_bytes, "q")?, q_bytes);
        if let Some(out) = &step.out {
            let bytes = all(&[heads, step.q_rows, dv, element]);
            params.out = ranges.written("out", self.address(out, bytes, "out")?, bytes);
        }
        if let Some(lse) = &step.lse {
            let bytes = all(&[heads, step.q_rows, 4]);
            params.lse = ranges.written("lse", self.address(lse, bytes, "lse")?, bytes);
        }
        params.counter = self.address(&Place { buffer: &self.counter, offset: 0 }, Some(8), "counter")?;
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
            *at = QPiece { rows: piece.rows, carry };
            tiles += len.div_ceil(key.rows()) * heads;
            last_row = last_row.max(end_of(&piece.rows));
        }
        let (mut kv_len, mut last_key) = (0, 0);
        let kv_heads = step.batch * step.kv_heads;
        for (at, piece) in params.kv_piece.iter_mut().zip(&step.kv_pieces) {
            let len = check_rows(&piece.rows)?;
            let [k, v] = [dk, dv].map(|d| all(&[kv_heads, len, d, element]));
            *at = KvPiece {
                rows: piece.rows,
                k: ranges.read("k", self.address(&piece.k, k, "k")?, k),
                v: ranges.read("v", self.address(&piece.v, v, "v")?, v),
            };
            kv_len += len;
            last_key = last_key.max(end_of(&piece.rows));
        }
        ranges.disjoint()?;
        // The counter of tiles goes on past the last, once for every block.
        params.tiles = number(tiles).ok().filter(|n| *n < FAR).ok_or_else(|| too_large("tiles"))?;
        let per_kv_head = (kv_len * (dk + dv) * element).max(1);
        params.head_group =
            number((CACHED_BYTES / per_kv_head).max(1).min(kv_heads) * (step.q_heads / step.kv_heads))?;
        if let Some(shift) = &step.shift {
            params.shift = self.address(shift, all(&[step.batch, 4]), "shift")?;
        }
        if let Some([first, end]) = &step.documents {
            params.first_key = self.address(first, all(&[last_row, 4]), "documents")?;
            params.end_key = self.address(end, all(&[last_row, 4]), "documents")?;
        }
        let size = |o: Operand| if o == Operand::F32 { 4 } else { element };
        let extents = |tensor: &Tensor, keys: usize| {
            let rows = if tensor.local_rows { step.q_rows } else { last_row };
            [step.batch, step.q_heads, rows, keys]
        };
        if let Some(bias) = &step.bias {
            params.bias = self.leaf(bias, extents(bias, last_key), size(key.bias), "bias")?;
        }
        if let Some(mask) = &step.mask {
            params.mask = self.leaf(mask, extents(mask, last_key), 1, "mask")?;
        }
        if let Some(sinks) = &step.sinks {
            params.sinks = self.leaf(sinks, extents(sinks, 1), size(key.sinks), "sinks")?;
        }
        Ok(params)
    }

    pub(super) fn leaf(
        &self,
        tensor: &Tensor,
        extents: [usize; 4],
        element: usize,
        what: &str,
    ) -> Result<Leaf, CudaError> {
        let mut elements = Some(1usize);
        for (stride, extent) in tensor.strides.iter().zip(extents) {
            let reach = extent.saturating_sub(1).checked_mul(*stride);
            elements = elements.zip(reach).and_then(|(a, b)| a.checked_add(b));
        }
        let at = self.address(&tensor.at, elements.and_then(|n| n.checked_mul(element)), what)?;
        let [batch, head, row, key] = tensor.strides.map(|s| s as i64);
        Ok(Leaf { at, batch, head, row, key, local_rows: i32::from(tensor.local_rows) })
    }
}

pub(super) fn refuse<T>(why: String) -> Result<T, CudaError> {
    Err(CudaError::Launch(why))
}

pub(super) fn too_large(what: &str) -> CudaError {
    CudaError::Launch(format!("{what}: too many for one launch"))
}

pub(super) fn number(n: usize) -> Result<i32, CudaError> {
    i32::try_from(n).map_err(|_| too_large(&n.to_string()))
}

/// One past the greatest global row.
fn end_of(rows: &Rows) -> usize {
    (i64::from(rows.start) + (i64::from(rows.len) - 1) * i64::from(rows.step) + 1) as usize
}

pub(super) fn check_rows(rows: &Rows) -> Result<usize, CudaError> {
    let last = i64::from(rows.start) + (i64::from(rows.len) - 1) * i64::from(rows.step);
    if rows.len < 1 || rows.step < 1 || rows.start < 0 || last >= i64::from(FAR) {
        return refuse(format!("rows {rows:?}"));
    }
    Ok(rows.len as usize)
}

/// The tensors as the copy engine reads them: boxes of a panel of columns by the rows of a tile.
fn maps(key: &KernelKey, p: &Params) -> Result<Maps, CudaError> {
    let none = TensorMap([0; 16]);
    let mut maps = Maps { q: none, k: [none; MAX_PIECES], v: [none; MAX_PIECES] };
    let heads = p.batch as u64 * p.q_heads as u64;
    let kv_heads = p.batch as u64 * p.kv_heads as u64;
    let keys = key.keys() as u32;
    maps.q = map(p.q, [p.dk as u64, p.q_rows as u64, heads], key.rows() as u32)?;
    for i in 0..p.kv_pieces as usize {
        let piece = &p.kv_piece[i];
        maps.k[i] = map(piece.k, [p.dk as u64, piece.rows.len as u64, kv_heads], keys)?;
        maps.v[i] = map(piece.v, [p.dv as u64, piece.rows.len as u64, kv_heads], keys)?;
    }
    Ok(maps)
}

/// Two-byte elements, extents with the inner one first; what lies outside reads as zero.
fn map(at: u64, extents: [u64; 3], rows: u32) -> Result<TensorMap, CudaError> {
    use sys::{
        CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
        CUtensorMapSwizzle,
    };
    let strides = [extents[0] * 2, extents[0] * extents[1] * 2];
    let boxes = [PANEL as u32, rows, 1];
    let mut map = MaybeUninit::<sys::CUtensorMap>::uninit();
    // SAFETY: three extents, two strides, a box and steps of three; the map is written as a whole.
    let status = unsafe {
        sys::cuTensorMapEncodeTiled(
            map.as_mut_ptr(),
            CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
            3,
            at as *mut _,
            extents.as_ptr(),
            strides.as_ptr(),
            boxes.as_ptr(),
            [1u32; 3].as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    driver("describing a tensor to the copy engine", status.result())?;
    // SAFETY: the call above succeeded.
    Ok(TensorMap(unsafe { map.assume_init() }.opaque))
}
