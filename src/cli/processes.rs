//! `annulus run` where each rank is a process of its own.

use super::args::{Run, Transport};
use super::stop::Stop;
use annulus::Compiled;
use annulus::exec::cpu::{self, Progress};
use annulus::exec::group::{Launcher, launched, variables};
use annulus::ir::Tensor;

/// The processes that this one was started with. Where it is dropped, they are kept until [`leave`]: a rank that failed says why, tells the
/// others, and then ends them.
#[cfg(all(feature = "mpi", target_os = "linux"))]
pub(super) struct Processes(Option<annulus::exec::mpi::World>);

#[cfg(all(feature = "mpi", target_os = "linux"))]
static KEPT: std::sync::Mutex<Option<annulus::exec::mpi::World>> = std::sync::Mutex::new(None);

#[cfg(all(feature = "mpi", target_os = "linux"))]
impl Drop for Processes {
    fn drop(&mut self) {
        if let Some(world) = self.0.take() {
            *kept() = Some(world);
        }
    }
}

#[cfg(all(feature = "mpi", target_os = "linux"))]
fn kept() -> std::sync::MutexGuard<'static, Option<annulus::exec::mpi::World>> {
    KEPT.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What a message begins with: which rank it is of, where there are others that print.
pub(super) fn of_rank() -> String {
    #[cfg(all(feature = "mpi", target_os = "linux"))]
    if let Some(world) = kept().as_ref().filter(|world| world.size() > 1) {
        return format!("rank {}: ", world.rank());
    }
    String::new()
}

/// Everything is said. What this rank failed of, if it did, the others are told.
pub(super) fn leave(failed: Option<&str>) {
    let _ = failed;
    #[cfg(all(feature = "mpi", target_os = "linux"))]
    if let Some(mut world) = kept().take()
        && let Some(why) = failed
    {
        world.fail(why);
    }
}

#[cfg(not(all(feature = "mpi", target_os = "linux")))]
pub(super) struct Processes;

/// Whether a launcher says in the environment that there are several processes, and that they speak MPI.
///
/// # Errors
/// There are several, and nothing that carries messages between them.
fn started_by_mpi() -> Result<bool, Stop> {
    let launched = launched(&variables()).ok().flatten().filter(|l| l.size > 1);
    match launched.as_ref().map(|l| l.launcher) {
        None => Ok(false),
        Some(Launcher::OpenMpi | Launcher::Mpich) => Ok(true),
        Some(other) => Err(Stop::Usage(format!(
            "{} started several processes, and so far ranks that are processes reach each other over MPI alone: start them with mpiexec, or say --transport local for all ranks in each process",
            other.name()
        ))),
    }
}

#[cfg(all(feature = "mpi", target_os = "linux"))]
impl Processes {
    /// Joins them, if ranks are processes.
    ///
    /// # Errors
    /// There is no library for it, or as many processes are not ranks.
    pub(super) fn join(args: &Run) -> Result<Processes, Stop> {
        use super::args::Backend;
        use annulus::exec::mpi::{MpiError, World};

        let several = match args.transport {
            Transport::Local => false,
            Transport::Mpi => true,
            Transport::Auto => started_by_mpi()?,
        };
        if !several {
            return Ok(Processes(None));
        }
        if args.backend != Backend::Cpu {
            return Err(Stop::Usage(
                "ranks that are processes compute on the CPU: --backend cpu, or --transport local for all ranks in each process".into(),
            ));
        }
        let failed = |e: MpiError| {
            Stop::Failed(format!("--transport mpi: {e}; or --transport local for all ranks in this process"))
        };
        let world = World::join().map_err(failed)?;
        let (size, ranks) = (world.size(), args.split.ranks as usize);
        let processes = Processes(Some(world));
        if size != ranks {
            return Err(Stop::Usage(format!("--transport mpi: {}", MpiError::Ranks { size, ranks })));
        }
        Ok(processes)
    }

    /// Whether this process prints.
    pub(super) fn first(&self) -> bool {
        self.0.as_ref().is_none_or(|world| world.rank() == 0)
    }

    /// Runs all ranks, of which this process has one or all.
    pub(super) fn run(
        &mut self,
        args: &Run,
        compiled: &Compiled,
        inputs: &[Tensor],
        watch: &mut dyn FnMut(Progress),
    ) -> Result<(cpu::Run, Option<String>), Stop> {
        let Some(world) = &mut self.0 else {
            return Ok((annulus::run_watched(compiled, inputs, args.seed, watch)?, None));
        };
        let patience = std::time::Duration::from_secs(args.patience);
        let run = annulus::run_over_mpi(compiled, world, inputs, (args.seed, patience), watch)?;
        let version = annulus::exec::mpi::World::version().unwrap_or_default();
        let size = world.size();
        let processes =
            if size == 1 { "1 process".to_owned() } else { format!("{size} processes, a rank each,") };
        Ok((run, Some(format!("{processes} over {version}"))))
    }
}

#[cfg(not(all(feature = "mpi", target_os = "linux")))]
impl Processes {
    pub(super) fn join(args: &Run) -> Result<Processes, Stop> {
        let several =
            args.transport == Transport::Mpi || (args.transport == Transport::Auto && started_by_mpi()?);
        match several {
            false => Ok(Processes),
            true => Err(Stop::Failed(
                "--transport mpi: annulus was built without the feature mpi, or not for Linux".into(),
            )),
        }
    }

    pub(super) fn first(&self) -> bool {
        true
    }

    pub(super) fn run(
        &mut self,
        args: &Run,
        compiled: &Compiled,
        inputs: &[Tensor],
        watch: &mut dyn FnMut(Progress),
    ) -> Result<(cpu::Run, Option<String>), Stop> {
        Ok((annulus::run_watched(compiled, inputs, args.seed, watch)?, None))
    }
}
