//! Ranks that are processes: this program again, told by the variables of `annulus launch` which rank it is. One is killed, stopped, or ends;
//! all others say so within a second, and by name.

use super::place;
use annulus::exec::group::{Fault, Meeting, Token, launched, names, variables};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// How a rank of these tests ends.
const ROLE: &str = "ANNULUS_TEST_GROUP";
/// It is stopped, or dead, when it gave no sign for so long.
const SILENCE: Duration = Duration::from_millis(500);
/// By then all others know.
const KNOWN: Duration = Duration::from_secs(1);
/// More than anything takes.
const LONG: Duration = Duration::from_secs(30);

#[test]
#[ignore = "other tests run it, as ranks"]
fn a_rank() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let variables = variables();
    let mut meeting = Meeting::of(&variables, &launched(&variables).unwrap().unwrap()).unwrap();
    (meeting.patience, meeting.silence) = (LONG, SILENCE);
    let mut group = meeting.meet().unwrap();
    group.barrier(LONG).unwrap();
    println!("met");
    match role.as_str() {
        "drop" => return,
        "exit" => std::process::exit(0),
        "leave" => return group.leave(LONG).unwrap(),
        _ => {}
    }
    let until = Instant::now() + LONG;
    while Instant::now() < until {
        if let Err(fault) = group.poll() {
            let shown = match fault {
                Fault::Died { rank, .. } => format!("died {rank}"),
                Fault::Left { rank } => format!("left {rank}"),
                other => other.to_string(),
            };
            println!("fault {shown}");
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Ranks, each with what it says and when.
struct Job {
    ranks: Vec<Child>,
    said: Receiver<(usize, String, Instant)>,
    /// What was said and not yet asked for.
    kept: Vec<(usize, String, Instant)>,
}

impl Job {
    fn start(roles: &[&str]) -> Job {
        let (place, token) = (place(), Token::random().unwrap());
        let (tell, said) = mpsc::channel();
        let ranks = roles.iter().enumerate().map(|(rank, role)| {
            let mut program = Command::new(std::env::current_exe().unwrap());
            program.args(["--exact", "inside::group::processes::a_rank", "--ignored", "--nocapture"]);
            for (name, value) in [
                (names::RANK, rank),
                (names::SIZE, roles.len()),
                (names::LOCAL_RANK, rank),
                (names::LOCAL_SIZE, roles.len()),
            ] {
                program.env(name, value.to_string());
            }
            program
                .env(names::MEET, place.to_string())
                .env("ANNULUS_TOKEN", token.text().unwrap())
                .env(ROLE, role);
            let mut child = program.stdout(Stdio::piped()).spawn().unwrap();
            let (out, tell) = (BufReader::new(child.stdout.take().unwrap()), tell.clone());
            thread::spawn(move || {
                for line in out.lines().map_while(Result::ok) {
                    // The harness writes the name of the test before what it says.
                    let line = line.rsplit(" ... ").next().unwrap_or_default().to_owned();
                    if line == "met" || line.starts_with("fault ") {
                        let _ = tell.send((rank, line, Instant::now()));
                    }
                }
            });
            child
        });
        Job { ranks: ranks.collect(), said, kept: vec![] }
    }

    /// Waits until so many ranks have said it; each with its words and when.
    fn hear(&mut self, how_many: usize, word: &str) -> Vec<(usize, String, Instant)> {
        while self.kept.iter().filter(|(_, line, _)| line.starts_with(word)).count() < how_many {
            self.kept.push(self.said.recv_timeout(LONG).expect("they say it"));
        }
        self.kept.extract_if(.., |(_, line, _)| line.starts_with(word)).collect()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        for rank in &mut self.ranks {
            let _ = rank.kill();
            let _ = rank.wait();
        }
    }
}

fn all_know(size: usize, who: usize, how: &str) {
    let mut roles = vec!["stay"; size];
    if matches!(how, "drop" | "exit") {
        roles[who] = how;
    }
    let mut job = Job::start(&roles);
    let met = job.hear(size, "met");
    let start = match how {
        "kill" => {
            job.ranks[who].kill().unwrap();
            Instant::now()
        }
        "stop" => {
            let pid = job.ranks[who].id().to_string();
            assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
            Instant::now()
        }
        _ => met.iter().find(|(rank, ..)| *rank == who).unwrap().2,
    };
    let want = format!("fault {} {who}", if how == "drop" { "left" } else { "died" });
    for (rank, line, at) in job.hear(size - 1, "fault") {
        assert_eq!(line, want, "rank {rank} of {size}");
        let took = at.saturating_duration_since(start);
        assert!(took < KNOWN, "rank {rank} of {size} knew that rank {who} is gone ({how}) after {took:?}");
    }
}

#[test]
fn a_rank_that_is_killed_is_known_to_all_others() {
    for size in [2, 3, 4, 8] {
        all_know(size, size - 1, "kill");
        all_know(size, 0, "kill");
    }
}

#[test]
fn a_rank_that_is_stopped_is_known_to_all_others() {
    thread::scope(|s| {
        for (size, who) in [(2, 1), (3, 1), (4, 0), (8, 4)] {
            s.spawn(move || all_know(size, who, "stop"));
        }
    });
}

#[test]
fn a_rank_that_ends_or_leaves_early_is_known_to_all_others() {
    for size in [2, 3, 4, 8] {
        all_know(size, size - 1, "exit");
        all_know(size, 0, "drop");
    }
}

#[test]
fn ranks_that_leave_together_end_well() {
    for size in [2, 3, 4, 8] {
        let mut job = Job::start(&vec!["leave"; size]);
        for rank in &mut job.ranks {
            assert!(rank.wait().unwrap().success());
        }
    }
}
