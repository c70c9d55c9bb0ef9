//! Which launcher started this process, and as which rank.
//!
//! Asked in this order, the first whose variables are complete is taken: annulus itself, torchrun, Slurm, Open MPI, MPICH. Slurm's are passed
//! over where those of an MPI launcher are complete too and say otherwise: `mpirun` starts its daemons through `srun`, and ranks
//! inherit what Slurm said to these. They are passed over too where there is one task or no step: a shell in an allocation is no rank.

use super::error::EnvironmentError;
use super::read::{Variables, given, number_of};
use super::slurm;
use crate::shard::MAX_RANKS;

/// The rank, from 0.
pub const RANK: &str = "ANNULUS_RANK";
/// How many ranks there are.
pub const SIZE: &str = "ANNULUS_SIZE";
/// The rank among those of its host, from 0.
pub const LOCAL_RANK: &str = "ANNULUS_LOCAL_RANK";
/// How many ranks its host has.
pub const LOCAL_SIZE: &str = "ANNULUS_LOCAL_SIZE";

/// Who started the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// `annulus launch`, or its variables set by hand.
    Annulus,
    /// PyTorch's `torchrun`.
    Torchrun,
    /// Slurm's `srun`.
    Slurm,
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// The `mpiexec` of MPICH and what comes of it (hydra).
    Mpich,
}

