//! `annulus run` where each rank is a process of its own: on the CPU over MPI, or each with a GPU over NCCL.
//!
//! Whoever joined them keeps them until everything is said: a rank that fails tells the others why, and then leaves.

use super::args::{Backend, Run, Transport};
use super::stop::Stop;
use annulus::Compiled;
use annulus::exec::cpu::{self, Progress};
use annulus::exec::group::{Launched, Launcher, launched, variables};
use annulus::ir::Tensor;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// The processes that this one was started with.
enum Joined {
    /// They speak MPI.
    #[cfg(all(feature = "mpi", target_os = "linux"))]
    Mpi(annulus::exec::mpi::World),
    /// They have met, and are about to join a communicator of NCCL.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    Met(Box<annulus::exec::group::Group>),
}

impl Joined {
    fn rank_and_size(&self) -> (usize, usize) {
        match *self {
            #[cfg(all(feature = "mpi", target_os = "linux"))]
            Joined::Mpi(ref world) => (world.rank(), world.size()),
            #[cfg(all(feature = "cuda", target_os = "linux"))]
            Joined::Met(ref group) => (group.rank(), group.size()),
        }
    }

    /// The others are told why this rank failed.
    #[cfg_attr(
        not(any(feature = "mpi", feature = "cuda")),
        expect(unused_variables, reason = "there are none")
    )]
    fn fail(self, why: &str) {
        match self {
            #[cfg(all(feature = "mpi", target_os = "linux"))]
            Joined::Mpi(mut world) => world.fail(why),
            #[cfg(all(feature = "cuda", target_os = "linux"))]
            Joined::Met(group) => group.abort(annulus::exec::group::Abort::because(why)),
        }
    }
}

static KEPT: Mutex<Option<Joined>> = Mutex::new(None);

fn kept() -> MutexGuard<'static, Option<Joined>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The processes of a run, while it is prepared and run. Where it is dropped before they are done, they are kept until [`leave`].
pub(super) struct Processes {
    joined: Option<Joined>,
    /// This one, and how many there are.
    place: Option<(usize, usize)>,
}

impl Drop for Processes {
    fn drop(&mut self) {
        if let Some(joined) = self.joined.take() {
            *kept() = Some(joined);
        }
    }
}

/// This process's rank, and how many there are, once it is known.
static PLACE: OnceLock<(usize, usize)> = OnceLock::new();

/// What a message begins with: which rank it is of, where there are others that print.
pub(super) fn of_rank() -> String {
    PLACE.get().filter(|place| place.1 > 1).map_or(String::new(), |(rank, _)| format!("rank {rank}: "))
}

/// Everything is said. What this rank failed of, if it did, the others are told.
pub(super) fn leave(failed: Option<&str>) {
    if let Some(joined) = kept().take()
        && let Some(why) = failed
    {
        joined.fail(why);
    }
}

/// Over what the ranks of a run reach each other.
fn transport(args: &Run) -> Result<Transport, Stop> {
    let usage = |why: String| Err(Stop::Usage(why));
    let asked = match args.transport {
        Transport::Auto => match several() {
            None => Transport::Local,
            Some(_) if args.backend == Backend::Cuda => Transport::Nccl,
            Some(Launcher::OpenMpi | Launcher::Mpich) => Transport::Mpi,
            Some(other) => {
                return usage(format!(
                    "{} started several processes, and on the CPU ranks that are processes reach each other over MPI alone: start them with mpiexec, say --backend cuda for a GPU each, or --transport local for all ranks in each process",
                    other.name()
                ));
            }
        },
        asked => asked,
    };
    match (asked, args.backend) {
        (Transport::Mpi, Backend::Cuda) => usage(
            "--transport mpi: its ranks compute on the CPU: say --backend cpu, or --transport nccl for a GPU each".into(),
        ),
        (Transport::Nccl, Backend::Cpu) => usage(
            "--transport nccl: it moves data between GPUs: say --backend cuda, or --transport mpi for ranks on the CPU".into(),
        ),
        _ => Ok(asked),
    }
}

/// Who started several processes, of which this one is one.
fn several() -> Option<Launcher> {
    of_launcher().map(|l| l.launcher)
}

fn of_launcher() -> Option<Launched> {
    launched(&variables()).ok().flatten().filter(|l| l.size > 1)
}

