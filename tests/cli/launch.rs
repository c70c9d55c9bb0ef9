//! `annulus launch`: ranks on this host, what they print, how they end, and that nothing of them stays.

use super::annulus;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// More than anything here takes.
const LONG: Duration = Duration::from_secs(30);

fn launch(n: &str, command: &[&str]) -> Output {
    annulus(&[&["launch", "-n", n, "--grace", "1", "--"][..], command].concat())
}

fn lines(bytes: &[u8]) -> BTreeSet<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

#[test]
fn lines_begin_with_the_rank_on_the_stream_on_which_they_came() {
    let script = "echo $ANNULUS_RANK of $ANNULUS_SIZE, $ANNULUS_LOCAL_RANK of $ANNULUS_LOCAL_SIZE; echo no >&2; printf end";
    let out = launch("3", &["sh", "-c", script]);
    assert_eq!(out.status.code(), Some(0));
    let want = (0..3).flat_map(|r| [format!("[{r}] {r} of 3, {r} of 3"), format!("[{r}] end")]);
    assert_eq!(lines(&out.stdout), want.collect());
    assert_eq!(lines(&out.stderr), (0..3).map(|r| format!("[{r}] no")).collect());
    // Bytes as they are, and a line without an end.
    let out =
        launch("1", &["sh", "-c", "printf 'a\\377b\\033[31m\\n'; head -c 300000 /dev/zero | tr '\\0' x"]);
    assert!(out.stdout.starts_with(b"[0] a\xffb\x1b[31m\n[0] xxx"));
    assert_eq!(out.stdout.iter().filter(|b| **b == b'x').count(), 300_000);
}

#[test]
fn ranks_share_a_secret_and_a_place_that_nobody_else_is_told() {
    let both = "echo $ANNULUS_TOKEN $ANNULUS_MEET";
    let said = |out: &Output| -> BTreeSet<String> {
        assert_eq!(out.status.code(), Some(0));
        lines(&out.stdout)
            .iter()
            .filter_map(|l| l.split_once("] "))
            .map(|(_, said)| said.to_owned())
            .collect()
    };
    let [first, second] = [(); 2].map(|()| said(&launch("3", &["sh", "-c", both])));
    assert!(first.len() == 1 && second.len() == 1 && first != second, "{first:?} {second:?}");
    let line = first.first().unwrap();
    let (token, meet) = line.split_once(' ').unwrap();
    assert!(token.len() == 64 && token.bytes().all(|b| b.is_ascii_hexdigit()), "{line}");
    assert!(meet.starts_with("127.0.0.1:"), "{line}");
    // One that is given stays, and one that is none is refused.
    let given = "0123456789abcdef0123456789abcdef";
    let with = |token: &str| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_annulus"));
        program
            .args(["launch", "-n", "2", "--", "sh", "-c", "echo $ANNULUS_TOKEN"])
            .env("ANNULUS_TOKEN", token);
        program.output().unwrap()
    };
    assert_eq!(said(&with(given)), [given.to_owned()].into());
    let short = with("short");
    assert_eq!(short.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&short.stderr).contains("ANNULUS_TOKEN: it has 5 bytes"));
}

#[test]
fn a_command_of_annulus_needs_no_path() {
    let out = launch("2", &["doctor"]);
    assert_eq!(out.status.code(), Some(0));
    for rank in 0..2 {
        let says = format!(
            "[{rank}] ranks     rank {rank} of 2, rank {rank} of 2 on this host, as annulus launch says (ANNULUS_RANK, "
        );
        let line = lines(&out.stdout).into_iter().find(|l| l.starts_with(&says));
        assert!(line.is_some_and(|l| l.contains("; they meet at 127.0.0.1:") && l.ends_with("and a token is set")));
    }
    let run = launch("2", &["run", "tests/models/llama", "--ranks", "2", "--transport", "local"]);
    assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
    // On the CPU nothing but MPI carries messages between them.
    let alone = launch("2", &["run", "tests/models/llama", "--ranks", "2"]);
    assert_eq!(alone.status.code(), Some(2));
    let said = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert!(
        said.contains("start them with mpiexec, say --backend cuda for a GPU each, or --transport local"),
        "{said}"
    );
    // Their exit status is the launcher's.
    let wrong = launch("2", &["run", "no such model", "--ranks", "2"]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn the_first_failure_is_the_status_and_ends_the_others() {
    let start = Instant::now();
    let one = "[ $ANNULUS_RANK = 1 ] && exit 7; sleep 60";
    let out = launch("3", &["sh", "-c", one]);
    assert_eq!(out.status.code(), Some(7));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("annulus: rank 1 ended with status 7; the others are ended"), "{said}");
    // One that is killed; and others that do not listen to SIGTERM, one of them stopped.
    let killed = "case $ANNULUS_RANK in 0) trap '' TERM; while :; do sleep 0.05; done;; 1) sleep 0.2; kill -KILL $$;; *) kill -STOP $$;; esac";
    let out = launch("3", &["sh", "-c", killed]);
    assert_eq!(out.status.code(), Some(128 + 9));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("rank 1 ended with status 137 (signal 9)"), "{said}");
    assert!(start.elapsed() < LONG);
}

