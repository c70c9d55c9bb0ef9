//! The kernels of device programs, loaded on a GPU once.

use crate::exec::cache::Cache;
use crate::exec::cuda::error::{CudaError, foreign, refuse};
use crate::exec::cuda::gpu::Gpu;
use crate::exec::cuda::nvrtc::{code, matches_driver};
use crate::lower::KernelKey;
use crate::lower::program::Kernel;
use cudarc::driver::{CudaContext, CudaFunction};
use std::sync::Arc;

/// An entry point that is loaded.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) function: CudaFunction,
    /// Of `attn_partial`.
    pub(super) key: Option<KernelKey>,
}

/// What is loaded on one GPU; two programs that launch the same kernel share it.
#[derive(Debug, Default)]
pub struct Kernels {
    loaded: Vec<(Kernel, Arc<Loaded>)>,
    /// That of the GPU where they are loaded.
    context: Option<Arc<CudaContext>>,
    compiled: usize,
    cached: usize,
}

impl Kernels {
    /// Nothing is loaded yet.
    pub fn new() -> Kernels {
        Kernels::default()
    }

    /// How many texts were compiled.
    pub fn compiled(&self) -> usize {
        self.compiled
    }

    /// How many came from the cache.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// A kernel, compiled or from the cache, and loaded when it is first asked for.
    pub(super) fn get(
        &mut self,
        gpu: &Gpu,
        kernel: &Kernel,
        cache: Option<&Cache>,
    ) -> Result<Arc<Loaded>, CudaError> {
        if !gpu.is_of(self.context.get_or_insert_with(|| gpu.context().clone())) {
            return Err(foreign("a kernel"));
        }
        if let Some((_, loaded)) = self.loaded.iter().find(|(k, _)| k == kernel) {
            return Ok(loaded.clone());
        }
        let Some(arch) = gpu.arch() else { return refuse("there are no kernels for this GPU".into()) };
        // Told before a compilation that would be in vain.
        matches_driver()?;
        let mut count = |log: Option<&str>| match log {
            Some(_) => self.compiled += 1,
            None => self.cached += 1,
        };
        let loaded = match kernel {
            Kernel::Cpu(work) => return refuse(format!("{} is the CPU's", work.name())),
            Kernel::Attention(key) => {
                let code = code(key, arch, cache)?;
                count(code.log());
                Loaded { function: gpu.load(&code)?.function, key: Some(*key) }
            }
            Kernel::Helper(helper, work) => {
                let code = code(helper, arch, cache)?;
                count(code.log());
                let module = gpu.module(&code)?;
                Loaded { function: gpu.function(&module, work.name())?, key: None }
            }
        };
        let loaded = Arc::new(loaded);
        self.loaded.push((*kernel, loaded.clone()));
        Ok(loaded)
    }
}
