//! Launches of the kernels around `attn_partial`: merges, packing, casts, the end of a carry.

use super::aliasing::Ranges;
use super::bounds::{all, check_rows, number};
use super::error::{CudaError, driver, foreign, refuse, too_large};
use super::gpu::Gpu;
use super::nvrtc::Code;
use super::step::{BufferRange, DeviceTensor, QRows};
use crate::lower::{Element, FAR, Finish, Helper, MAX_COPIES, Merge, Operand, Pack, PackCopy, QPiece};
use cudarc::driver::{CudaContext, CudaFunction, DeviceRepr, LaunchConfig, PushKernelArg};
use std::sync::Arc;

/// One of the kernels around `attn_partial`, loaded.
#[derive(Debug)]
pub struct HelperKernel {
    context: Arc<CudaContext>,
    pub(super) helper: Helper,
    /// In the order of [`Helper::entries`].
    pub(super) functions: Vec<CudaFunction>,
}

/// For every head a run of bytes from one place to another.
#[derive(Clone, Copy, Debug)]
pub struct Runs<'a> {
    /// Where the first head's begins.
    pub from: BufferRange<'a>,
    /// Where it goes.
    pub to: BufferRange<'a>,
    /// Bytes from one head's to the next.
    pub from_head: usize,
    /// The same where they go.
    pub to_head: usize,
    /// Of one head.
    pub bytes: usize,
}

/// The end of a carry that no kernel with `cast_out` ended.
#[derive(Clone, Copy, Debug)]
pub struct FinishStep<'a> {
    /// B.
    pub batch: usize,
    /// Hq.
    pub q_heads: usize,
    /// Rows of out and lse.
    pub q_rows: usize,
    /// Head size of v.
    pub dv: usize,
    /// Which rows, with their carry.
    pub rows: QRows<'a>,
    /// (B, Hq, q_rows, Dv).
    pub out: BufferRange<'a>,
    /// f32 (B, Hq, q_rows), natural logarithm, if wanted.
    pub lse: Option<BufferRange<'a>>,
    /// In the type that the kernel says.
    pub sinks: Option<DeviceTensor<'a>>,
    /// What a row without a live key yields.
    pub empty_row: f32,
}

// SAFETY: laid out as the kernel's argument is, which its text asserts.
unsafe impl DeviceRepr for Merge {}
// SAFETY: as above.
unsafe impl DeviceRepr for Pack {}
// SAFETY: as above.
unsafe impl DeviceRepr for Finish {}

const THREADS: u32 = crate::lower::THREADS as u32;

/// Whether two ranges of bytes share some.
pub(super) fn overlap(a: &BufferRange, b: &BufferRange, [a_bytes, b_bytes]: [usize; 2]) -> bool {
    std::ptr::eq(a.buffer, b.buffer) && a.offset < b.offset + b_bytes && b.offset < a.offset + a_bytes
}

/// Whether some bytes may be where both runs go.
fn same_target(a: &Runs, b: &Runs, heads: usize) -> bool {
    let reach = |run: &Runs| run.to_head * heads.saturating_sub(1) + run.bytes;
    if a.bytes == 0 || b.bytes == 0 || !overlap(&a.to, &b.to, [reach(a), reach(b)]) {
        return false;
    }
    if a.to_head != b.to_head || a.to_head == 0 {
        return true;
    }
    // Heads lie equally far apart: by how much b's runs lie behind a's.
    let behind = (b.to.offset as i128 - a.to.offset as i128).rem_euclid(a.to_head as i128) as usize;
    behind < a.bytes || a.to_head - behind < b.bytes
}

impl Gpu {
    /// Loads kernels.
    ///
    /// # Errors
    /// The code is for another architecture.
    pub fn load_helper(&self, code: &Code<Helper>) -> Result<HelperKernel, CudaError> {
        let module = self.module(code)?;
        let entries = code.source.entries().iter();
        let functions = entries.map(|e| self.function(&module, e)).collect::<Result<_, _>>()?;
        Ok(HelperKernel { context: self.context().clone(), helper: code.source, functions })
    }

