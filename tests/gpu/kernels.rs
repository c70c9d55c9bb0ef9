//! Kernels, compiled here or before.

use super::check;
use annulus::exec::cache::{Cache, standard_folder};
use annulus::exec::cuda::{CudaError, Gpu, Kernel, code, compile};
use annulus::lower::{Arch, KernelKey, options, text};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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
        let kept = std::env::var_os("ANNULUS_CUBINS")
            .and_then(|dir| std::fs::read(file(Path::new(&dir), key, self.arch)).ok());
        let cubin = match kept {
            Some(cubin) => cubin,
            None => code(key, self.arch, self.cache.as_ref())?,
        };
        let kernel = Rc::new(self.gpu.load(key, cubin)?);
        self.loaded.borrow_mut().insert(*key, kernel.clone());
        Ok(kernel)
    }
}

/// The file of a kernel: named by a hash of text and options, so that a stale one is never taken.
fn file(dir: &Path, key: &KernelKey, arch: Arch) -> PathBuf {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    hash.update(options(arch).join(" "));
    hash.update(text(key));
    let name: String = hash.finalize().iter().take(12).map(|b| format!("{b:02x}")).collect();
    dir.join(format!("k_{name}.cubin"))
}

/// Compiles every kernel that `check` and `serve` use into a folder; of a share `I/N` every N-th, for the compiler takes one core.
pub(crate) fn precompile(dir: &str, share: Option<&str>) -> ExitCode {
    let number = |part: Option<&str>, default| part.map_or(Some(default), |p| p.parse().ok());
    let mut parts = share.into_iter().flat_map(|s| s.split('/'));
    let (Some(mine), Some(of @ 1..)) = (number(parts.next(), 0usize), number(parts.next(), 1usize)) else {
        println!("{}: expected I/N", share.unwrap_or_default());
        return ExitCode::from(2);
    };
    std::fs::create_dir_all(dir).expect("a folder");
    let keys = check::keys(Arch::Sm90a).into_iter().chain(super::serve::keys(Arch::Sm90a));
    let keys: std::collections::BTreeSet<KernelKey> = keys.collect();
    let mut failed = 0;
    for key in keys.iter().skip(mine).step_by(of) {
        let arch = Arch::Sm90a;
        let to = file(Path::new(dir), key, arch);
        if to.is_file() {
            continue;
        }
        match compile(&text(key), &options(arch), key.entry(), arch.name()) {
            Ok(done) => {
                let bad = done.log.lines().filter(|l| {
                    l.contains("C75") || (l.contains("spill") && !l.contains("0 bytes spill stores"))
                });
                bad.for_each(|line| println!("{key:?}: {line}"));
                std::fs::write(&to, done.cubin).expect("a file");
            }
            Err(e) => {
                failed += 1;
                println!("{key:?}: {e}");
            }
        }
    }
    println!("{} kernels, share {mine} of {of}: {failed} failed", keys.len());
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