#[test]
fn what_cannot_be_started_is_named() {
    let out = launch("2", &["no-such-program-of-anybody"]);
    assert_eq!(out.status.code(), Some(2));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("rank 0 cannot be started: no-such-program-of-anybody: "), "{said}");
    for args in [&["launch", "-n", "0", "--", "true"][..], &["launch", "--", "true"], &["launch", "-n", "2"]]
    {
        assert_eq!(annulus(args).status.code(), Some(2), "{args:?}");
    }
}

/// A folder in which every rank of a script leaves the number of its process and of one that it started.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("launch").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Ranks that leave their numbers there, and stay.
fn staying(folder: &Path, n: usize) -> (Child, Vec<u32>) {
    let script = "trap '' INT HUP; sleep 100 & echo $! > $PLACE/$ANNULUS_RANK.child.part; echo $$ > $PLACE/$ANNULUS_RANK.part; \
                  mv $PLACE/$ANNULUS_RANK.child.part $PLACE/$ANNULUS_RANK.child; mv $PLACE/$ANNULUS_RANK.part $PLACE/$ANNULUS_RANK; wait";
    let mut program = Command::new(env!("CARGO_BIN_EXE_annulus"));
    program.args(["launch", "-n", &n.to_string(), "--grace", "1", "--", "sh", "-c", script]);
    let child = program.env("PLACE", folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let until = Instant::now() + LONG;
    let names = (0..n).flat_map(|r| [r.to_string(), format!("{r}.child")]);
    let pids = names.map(|name| {
        loop {
            if let Some(pid) = fs::read_to_string(folder.join(&name)).ok().and_then(|t| t.trim().parse().ok())
            {
                break pid;
            }
            assert!(Instant::now() < until, "{name} is not there");
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    (child, pids.collect())
}

/// Whether the process is there and no zombie.
fn lives(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn all_end(pids: &[u32]) {
    let until = Instant::now() + LONG;
    while let Some(pid) = pids.iter().find(|pid| lives(**pid)) {
        assert!(Instant::now() < until, "process {pid} is left behind");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn however_the_launcher_ends_nothing_stays() {
    for (signal, code) in [("INT", None), ("TERM", None), ("KILL", None)] {
        let (mut child, pids) = staying(&folder(signal), 2);
        assert!(pids.iter().all(|pid| lives(*pid)));
        assert!(
            Command::new("kill")
                .args([format!("-{signal}"), child.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(child.wait().unwrap().code(), code);
        all_end(&pids);
    }
}

#[test]
fn the_guard_may_be_killed_too() {
    let (mut child, pids) = staying(&folder("guard"), 2);
    // The parent of a rank.
    let stat = fs::read_to_string(format!("/proc/{}/stat", pids[0])).unwrap();
    let guard = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().to_owned();
    assert_ne!(guard, child.id().to_string());
    assert!(Command::new("kill").args(["-KILL", &guard]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(128 + 9));
    all_end(&pids);
}

#[test]
fn what_a_rank_leaves_running_ends_with_the_job() {
    let folder = folder("left");
    let script = "sleep 100 & echo $! > $PLACE/$ANNULUS_RANK";
    let mut program = Command::new(env!("CARGO_BIN_EXE_annulus"));
    program.args(["launch", "-n", "2", "--", "sh", "-c", script]).env("PLACE", &folder);
    let start = Instant::now();
    assert_eq!(program.output().unwrap().status.code(), Some(0));
    let pids =
        [0, 1].map(|r| fs::read_to_string(folder.join(r.to_string())).unwrap().trim().parse().unwrap());
    all_end(&pids);
    assert!(start.elapsed() < LONG);
}