    /// Merges two carries of so many rows, o (rows, Dv), m (rows), l (rows) in f32, into one, which may take the place of either.
    ///
    /// # Errors
    /// A carry reaches outside of its buffer, or the result overlaps a part of one.
    pub fn merge(
        &self,
        kernel: &HelperKernel,
        [a, b]: [BufferRange; 2],
        to: BufferRange,
        rows: usize,
        dv: usize,
    ) -> Result<(), CudaError> {
        let Helper::Merge = kernel.helper else { return refuse("the kernel does not merge".into()) };
        let bytes = dv.checked_add(2).and_then(|n| all(&[rows, n, 4]));
        let params = Merge {
            a: self.address(&a, bytes, "a")?,
            b: self.address(&b, bytes, "b")?,
            to: self.address(&to, bytes, "the result")?,
            rows: rows as i64,
            dv: number(dv)?,
        };
        let bytes = bytes.unwrap_or(usize::MAX);
        let partly = |x: &BufferRange| overlap(x, &to, [bytes; 2]) && x.offset != to.offset;
        if partly(&a) || partly(&b) {
            return refuse("the result of a merge overlaps a part of a carry".into());
        }
        // A warp takes a row at a time.
        let blocks = rows.div_ceil(THREADS as usize / 32);
        self.launch_helper(kernel, 0, blocks, 16, |launch| {
            launch.arg(&params);
        })
    }

    /// Copies runs of bytes, at most sixteen, each for so many heads.
    ///
    /// # Errors
    /// A run reaches outside of its buffer or overlaps where it goes, or the kernel's unit does not divide it.
    pub fn pack(&self, kernel: &HelperKernel, runs: &[Runs], heads: usize) -> Result<(), CudaError> {
        let Helper::Pack { copy: unit } = kernel.helper else {
            return refuse("the kernel does not pack".into());
        };
        if runs.len() > MAX_COPIES {
            return refuse(format!("more than {MAX_COPIES} runs"));
        }
        let mut params = Pack {
            copies: number(runs.len())?,
            heads: number(heads)?,
            copy: [PackCopy::default(); MAX_COPIES],
        };
        for (at, run) in params.copy.iter_mut().zip(runs) {
            let numbers = [run.from.offset, run.to.offset, run.from_head, run.to_head, run.bytes];
            if let Some(n) = numbers.iter().find(|n| !n.is_multiple_of(unit.into())) {
                return refuse(format!(
                    "{n} is no multiple of the {unit} bytes that the kernel copies at once"
                ));
            }
            if run.to_head < run.bytes && heads > 1 {
                return refuse("the runs of two heads go to the same place".into());
            }
            let reach = |head: usize| {
                let last = head.checked_mul(heads.saturating_sub(1))?;
                last.checked_add(run.bytes)
            };
            let (from, to) = (reach(run.from_head), reach(run.to_head));
            *at = PackCopy {
                from: self.bytes(&run.from, from, "a run")?,
                to: self.bytes(&run.to, to, "where a run goes")?,
                from_head: run.from_head as i64,
                to_head: run.to_head as i64,
                bytes: run.bytes as i64,
            };
            if overlap(&run.from, &run.to, [from, to].map(Option::unwrap_or_default)) {
                return refuse("a run overlaps where it goes".into());
            }
        }
        for (i, run) in runs.iter().enumerate() {
            if runs[..i].iter().any(|other| same_target(run, other, heads)) {
                return refuse("two runs go to the same place".into());
            }
        }
        let longest = runs.iter().map(|r| r.bytes).max().unwrap_or(0) / usize::from(unit);
        let each =
            longest.div_ceil(THREADS as usize).min(self.multiprocessors * 8 / runs.len().max(1)).max(1);
        if heads == 0 || longest == 0 {
            return Ok(());
        }
        self.launch_helper(kernel, 0, each * runs.len(), usize::MAX, |launch| {
            launch.arg(&params);
        })
    }

    /// Numbers from f32 to the kernel's element type.
    ///
    /// # Errors
    /// A range reaches outside of its buffer, or they overlap.
    pub fn cast_from_f32(
        &self,
        kernel: &HelperKernel,
        from: BufferRange,
        to: BufferRange,
        count: usize,
    ) -> Result<(), CudaError> {
        self.cast(kernel, 0, (from, to), count)
    }

    /// Numbers from the kernel's element type to f32.
    ///
    /// # Errors
    /// A range reaches outside of its buffer, or they overlap.
    pub fn cast_to_f32(
        &self,
        kernel: &HelperKernel,
        from: BufferRange,
        to: BufferRange,
        count: usize,
    ) -> Result<(), CudaError> {
        self.cast(kernel, 1, (from, to), count)
    }