impl Launcher {
    /// Its name.
    pub fn name(self) -> &'static str {
        self.names().launcher
    }

    /// The variables that tell rank, size, rank on the host, and size of the host.
    pub fn variables(self) -> [&'static str; 4] {
        let names = self.names();
        [names.rank, names.size, names.local_rank, names.local_size]
    }

    fn names(self) -> Names {
        let names = |launcher, [rank, size, local_rank, local_size]: [&'static str; 4]| Names {
            launcher,
            rank,
            size,
            local_rank,
            local_size,
        };
        match self {
            Launcher::Annulus => names("annulus launch", [RANK, SIZE, LOCAL_RANK, LOCAL_SIZE]),
            Launcher::Torchrun => names("torchrun", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"]),
            Launcher::Slurm => {
                names("srun", ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_TASKS_PER_NODE"])
            }
            Launcher::OpenMpi => names(
                "Open MPI",
                [
                    "OMPI_COMM_WORLD_RANK",
                    "OMPI_COMM_WORLD_SIZE",
                    "OMPI_COMM_WORLD_LOCAL_RANK",
                    "OMPI_COMM_WORLD_LOCAL_SIZE",
                ],
            ),
            Launcher::Mpich => names("MPICH", ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"]),
        }
    }
}

struct Names {
    launcher: &'static str,
    rank: &'static str,
    size: &'static str,
    local_rank: &'static str,
    local_size: &'static str,
}

/// Which rank this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    /// Who said so.
    pub launcher: Launcher,
    /// From 0, below `size`.
    pub rank: usize,
    /// How many ranks there are, from 1 to [`MAX_RANKS`].
    pub size: usize,
    /// From 0, below `local_size`: which of its host's GPUs it takes, modulo those that it sees.
    pub local_rank: usize,
    /// How many ranks its host has, at most `size`.
    pub local_size: usize,
}

/// Which rank the variables say that this process is; none where no launcher's are set.
///
/// # Errors
/// The variables of the launcher that is taken say nonsense; or some of a launcher's are set and others not, and no other launcher's are
/// complete.
pub fn launched(variables: &Variables) -> Result<Option<Launched>, EnvironmentError> {
    let mut incomplete = None;
    for launcher in
        [Launcher::Annulus, Launcher::Torchrun, Launcher::Slurm, Launcher::OpenMpi, Launcher::Mpich]
    {
        let told = match launcher {
            Launcher::Slurm => from_slurm(variables),
            other => from(variables, other),
        };
        match told {
            Ok(None) => {}
            Ok(Some(slurm)) if launcher == Launcher::Slurm => {
                let inner = [Launcher::OpenMpi, Launcher::Mpich].into_iter();
                let mut inner = inner.filter_map(|mpi| from(variables, mpi).ok().flatten());
                match inner.next() {
                    Some(mpi) if (mpi.rank, mpi.size) != (slurm.rank, slurm.size) => return Ok(Some(mpi)),
                    _ => return Ok(Some(slurm)),
                }
            }
            Ok(Some(found)) => return Ok(Some(found)),
            Err(e @ EnvironmentError::Lacks { .. }) => incomplete = incomplete.or(Some(e)),
            Err(e) => return Err(e),
        }
    }
    incomplete.map_or(Ok(None), Err)
}

/// What a launcher's variables say. The rank and the size mark that it is there; the others stand in too many shells.
fn from(variables: &Variables, launcher: Launcher) -> Result<Option<Launched>, EnvironmentError> {
    let names = launcher.names();
    let is_set = |name: &&'static str| given(variables, name).is_some();
    let Some(has) = [names.rank, names.size].into_iter().find(is_set) else { return Ok(None) };
    if let Some(lacks) = launcher.variables().into_iter().find(|name| !is_set(name)) {
        return Err(EnvironmentError::Lacks { launcher: names.launcher, has, lacks });
    }
    let numbers: Vec<usize> = launcher
        .variables()
        .into_iter()
        .filter_map(|name| number_of(variables, name).transpose())
        .collect::<Result<_, _>>()?;
    let [rank, size, local_rank, local_size] = numbers[..] else { return Ok(None) };
    checked(Launched { launcher, rank, size, local_rank, local_size }).map(Some)
}

fn from_slurm(variables: &Variables) -> Result<Option<Launched>, EnvironmentError> {
    let launcher = Launcher::Slurm;
    let first_set =
        |names: &[&'static str]| names.iter().copied().find(|name| given(variables, name).is_some());
    let step = first_set(&["SLURM_STEP_ID", "SLURM_STEPID"]);
    let step = step.map(|name| number_of(variables, name)).transpose()?.flatten();
    let (Some(_), Some(rank)) = (step.filter(|s| slurm::is_step(*s)), given(variables, "SLURM_PROCID"))
    else {
        return Ok(None);
    };
    let lacks = |lacks| EnvironmentError::Lacks { launcher: launcher.name(), has: "SLURM_PROCID", lacks };
    let size = first_set(&["SLURM_NTASKS", "SLURM_NPROCS"]).ok_or_else(|| lacks("SLURM_NTASKS"))?;
    let Some(size_given) = number_of(variables, size)? else { return Ok(None) };
    if size_given <= 1 {
        return Ok(None);
    }
    if let Some(tasks) = number_of(variables, "SLURM_STEP_NUM_TASKS")?
        && tasks != size_given
    {
        let why = "a step has one number of tasks";
        return Err(EnvironmentError::Contradicts(size, size_given, "SLURM_STEP_NUM_TASKS", tasks, why));
    }
    let rank = super::read::number("SLURM_PROCID", rank)?;
    let local_rank = number_of(variables, "SLURM_LOCALID")?.ok_or_else(|| lacks("SLURM_LOCALID"))?;
    let node = number_of(variables, "SLURM_NODEID")?.ok_or_else(|| lacks("SLURM_NODEID"))?;
    let per_node = first_set(&["SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"]);
    let per_node = per_node.ok_or_else(|| lacks("SLURM_TASKS_PER_NODE"))?;
    let list = given(variables, per_node).unwrap_or_default();
    let local_size = slurm::tasks_on(list, node).ok_or_else(|| {
        EnvironmentError::value(
            per_node,
            list,
            format!("want the tasks on each node, such as 2(x3),1, of node {node} too"),
        )
    })?;
    checked(Launched { launcher, rank, size: size_given, local_rank, local_size }).map(Some)
}

fn checked(l: Launched) -> Result<Launched, EnvironmentError> {
    let [rank, size, local_rank, local_size] = l.launcher.variables();
    let wrong = EnvironmentError::Contradicts;
    if l.size > MAX_RANKS {
        let want = format!("there are at most {MAX_RANKS} ranks");
        return Err(EnvironmentError::value(size, &l.size.to_string(), want));
    }
    if l.rank >= l.size {
        return Err(wrong(rank, l.rank, size, l.size, "ranks count from 0 and are fewer than the size"));
    }
    if l.local_size > l.size {
        return Err(wrong(local_size, l.local_size, size, l.size, "a host has no more ranks than there are"));
    }
    if l.local_rank >= l.local_size {
        let why = "ranks of a host count from 0 and are fewer than it has";
        return Err(wrong(local_rank, l.local_rank, local_size, l.local_size, why));
    }
    Ok(l)
}
