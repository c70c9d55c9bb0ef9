//! What the environments of launchers say, with the variables that each really sets.

use annulus::exec::group::{
    EnvironmentError, Launched, Launcher, Meeting, Place, Token, Variables, job, launched, place,
};
use proptest::prelude::*;

fn set(text: &str) -> Variables {
    let words = text.split_whitespace().filter_map(|word| word.split_once('='));
    words.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

const OURS: &str = "ANNULUS_RANK=1 ANNULUS_SIZE=4 ANNULUS_LOCAL_RANK=1 ANNULUS_LOCAL_SIZE=4";
const TORCHRUN: &str = "RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 GROUP_RANK=1 MASTER_ADDR=node03 MASTER_PORT=29500 \
                        TORCHELASTIC_RUN_ID=job7 TORCHELASTIC_RESTART_COUNT=0";
const SRUN: &str = "SLURM_PROCID=5 SLURM_NTASKS=7 SLURM_NPROCS=7 SLURM_LOCALID=1 SLURM_NODEID=1 SLURM_STEP_ID=0 SLURM_JOB_ID=4711 \
                    SLURM_STEP_NUM_TASKS=7 SLURM_TASKS_PER_NODE=4,3 SLURM_NODELIST=node[03-05,9]";
const OPEN_MPI: &str = "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=3 OMPI_COMM_WORLD_LOCAL_SIZE=4 \
                        OMPI_COMM_WORLD_NODE_RANK=3 OMPI_UNIVERSE_SIZE=2 PMIX_RANK=3 PMIX_NAMESPACE=2341076993";
const MPICH: &str =
    "HYDI_CONTROL_FD=7 MPI_LOCALNRANKS=2 MPI_LOCALRANKID=1 PMI_FD=11 PMI_HOSTNAME=vm PMI_RANK=1 PMI_SIZE=2";

fn told(launcher: Launcher, rank: usize, size: usize, local_rank: usize, local_size: usize) -> Launched {
    Launched { launcher, rank, size, local_rank, local_size }
}

#[test]
fn every_launcher_is_understood() {
    for (variables, want) in [
        (OURS, told(Launcher::Annulus, 1, 4, 1, 4)),
        (TORCHRUN, told(Launcher::Torchrun, 5, 8, 1, 4)),
        (SRUN, told(Launcher::Slurm, 5, 7, 1, 3)),
        (OPEN_MPI, told(Launcher::OpenMpi, 3, 4, 3, 4)),
        (MPICH, told(Launcher::Mpich, 1, 2, 1, 2)),
    ] {
        assert_eq!(launched(&set(variables)), Ok(Some(want)), "{variables}");
    }
    // The first complete one: ranks of torchrun in a task of Slurm, of annulus in both.
    let both = format!("{TORCHRUN} {SRUN}");
    assert_eq!(launched(&set(&both)).unwrap().unwrap().launcher, Launcher::Torchrun);
    assert_eq!(launched(&set(&format!("{both} {OURS}"))).unwrap().unwrap().launcher, Launcher::Annulus);
    // An incomplete one is passed over where another is complete.
    let stray = format!("RANK=0 {OPEN_MPI}");
    assert_eq!(launched(&set(&stray)).unwrap().unwrap().launcher, Launcher::OpenMpi);
}

#[test]
fn a_shell_is_no_rank() {
    for shell in [
        "",
        "HOME=/root MASTER_ADDR=node03 LOCAL_RANK=0",
        // `salloc`: with and without a step of its own for the shell; and a batch script.
        "SLURM_NTASKS=4 SLURM_JOB_ID=1 SLURM_NODELIST=a",
        "SLURM_NTASKS=4 SLURM_PROCID=0 SLURM_STEP_ID=4294967290 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_TASKS_PER_NODE=4",
        "SLURM_NTASKS=4 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_TASKS_PER_NODE=4",
        // A shell in a step of one task, in which somebody may call mpirun.
        "SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_STEP_ID=0",
        "OMPI_UNIVERSE_SIZE=4 PMIX_RANK=0",
        "RANK= WORLD_SIZE=",
    ] {
        assert_eq!(launched(&set(shell)), Ok(None), "{shell}");
    }
}

#[test]
fn ranks_of_mpirun_inherit_what_slurm_said_to_its_daemon() {
    // The daemon of the second node is task 1 of 2; its ranks are others.
    let daemon = "SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_STEP_ID=0 SLURM_LOCALID=0 SLURM_NODEID=1 SLURM_TASKS_PER_NODE=1(x2)";
    let rank = launched(&set(&format!("{daemon} {OPEN_MPI}"))).unwrap().unwrap();
    assert_eq!(rank, told(Launcher::OpenMpi, 3, 4, 3, 4));
    let rank = launched(&set(&format!("{daemon} PMI_RANK=4 PMI_SIZE=6 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=3")));
    assert_eq!(rank.unwrap().unwrap(), told(Launcher::Mpich, 4, 6, 1, 3));
    // With `srun --mpi=pmi2` they say the same.
    let same = format!("{SRUN} PMI_RANK=5 PMI_SIZE=7");
    assert_eq!(launched(&set(&same)).unwrap().unwrap().launcher, Launcher::Slurm);
}

#[test]
fn what_is_incomplete_or_contradicts_itself_names_the_variable() {
    for (variables, named) in [
        ("RANK=0", "RANK is set and WORLD_SIZE is not"),
        ("WORLD_SIZE=2", "WORLD_SIZE is set and RANK is not"),
        ("RANK=0 WORLD_SIZE=2 LOCAL_RANK=0", "LOCAL_WORLD_SIZE is not"),
        ("ANNULUS_RANK=0", "ANNULUS_SIZE is not"),
        ("PMI_RANK=0 PMI_SIZE=2", "MPI_LOCALRANKID is not"),
        ("OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_RANK is not"),
        ("SLURM_PROCID=0 SLURM_STEP_ID=0", "SLURM_NTASKS is not"),
        (
            "SLURM_PROCID=0 SLURM_STEP_ID=0 SLURM_NTASKS=2 SLURM_LOCALID=0 SLURM_TASKS_PER_NODE=2",
            "SLURM_NODEID is not",
        ),
        ("RANK=4 WORLD_SIZE=4 LOCAL_RANK=0 LOCAL_WORLD_SIZE=4", "RANK is 4 and WORLD_SIZE is 4"),
        ("RANK=0 WORLD_SIZE=0 LOCAL_RANK=0 LOCAL_WORLD_SIZE=0", "RANK is 0 and WORLD_SIZE is 0"),
        ("RANK=1 WORLD_SIZE=4 LOCAL_RANK=4 LOCAL_WORLD_SIZE=4", "LOCAL_RANK is 4 and LOCAL_WORLD_SIZE is 4"),
        ("RANK=1 WORLD_SIZE=4 LOCAL_RANK=4 LOCAL_WORLD_SIZE=8", "LOCAL_WORLD_SIZE is 8 and WORLD_SIZE is 4"),
        ("RANK=one WORLD_SIZE=4 LOCAL_RANK=0 LOCAL_WORLD_SIZE=4", "RANK is `one`: want a whole number"),
        ("RANK=-1 WORLD_SIZE=4 LOCAL_RANK=0 LOCAL_WORLD_SIZE=4", "RANK is `-1`"),
        ("RANK=+1 WORLD_SIZE=4 LOCAL_RANK=0 LOCAL_WORLD_SIZE=4", "RANK is `+1`"),
        ("RANK=1 WORLD_SIZE=99999999999999999999 LOCAL_RANK=0 LOCAL_WORLD_SIZE=4", "WORLD_SIZE is `9999"),
        (
            "RANK=1 WORLD_SIZE=5000 LOCAL_RANK=0 LOCAL_WORLD_SIZE=4",
            "WORLD_SIZE is `5000`: there are at most 4096",
        ),
        (
            "SLURM_PROCID=0 SLURM_STEP_ID=0 SLURM_NTASKS=4 SLURM_STEP_NUM_TASKS=2",
            "SLURM_NTASKS is 4 and SLURM_STEP_NUM_TASKS is 2",
        ),
        (
            "SLURM_PROCID=0 SLURM_STEP_ID=0 SLURM_NTASKS=4 SLURM_LOCALID=0 SLURM_NODEID=2 SLURM_TASKS_PER_NODE=2(x2)",
            "SLURM_TASKS_PER_NODE is `2(x2)`",
        ),
    ] {
        let error = launched(&set(variables)).unwrap_err();
        assert!(error.to_string().contains(named), "{variables}: {error}");
    }
}

fn meet(variables: &str) -> Result<Place, EnvironmentError> {
    let variables = set(variables);
    place(&variables, &launched(&variables).unwrap().unwrap())
}

#[test]
fn every_launcher_says_where_to_meet() {
    let at = |host: &str, port, last| Place { host: host.into(), port, last };
    // Behind the port of torchrun's store, never on it.
    assert_eq!(meet(TORCHRUN).unwrap(), at("node03", 29501, 29508));
    let last = meet(&TORCHRUN.replace("29500", "65535")).unwrap();
    assert_eq!(last, at("node03", 65527, 65534));
    // A host of Slurm, a port of its job: the same on every rank, and another in another step.
    let slurm = meet(SRUN).unwrap();
    let other_rank = SRUN
        .replace("PROCID=5", "PROCID=0")
        .replace("LOCALID=1", "LOCALID=0")
        .replace("NODEID=1", "NODEID=0");
    assert!(
        slurm.host == "node03" && (20_000..=29_992).contains(&slurm.port) && slurm.last == slurm.port + 7
    );
    assert_eq!(meet(&other_rank).unwrap(), slurm);
    assert_ne!(meet(&SRUN.replace("STEP_ID=0", "STEP_ID=1")).unwrap(), slurm);
    assert_eq!(
        meet(&format!("{SRUN} MASTER_ADDR=10.0.0.7")).unwrap(),
        at("10.0.0.7", slurm.port, slurm.last)
    );
    // All ranks on one host.
    assert_eq!(meet(OPEN_MPI).unwrap().host, "127.0.0.1");
    assert_eq!(meet(MPICH).unwrap().host, "127.0.0.1");
    // Whoever says it, says it to all.
    for base in [OURS, TORCHRUN, SRUN, OPEN_MPI, MPICH] {
        assert_eq!(meet(&format!("{base} ANNULUS_MEET=[::1]:4000-4003")).unwrap(), at("::1", 4000, 4003));
        assert_eq!(meet(&format!("{base} ANNULUS_MEET=here:4000")).unwrap().to_string(), "here:4000");
    }
    let apart = OPEN_MPI.replace("LOCAL_SIZE=4", "LOCAL_SIZE=2").replace("LOCAL_RANK=3", "LOCAL_RANK=1");
    assert_eq!(meet(&apart), Err(EnvironmentError::Nowhere { size: 4 }));
    for (more, named) in [
        ("ANNULUS_MEET=here", "ANNULUS_MEET is `here`"),
        ("ANNULUS_MEET=::1:4000", "ANNULUS_MEET"),
        ("ANNULUS_MEET=here:4003-4000", "ANNULUS_MEET"),
        ("ANNULUS_MEET=here:0", "ANNULUS_MEET"),
        ("ANNULUS_MEET=[::1:40", "ANNULUS_MEET"),
        ("ANNULUS_MEET=[here]:4000", "ANNULUS_MEET"),
        ("ANNULUS_MEET=[[::1]]:4000", "ANNULUS_MEET"),
        ("MASTER_ADDR=[a", "MASTER_ADDR is `[a`"),
        ("MASTER_ADDR=a MASTER_PORT=0", "MASTER_PORT is `0`"),
        ("MASTER_ADDR=a MASTER_PORT=70000", "MASTER_PORT is `70000`"),
    ] {
        let error = meet(&format!("{OURS} {more}")).unwrap_err();
        assert!(error.to_string().contains(named), "{more}: {error}");
    }
    assert!(
        meet(&SRUN.replace("node[03-05,9]", "node[a")).unwrap_err().to_string().contains("SLURM_NODELIST")
    );
}

#[test]
fn restarts_and_steps_are_jobs_of_their_own() {
    let name = |variables: &str| {
        let variables = set(variables);
        job(&variables, &launched(&variables).unwrap().unwrap())
    };
    assert_ne!(name(TORCHRUN), name(&TORCHRUN.replace("RESTART_COUNT=0", "RESTART_COUNT=1")));
    assert_ne!(name(SRUN), name(&SRUN.replace("STEP_ID=0", "STEP_ID=1")));
    assert_eq!(name(SRUN), name(&SRUN.replace("PROCID=5", "PROCID=4")));
}

#[test]
fn tokens_come_from_the_environment_or_a_file_of_the_owner_alone() {
    let long = "0123456789abcdef0123456789abcdef";
    let variables = |text: &str| set(&format!("{OURS} ANNULUS_MEET=127.0.0.1:4000 {text}"));
    let of = |text: &str| {
        let variables = variables(text);
        let launched = launched(&variables).unwrap().unwrap();
        Meeting::of(&variables, &launched).map(|m| m.token).map_err(|e| e.to_string())
    };
    assert_eq!(of(""), Ok(None));
    assert_eq!(of(&format!("ANNULUS_TOKEN={long}")), Ok(Some(Token::new(long).unwrap())));
    let short = of("ANNULUS_TOKEN=secret").unwrap_err();
    assert!(short.starts_with("ANNULUS_TOKEN: it has 6 bytes") && !short.contains("secret"), "{short}");
    assert_eq!(format!("{:?}", Token::new(long).unwrap()), "Token(…)");
    assert_ne!(Token::random().unwrap(), Token::random().unwrap());
    let folder = std::env::temp_dir().join(format!("annulus-token-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("token");
    std::fs::write(&file, format!("{long}\n")).unwrap();
    let named = format!("ANNULUS_TOKEN_FILE={}", file.display());
    #[cfg(unix)]
    for mode in [0o644, 0o640, 0o660, 0o400, 0o700, 0o600] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        match of(&named) {
            Ok(token) => assert!(mode == 0o600 && token == Some(Token::new(long).unwrap())),
            Err(why) => assert!(mode != 0o600 && why.contains(&format!("mode {mode:04o}")), "{why}"),
        }
    }
    assert!(of(&format!("{named} ANNULUS_TOKEN={long}")).unwrap_err().contains("ANNULUS_TOKEN is set too"));
    let gone = of(&format!("{named}.gone")).unwrap_err();
    assert!(gone.starts_with("ANNULUS_TOKEN_FILE: ") && gone.contains("token.gone"), "{gone}");
    assert!(of(&format!("ANNULUS_TOKEN_FILE={}", folder.display())).is_err());
    std::fs::remove_dir_all(&folder).unwrap();
}

fn names() -> Vec<String> {
    let all = [OURS, TORCHRUN, SRUN, OPEN_MPI, MPICH].map(set);
    let more = ["ANNULUS_MEET", "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE"].map(str::to_owned);
    all.into_iter().flat_map(|set| set.into_keys()).chain(more).collect()
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (0usize..9).prop_map(|n| n.to_string()),
        1 => any::<u64>().prop_map(|n| n.to_string()),
        1 => "[0-9(x),\\[\\]a-z:-]{0,20}",
        1 => any::<String>(),
    ]
}

proptest! {
    #[test]
    fn no_environment_panics(
        set in prop::collection::btree_map(prop::sample::select(names()), value(), 0..24),
    ) {
        if let Ok(Some(launched)) = launched(&set) {
            prop_assert!(launched.rank < launched.size && launched.local_rank < launched.local_size);
            if let Ok(place) = place(&set, &launched) {
                prop_assert!(place.port > 0 && place.port <= place.last);
            }
        }
    }

    #[test]
    fn no_place_panics_and_those_that_are_read_print_as_they_are_read(
        text in "\\[?[a:.\\[\\]-]{0,5}\\]?:[0-9]{1,5}(-[0-9]{1,5})?",
    ) {
        if let Some(place) = Place::parse(&text) {
            prop_assert_eq!(Place::parse(&place.to_string()), Some(place));
        }
    }
}