    fn cast(
        &self,
        kernel: &HelperKernel,
        which: usize,
        (from, to): (BufferRange, BufferRange),
        count: usize,
    ) -> Result<(), CudaError> {
        let Helper::Cast { element, .. } = kernel.helper else {
            return refuse("the kernel does not cast".into());
        };
        let mut sizes = [4, element.bytes()];
        sizes.rotate_left(which);
        let [from_bytes, to_bytes] = sizes.map(|size| count.checked_mul(size));
        let source = self.address(&from, from_bytes, "what is cast")?;
        let target = self.address(&to, to_bytes, "where it goes")?;
        if overlap(&from, &to, [from_bytes, to_bytes].map(Option::unwrap_or_default)) {
            return refuse("a cast overlaps where it goes".into());
        }
        let count = count as i64;
        self.launch_helper(kernel, which, count as usize / THREADS as usize + 1, 8, |launch| {
            launch.arg(&source).arg(&target).arg(&count);
        })
    }

    /// Ends a carry: counts sinks, divides, casts, writes.
    ///
    /// # Errors
    /// Something does not fit its buffer or the kernel.
    pub fn finish_carry(&self, kernel: &HelperKernel, step: &FinishStep) -> Result<(), CudaError> {
        let Helper::Cast { element, sinks } = kernel.helper else {
            return refuse("the kernel ends no carry".into());
        };
        if step.sinks.is_some() != (sinks != Operand::None) {
            return refuse("the sinks are not the kernel's".into());
        }
        let rows = step.rows.rows;
        let len = check_rows(&rows)?;
        if rows.local < 0 || rows.local as usize + len > step.q_rows {
            return refuse("rows outside of out".into());
        }
        let Some(carry) = &step.rows.carry else { return refuse("there is no carry".into()) };
        let heads = all(&[step.batch, step.q_heads]).filter(|n| *n < FAR as usize);
        let heads = heads.ok_or_else(|| too_large("heads"))?;
        let size = if sinks == Operand::F32 { Element::F32 } else { element }.bytes();
        let last = rows.start as usize + (len - 1) * rows.step as usize + 1;
        let extents =
            |t: &DeviceTensor| [step.batch, step.q_heads, if t.local_rows { step.q_rows } else { last }, 1];
        let carry_bytes = step.dv.checked_add(2).and_then(|n| all(&[heads, len, n, 4]));
        let mut ranges = Ranges::default();
        let out_bytes = all(&[heads, step.q_rows, step.dv, element.bytes()]);
        let lse_bytes = all(&[heads, step.q_rows, 4]);
        let carry = ranges.read("the carry", self.address(carry, carry_bytes, "carry")?, carry_bytes);
        let out = ranges.written("out", self.address(&step.out, out_bytes, "out")?, out_bytes);
        let lse = match &step.lse {
            Some(lse) => ranges.written("lse", self.address(lse, lse_bytes, "lse")?, lse_bytes),
            None => 0,
        };
        let sinks = match &step.sinks {
            Some(sinks) => self.leaf(sinks, extents(sinks), size, "sinks", &mut ranges)?,
            None => Default::default(),
        };
        ranges.disjoint()?;
        let params = Finish {
            piece: QPiece {
                rows,
                carry,
                out: out + rows.local as u64 * step.dv as u64 * element.bytes() as u64,
                lse: if lse == 0 { 0 } else { lse + rows.local as u64 * 4 },
                out_rows: number(step.q_rows)?,
                out_heads: number(step.q_heads)?,
                ..QPiece::default()
            },
            batch: number(step.batch)?,
            q_heads: number(step.q_heads)?,
            dv: number(step.dv)?,
            empty_row: step.empty_row,
            sinks,
        };
        let blocks = (heads * len).div_ceil(THREADS as usize / 32);
        self.launch_helper(kernel, 2, blocks, 16, |launch| {
            launch.arg(&params);
        })
    }

    /// Launches at most so many blocks a multiprocessor.
    pub(super) fn launch_helper<'a>(
        &'a self,
        kernel: &'a HelperKernel,
        which: usize,
        blocks: usize,
        most: usize,
        args: impl FnOnce(&mut cudarc::driver::LaunchArgs<'a>),
    ) -> Result<(), CudaError> {
        if !self.is_of(&kernel.context) {
            return Err(foreign("the kernel"));
        }
        if blocks == 0 {
            return Ok(());
        }
        let blocks = blocks.min(self.multiprocessors.saturating_mul(most)) as u32;
        let config =
            LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
        let mut launch = self.stream.launch_builder(&kernel.functions[which]);
        args(&mut launch);
        // SAFETY: the arguments are the kernel's, and every range they lead to was checked against its buffer.
        driver("launching a kernel around attn_partial", unsafe { launch.launch(config) })?;
        Ok(())
    }
}
