//! What the kernels of a rank are handed, made once for the pointers of a call.
//!
//! In: a program, its kernels, and where memory lies. Out: the argument of each launch. Invariant: what was made for some pointers is
//! handed to a kernel only in calls with the same ones. A few sets of pointers are kept, those of the latest calls.

use super::call::Pointers;
use super::loaded::Loaded;
use crate::exec::cuda::error::{CudaError, refuse};
use crate::exec::cuda::maps::{Maps, maps};
use crate::lower::Tiling;
use crate::lower::program::{Address, Addresses, Base, KernelParams, Launch, Program, Region, kernel_params};
use cudarc::driver::LaunchConfig;
use std::collections::VecDeque;

/// For how many sets of pointers arguments are kept.
const MOST: usize = 8;

/// What one launch takes.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) params: KernelParams,
    pub(super) maps: Option<Maps>,
    pub(super) config: LaunchConfig,
}

/// The pointers of a call, and by operation what was made for them.
#[derive(Debug, Default)]
pub(super) struct Set {
    pub(super) pointers: Pointers,
    launches: Vec<Option<Box<Prepared>>>,
}

/// The sets of the latest calls.
#[derive(Debug, Default)]
pub(super) struct Sets {
    pub(super) now: Set,
    /// Before it, the latest first.
    before: VecDeque<Set>,
}

impl Sets {
    /// From here on calls have these pointers.
    pub(super) fn turn_to(&mut self, pointers: &Pointers) {
        if self.now.pointers == *pointers {
            return;
        }
        let known = self.before.iter().position(|set| set.pointers == *pointers);
        let next = known.and_then(|at| self.before.remove(at));
        let next = next.unwrap_or_else(|| Set { pointers: pointers.clone(), launches: vec![] });
        self.before.push_front(std::mem::replace(&mut self.now, next));
        self.before.truncate(MOST - 1);
    }
}

impl Set {
    /// Where a byte of the program lies.
    pub(super) fn pointer(&self, program: &Program, at: Address) -> u64 {
        let base = match at.base {
            Base::Arena => self.pointers.arena,
            Base::Argument(n) => self.pointers.arguments.get(n).copied().unwrap_or(0),
            Base::Out => self.pointers.out,
            Base::Lse => self.pointers.lse,
            Base::Scratch(stream) => self.pointers.arena + inside(program.scratch.get(stream)),
            Base::Zeroed(stream) => self.pointers.arena + inside(program.zeroed.get(stream)),
        };
        base + at.offset as u64
    }

    /// What the launch of this operation takes, made when it is first asked for.
    pub(super) fn launch(
        &mut self,
        op: usize,
        make: impl FnOnce(&Set) -> Result<Prepared, CudaError>,
    ) -> Result<&Prepared, CudaError> {
        if self.launches.len() <= op {
            self.launches.resize_with(op + 1, || None);
        }
        if self.launches[op].is_none() {
            self.launches[op] = Some(Box::new(make(self)?));
        }
        match &self.launches[op] {
            Some(made) => Ok(made),
            None => refuse(format!("nothing was made for operation {op}")),
        }
    }

    /// The argument of a launch, with these pointers.
    pub(super) fn prepare(
        &self,
        program: &Program,
        launch: &Launch,
        loaded: &Loaded,
        (tables, multiprocessors): (u64, usize),
    ) -> Result<Prepared, CudaError> {
        let of = |at: Address| self.pointer(program, at);
        let params = kernel_params(program, launch, &Addresses { of: &of, tables });
        let hopper = loaded.key.filter(|key| matches!(key.tiling, Tiling::Hopper(_)));
        let maps = match (hopper, &params) {
            (Some(key), KernelParams::Usual(p)) => Some(maps(&key, p)?),
            (Some(key), KernelParams::Steps(p)) => Some(maps(&key, &p.usual)?),
            _ => None,
        };
        let config = LaunchConfig {
            grid_dim: (number(launch.grid.on(multiprocessors))?, 1, 1),
            block_dim: (number(launch.grid.threads)?, 1, 1),
            shared_mem_bytes: number(loaded.key.map_or(0, |key| key.shared_bytes()))?,
        };
        Ok(Prepared { params, maps, config })
    }
}

fn number(n: usize) -> Result<u32, CudaError> {
    u32::try_from(n).map_err(|_| CudaError::Launch(format!("{n} is more than a launch counts")))
}

fn inside(region: Option<&Region>) -> u64 {
    region.map_or(0, |r| r.offset as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_found_again_until_too_many_came_after_it() {
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
        let at = |out: u64| Pointers { out, ..Pointers::default() };
        let made = |sets: &mut Sets, out: u64| {
            sets.turn_to(&at(out));
            assert_eq!(sets.now.pointers.out, out);
            let mut anew = false;
            let merge = crate::lower::Merge { a: 0, b: 0, to: out, rows: 0, dv: 0 };
            let params = KernelParams::Merge(merge);
            let prepared = sets.now.launch(3, |set| {
                anew = true;
                assert_eq!(set.pointers.out, out);
                Ok(Prepared { params, maps: None, config })
            });
            let KernelParams::Merge(merge) = &prepared.unwrap().params else { panic!("another kernel") };
            assert_eq!(merge.to, out);
            anew
        };
        let mut sets = Sets::default();
        let most = MOST as u64;
        (1..=most).for_each(|out| assert!(made(&mut sets, out)));
        (1..=most).for_each(|out| assert!(!made(&mut sets, out)));
        // The one that was used longest ago goes.
        assert!(made(&mut sets, most + 1));
        assert!(!made(&mut sets, 2) && made(&mut sets, 1));
    }
}