/// As many processes as ranks.
fn as_many(args: &Run, joined: Joined) -> Result<Processes, Stop> {
    let (rank, size) = joined.rank_and_size();
    let ranks = args.split.ranks as usize;
    let _ = PLACE.set((rank, size));
    let processes = Processes { joined: Some(joined), place: Some((rank, size)) };
    if size != ranks {
        return Err(Stop::Usage(format!(
            "--ranks {ranks}: {size} processes were started, and each is a rank: start {ranks}, or say --ranks {size}"
        )));
    }
    Ok(processes)
}

impl Processes {
    /// Joins them, if ranks are processes.
    ///
    /// # Errors
    /// There is no library for it, they do not meet, or as many processes are not ranks.
    pub(super) fn join(args: &Run) -> Result<Processes, Stop> {
        match transport(args)? {
            Transport::Mpi => mpi(args),
            Transport::Nccl => nccl(args),
            Transport::Auto | Transport::Local => Ok(Processes { joined: None, place: None }),
        }
    }

    /// Whether there are others.
    pub(super) fn several(&self) -> bool {
        self.place.is_some_and(|(_, size)| size > 1)
    }

    /// Whether this process prints.
    pub(super) fn first(&self) -> bool {
        self.place.is_none_or(|(rank, _)| rank == 0)
    }

    /// The group that the ranks met in, each with a GPU.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    pub(super) fn met(&mut self) -> Option<annulus::exec::group::Group> {
        match self.joined.take() {
            Some(Joined::Met(group)) => Some(*group),
            other => {
                self.joined = other;
                None
            }
        }
    }

    /// Runs all ranks on the CPU, of which this process has one or all.
    pub(super) fn run(
        &mut self,
        args: &Run,
        compiled: &Compiled,
        inputs: &[Tensor],
        watch: &mut dyn FnMut(Progress),
    ) -> Result<(cpu::Run, Option<String>), Stop> {
        #[cfg(all(feature = "mpi", target_os = "linux"))]
        if let Some(Joined::Mpi(world)) = &mut self.joined {
            let patience = Duration::from_secs(args.patience);
            let run = annulus::run_over_mpi(compiled, world, inputs, (args.seed, patience), watch)?;
            let version = annulus::exec::mpi::World::version().unwrap_or_default();
            let size = world.size();
            let processes =
                if size == 1 { "1 process".to_owned() } else { format!("{size} processes, a rank each,") };
            return Ok((run, Some(format!("{processes} over {version}"))));
        }
        Ok((annulus::run_watched(compiled, inputs, args.seed, watch)?, None))
    }
}

#[cfg(all(feature = "mpi", target_os = "linux"))]
fn mpi(args: &Run) -> Result<Processes, Stop> {
    let world = annulus::exec::mpi::World::join().map_err(|e| {
        Stop::Failed(format!("--transport mpi: {e}; or --transport local for all ranks in this process"))
    })?;
    as_many(args, Joined::Mpi(world))
}

#[cfg(not(all(feature = "mpi", target_os = "linux")))]
fn mpi(_: &Run) -> Result<Processes, Stop> {
    Err(Stop::Failed("--transport mpi: annulus was built without the feature mpi, or not for Linux".into()))
}

#[cfg(all(feature = "cuda", target_os = "linux"))]
fn nccl(args: &Run) -> Result<Processes, Stop> {
    use annulus::exec::group::Meeting;

    let failed = |why: String| Stop::Failed(format!("--transport nccl: {why}"));
    let variables = variables();
    let launched = launched(&variables).map_err(|e| failed(e.to_string()))?;
    let Some(launched) = launched else {
        return Err(Stop::Usage(
            "--transport nccl: no launcher started this process: annulus launch -n P -- run …, torchrun, srun or mpiexec do; or --transport local for all ranks on one GPU".into(),
        ));
    };
    let mut meeting = Meeting::of(&variables, &launched).map_err(|e| failed(e.to_string()))?;
    meeting.patience = meeting.patience.min(Duration::from_secs(args.patience));
    let group = meeting.meet().map_err(|e| failed(e.to_string()))?;
    as_many(args, Joined::Met(Box::new(group)))
}

#[cfg(not(all(feature = "cuda", target_os = "linux")))]
fn nccl(_: &Run) -> Result<Processes, Stop> {
    Err(Stop::Failed("--transport nccl: annulus was built without the feature cuda, or not for Linux".into()))
}
