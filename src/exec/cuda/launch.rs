//! One launch of `attn_partial`, and of the kernel behind it that does the rows that it leaves.

use super::error::{CudaError, driver, foreign, refuse};
use super::gpu::{Gpu, Kernel};
use super::maps::maps;
use super::step::{AttentionStep, BufferRange};
use crate::lower::{Params, StepParams, Tiling};
use cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};

// SAFETY: laid out as the kernel's arguments are, which the kernel's text asserts.
unsafe impl DeviceRepr for Params {}

// SAFETY: laid out as the arguments of kernels with steps are, which their texts assert.
unsafe impl DeviceRepr for StepParams {}

impl Gpu {
    /// Launches the step: the kernel, and behind it the one that does the rows that it leaves, [`KernelKey::redo`](crate::lower::KernelKey::redo). Without the
    /// latter the caller promises finite values: where a hidden key's value is not, its rows become NaN. Kernels run after all that
    /// was launched before.
    ///
    /// # Errors
    /// Something does not fit its buffer or the key, lies on another GPU, or overlaps what is written; then nothing is launched.
    pub fn attn_partial(
        &self,
        kernel: &Kernel,
        redo: Option<&Kernel>,
        step: &AttentionStep,
    ) -> Result<(), CudaError> {
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
        params.usual.odd =
            self.address(&BufferRange { buffer: place, offset: 0 }, Some(place.bytes()), "marks")?;
        self.launch(kernel, &params)?;
        let usual = Params { odd: params.usual.odd, ..again.usual };
        let done = self.launch(redo, &StepParams { usual, ..again });
        if done.is_err() {
            // Nobody clears the marks of the first launch: the next step must not meet them.
            *marks = self.filled(marks.bytes(), 0)?;
        }
        done
    }

    /// A kernel without steps takes the fields that all kernels have.
    fn launch(&self, kernel: &Kernel, params: &StepParams) -> Result<(), CudaError> {
        let key = &kernel.key;
        if params.usual.tiles == 0 {
            return Ok(());
        }
        let maps = match key.tiling {
            Tiling::Hopper(_) => Some(maps(key, &params.usual)?),
            Tiling::Portable(_) => None,
        };
        let tiles = params.usual.tiles as usize;
        // Hopper's blocks stay and take one tile after another.
        let blocks = if maps.is_some() { self.multiprocessors.min(tiles) } else { tiles };
        let config = LaunchConfig {
            grid_dim: (blocks as u32, 1, 1),
            block_dim: (key.threads() as u32, 1, 1),
            shared_mem_bytes: key.shared_bytes() as u32,
        };
        let mut launch = self.stream.launch_builder(&kernel.function);
        if key.steps.is_empty() {
            launch.arg(&params.usual);
        } else {
            launch.arg(params);
        }
        if let Some(maps) = &maps {
            launch.arg(maps);
        }
        // SAFETY: the arguments are the kernel's, and every range they lead to was checked against its buffer.
        driver("launching attn_partial", unsafe { launch.launch(config) })?;
        Ok(())
    }
}
