//! Kernels, compiled here or before.

use super::check;
use annulus::exec::cache::{Cache, standard_folder};
use annulus::exec::cuda::{CudaError, Gpu, HelperKernel, Kernel, code};
use annulus::lower::{Arch, Helper, KernelKey};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::rc::Rc;

/// Kernels that are loaded, by key.
pub(crate) struct Kernels<'a> {
    gpu: &'a Gpu,
    arch: Arch,
    cache: Option<Cache>,
    loaded: RefCell<BTreeMap<KernelKey, Rc<Kernel>>>,
}

impl<'a> Kernels<'a> {
    pub(crate) fn new(gpu: &'a Gpu, arch: Arch) -> Self {
        let cache = standard_folder().and_then(|folder| Cache::open(&folder).ok());
        Kernels { gpu, arch, cache, loaded: RefCell::default() }
    }

    pub(crate) fn get(&self, key: &KernelKey) -> Result<Rc<Kernel>, CudaError> {
        if let Some(kernel) = self.loaded.borrow().get(key) {
            return Ok(kernel.clone());
        }
        let kernel = Rc::new(self.gpu.load(&code(key, self.arch, self.cache.as_ref())?)?);
        self.loaded.borrow_mut().insert(*key, kernel.clone());
        Ok(kernel)
    }

    /// The kernel behind this one, if it leaves rows.
    pub(crate) fn redo(&self, key: &KernelKey) -> Result<Option<Rc<Kernel>>, CudaError> {
        key.redo(self.arch).map(|redo| self.get(&redo)).transpose()
    }

    pub(crate) fn helper(&self, helper: Helper) -> Result<HelperKernel, CudaError> {
        self.gpu.load_helper(&code(&helper, self.arch, self.cache.as_ref())?)
    }
}

/// Compiles every kernel that `check` and `serve` use into the cache; of a share `I/N` every N-th, for the compiler takes one core.
pub(crate) fn precompile(share: Option<&str>) -> ExitCode {
    let number = |part: Option<&str>, default| part.map_or(Some(default), |p| p.parse().ok());
    let mut parts = share.into_iter().flat_map(|s| s.split('/'));
    let (Some(mine), Some(of @ 1..)) = (number(parts.next(), 0usize), number(parts.next(), 1usize)) else {
        println!("{}: expected I/N", share.unwrap_or_default());
        return ExitCode::from(2);
    };
    let arch = Arch::Sm90a;
    let keys =
        check::keys(arch).into_iter().chain(super::programs::keys(arch)).chain(super::serve::keys(arch));
    let keys: BTreeSet<KernelKey> = keys.flat_map(|key| [Some(key), key.redo(arch)]).flatten().collect();
    let helpers = Helper::all();
    let cache = standard_folder().map(|folder| Cache::open(&folder).expect("the cache"));
    let mut failed = 0;
    let mut one = |result: Result<(), CudaError>| {
        if let Err(e) = result {
            failed += 1;
            println!("{e}");
        }
    };
    let attention = keys.iter().skip(mine).step_by(of);
    attention.for_each(|key| one(code(key, arch, cache.as_ref()).map(|_| ())));
    helpers.iter().skip(mine).step_by(of).for_each(|h| one(code(h, arch, cache.as_ref()).map(|_| ())));
    println!("{} kernels, share {mine} of {of}: {failed} failed", keys.len() + helpers.len());
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
