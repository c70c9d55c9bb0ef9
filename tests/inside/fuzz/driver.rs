//! Runs one fuzz target for a while: takes an input, changes it, and sees that it ends, in time, in memory, without a panic.
//!
//! Each target has its number of inputs; `ANNULUS_FUZZ_SECONDS` is a time in its place. `ANNULUS_FUZZ_SEED` the start of the random numbers (0), so
//! that two runs with one seed see the same inputs in the same order. `ANNULUS_FUZZ_REPLAY=FILE` runs that one input. Every
//! input is on disk before it runs: one that overflows the stack takes the process with it.
//!
//! An input whose outcome was not seen before joins the corpus, so that changes build on one another.

use crate::inside::support::clock::processor_time;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The stack that every input must do with.
const STACK: usize = 2 << 20;

/// Processor time of one input. A build that is not optimised is given more.
const LIMIT: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 2 });

/// After this long an input counts as one that never ends.
const HANG: Duration = Duration::from_secs(60);

/// Address space that the process may ask for, above what it had: memory that is claimed counts even if it is never touched.
const MEMORY: u64 = 2 << 30;

/// Most inputs that are kept.
const CORPUS: usize = 4096;

/// Random numbers, the same on every machine.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 if that is 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }

    pub(crate) fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Makes an input of the first, and of others of the corpus.
pub(crate) type Mutate = fn(&mut Rng, &[u8], &[Vec<u8>]) -> Vec<u8>;

/// What is fuzzed.
pub(crate) struct Target {
    /// The name of its test, and of the file with the input.
    pub(crate) name: &'static str,
    /// Inputs to begin with.
    pub(crate) seeds: Vec<Vec<u8>>,
    /// How many inputs are run where the environment names no time.
    pub(crate) inputs: usize,
    /// Changes an input.
    pub(crate) mutate: Mutate,
    /// Runs an input; gives a word for what came of it. Panics if that is wrong.
    pub(crate) run: fn(&[u8]) -> String,
}

/// One after the other: what is measured of the process is the input's.
static ONE: Mutex<()> = Mutex::new(());

/// Fuzzes as many inputs as the target says, or for as long as the environment does.
pub(crate) fn fuzz(target: &Target) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    if let Some(path) = std::env::var_os("ANNULUS_FUZZ_REPLAY") {
        let input = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", PathBuf::from(&path).display()));
        let done = Runs::new(target).run(&input);
        say(&format!("fuzz {}: {}", target.name, done.unwrap_or_else(|why| panic!("{why}"))));
        return;
    }
    let time = number("ANNULUS_FUZZ_SECONDS").map(Duration::from_secs);
    let seed = number("ANNULUS_FUZZ_SEED").unwrap_or(0);
    let mut rng = Rng::new(seed);
    let mut corpus: Vec<Vec<u8>> = vec![];
    let mut seen = HashSet::new();
    let mut runs = Runs::new(target);
    let start = Instant::now();
    let mut count = 0usize;
    let mut waiting = target.seeds.clone();
    waiting.reverse();
    while !waiting.is_empty() || time.map_or(count < target.inputs, |time| start.elapsed() < time) {
        let is_seed = !waiting.is_empty();
        let input = waiting.pop().unwrap_or_else(|| {
            let mut input = rng.pick(&corpus).clone();
            for _ in 0..=rng.below(3) {
                input = (target.mutate)(&mut rng, &input, &corpus);
            }
            input
        });
        let outcome = runs.run(&input).unwrap_or_else(|why| {
            panic!(
                "fuzz {}: {why}\n  input {count} of seed {seed} is in {path}\n  run it again: ANNULUS_FUZZ_REPLAY={path} cargo test {}",
                target.name,
                target.name,
                path = runs.path.display(),
            )
        });
        count += 1;
        if is_seed || (corpus.len() < CORPUS && seen.insert(outcome)) {
            corpus.push(input);
        }
    }
    let _ = fs::remove_file(&runs.path);
    let kinds = seen.len();
    say(&format!(
        "fuzz {}: {count} inputs in {:.1} s, {kinds} kinds of outcome, seed {seed}",
        target.name,
        start.elapsed().as_secs_f64()
    ));
}

/// A line to whoever watches, past the capture of the tests' output.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A thread that runs inputs, and the file that holds the one under way.
struct Runs {
    path: PathBuf,
    file: File,
    jobs: std::sync::mpsc::Sender<Vec<u8>>,
    results: std::sync::mpsc::Receiver<(Result<String, String>, Duration)>,
    claimed: u64,
}

impl Runs {
    fn new(target: &Target) -> Runs {
        let folder = std::env::temp_dir();
        let path = folder.join(format!("annulus-fuzz-{}-{}.input", target.name, std::process::id()));
        let file = File::create(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (jobs, taken) = channel::<Vec<u8>>();
        let (done, results) = channel();
        let run = target.run;
        let work = move || {
            while let Ok(input) = taken.recv() {
                let before = processor_time();
                let result = catch_unwind(AssertUnwindSafe(|| run(&input))).map_err(|panic| {
                    let text = panic.downcast_ref::<String>().cloned();
                    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
                });
                if done.send((result, processor_time().saturating_sub(before))).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().stack_size(STACK).spawn(work).expect("a thread");
        Runs { path, file, jobs, results, claimed: claimed() }
    }

    fn run(&mut self, input: &[u8]) -> Result<String, String> {
        let kept = self.file.rewind().and_then(|()| self.file.write_all(input));
        kept.and_then(|()| self.file.set_len(input.len() as u64))
            .map_err(|e| format!("the input's file: {e}"))?;
        self.jobs.send(input.to_vec()).map_err(|_| "the thread has ended".to_owned())?;
        match self.results.recv_timeout(HANG) {
            Ok((Err(why), _)) => Err(format!("it panics: {why}")),
            Ok((_, time)) if time > LIMIT => Err(format!("it takes {time:?} of processor time")),
            Ok(_) if claimed() > self.claimed + MEMORY => {
                Err(format!("it claims {} MiB of memory", (claimed() - self.claimed) >> 20))
            }
            Ok((outcome, _)) => outcome,
            Err(RecvTimeoutError::Timeout) => Err(format!("it does not end in {HANG:?}")),
            Err(RecvTimeoutError::Disconnected) => Err("the thread has ended".into()),
        }
    }
}

/// The most address space that the process has had, where the system tells.
fn claimed() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmPeak:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// An error without its numbers, names and places, so that two of a kind are one word.
pub(crate) fn kind(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let mut quoted = false;
    let mut out = String::new();
    for word in first.split(' ') {
        let names = word.contains(|c: char| c.is_ascii_digit() || "%\"_[]<>".contains(c));
        quoted ^= word.matches('"').count() % 2 == 1;
        if !names && !quoted {
            out.push_str(word);
            out.push(' ');
        }
    }
    out.truncate(out.char_indices().nth(80).map_or(out.len(), |(i, _)| i));
    out
}
