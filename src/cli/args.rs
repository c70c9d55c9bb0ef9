//! The arguments of each command, with the text that `--help` prints.

use annulus::dump::stages::Pass;
use annulus::find::Numerics;
use annulus::layout::{LayoutKind, Progression};
use annulus::lower::Arch;
use annulus::ring::Strategy;
use annulus::schedule::SLOTS;
use annulus::shard::{Handed, Rowwise};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

const MODEL_HELP: &str = "\
MODEL is an .onnx file, a file in annulus's own text form (- reads one from standard input), or a folder in the ONNX test-case layout: \
model.onnx and test_data_set_0/{input,output}_N.pb. The inputs and expected outputs of a folder are taken unless --inputs and \
--expect name others.

The exit status is 0 if all went well, 1 if a comparison or a check failed or something was refused, 2 if the arguments are \
wrong or an input cannot be read, and 3 if annulus itself is at fault.";

const LAUNCH_HELP: &str = "\
COMMAND is a program with its arguments, or annulus's own arguments: a first word such as run or doctor is annulus's command of that name \
(a program of such a name is called by its path, as ./run).

Each rank finds in its environment which one it is (ANNULUS_RANK, ANNULUS_SIZE, ANNULUS_LOCAL_RANK, ANNULUS_LOCAL_SIZE), where ranks meet \
(ANNULUS_MEET) and a fresh secret that they prove to each other (ANNULUS_TOKEN, unless ANNULUS_TOKEN or ANNULUS_TOKEN_FILE is set already). \
Its standard input is empty. Every line that it prints comes out on the same stream behind its rank, as in [2] ...; a line of more than \
64 KiB comes in pieces.

The exit status is 0 if every rank's is 0. Else it is that of the first rank that failed, 128 and the number for a signal, and the others are \
ended: three seconds later they get SIGTERM, and SIGKILL after the grace time, and so does whatever they started. Ctrl-C, or any other end of this command, \
does the same. To see what a launcher told a rank:

    annulus launch -n 2 -- doctor

On several hosts use the launcher that is there: torchrun, srun, mpirun and mpiexec are understood, too.";

/// annulus splits long-context attention over the ranks of a GPU group: it finds the attentions of a model, rewrites each into chunks,
/// transfers and merges, schedules them, proves the schedule, and runs all ranks.
#[derive(Debug, Parser)]
#[command(
    name = "annulus",
    version,
    after_help = "\
Try it:  annulus find tests/models/llama --explain
         annulus run tests/models/llama --ranks 4
         annulus compile tests/models/llama --ranks 4 --rank 1 --emit graph
         annulus compile tests/models/llama --ranks 4 --emit schedule

`annulus COMMAND --help` explains the options of a command. The guide is `cargo doc --open`, module annulus::guide."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List every attention in normal form, and every near miss with its reason
    #[command(after_help = MODEL_HELP)]
    Find(Find),
    /// Evaluate the graph as it stands, on one rank, and compare with the expected outputs
    ///
    /// Without expected outputs it prints the type and the largest magnitude of each output, and says that nothing was compared. With --json, `compared` is
    /// then false, and each output has `dtype`, `shape`, `max_abs` of its finite elements and the number that are
    /// `not_finite`, while its errors and `within` are null.
    #[command(after_help = MODEL_HELP)]
    Eval(Eval),
    /// Find, split, rewrite, schedule and prove without running, and print the report or what --emit asks for
    #[command(after_help = MODEL_HELP)]
    Compile(Compile),
    /// Compile, run all ranks in this process, and compare with the expected outputs
    #[command(after_help = MODEL_HELP)]
    Run(Run),
    /// Parse a schedule of all ranks and prove it, or say what is wrong with it and where
    ///
    /// The checks: form (all numbers are in range), matching (sends and receives pair up), deadlock (every step runs), race (accesses to a
    /// byte have an order), filled (bytes hold what is read from them), coverage (every pair that the mask may keep is computed
    /// once), merge once (partial results of a row are one chain), memory (every byte of an arena is filled, no more of them than
    /// the strategy needs, and a ring has as many receive slots as the head says), sizes (counts fit 64 bits), labels (the layouts
    /// and the strategy are what the head calls them; rows that are called given are as they are stated). What else the head says,
    /// the scale and the mask say, is the attention that is proved to be computed.
    Check(Check),
    /// Put a model through the named passes and print the text that the last one gives
    #[command(after_help = MODEL_HELP)]
    Opt(Opt),
    /// Say which libraries and devices were found, where, and what to do about those that were not
    Doctor(Doctor),
    /// Start ranks of a command on this host, each a process that is told which rank it is
    #[command(after_help = LAUNCH_HELP)]
    Launch(Launch),
}

/// Which model, and what every command takes.
#[derive(Debug, Args)]
pub(crate) struct Model {
    /// The model: an .onnx file, a text graph, or a test-case folder
    pub(crate) model: PathBuf,
    /// Give a symbolic dimension of the model this size, as in sequence=4096; may be repeated
    #[arg(long = "dim", value_name = "NAME=N", value_parser = dim)]
    pub(crate) dims: Vec<(String, usize)>,
    /// Read the tensors that an ONNX model keeps in other files from this folder, instead of the model's own
    #[arg(long, value_name = "DIR")]
    pub(crate) external_data: Option<PathBuf>,
    /// Refuse a model with operators that annulus does not compute, instead of carrying them as opaque ones, which find and compile work
    /// around and eval and run refuse
    #[arg(long)]
    pub(crate) no_opaque: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Say on standard error what is being done, and how long it took (long work says so on a terminal anyway)
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Print without colour, as all output is so far
    #[arg(long)]
    pub(crate) no_color: bool,
}

/// Inputs, expected outputs and how near they must be.
#[derive(Debug, Args)]
pub(crate) struct Data {
    /// Read the inputs from the files input_N.pb of this folder, instead of the case's own
    #[arg(long, value_name = "DIR")]
    pub(crate) inputs: Option<PathBuf>,
    /// Read the expected outputs from the files output_N.pb of this folder, instead of the case's own
    #[arg(long, value_name = "DIR")]
    pub(crate) expect: Option<PathBuf>,
    /// Use this absolute tolerance instead of the manifest's; an output a is accepted if |a-b| <= atol + rtol*|b| for the expected b
    #[arg(long, value_name = "X", value_parser = tolerance, allow_negative_numbers = true)]
    pub(crate) atol: Option<f64>,
    /// Use this relative tolerance instead of the manifest's
    #[arg(long, value_name = "X", value_parser = tolerance, allow_negative_numbers = true)]
    pub(crate) rtol: Option<f64>,
}

/// Which rewritings are admitted.
#[derive(Debug, Args)]
pub(crate) struct Admit {
    /// Admit only these classes of rewriting, separated by commas: exact, reassociation, rounding, precision, domain.
    /// By default all of them are admitted; none changes a finite result beyond rounding, where no sum of exponentials over- or underflows
    #[arg(long, value_name = "C,...", value_delimiter = ',', value_parser = numerics)]
    pub(crate) numerics: Vec<Numerics>,
    /// Take the stored value of this input for a constant, such as an attention mask that is the same in every run; may be repeated.
    /// The result holds for that value alone, and run refuses any other
    #[arg(long = "bind", value_name = "INPUT")]
    pub(crate) bind: Vec<String>,
    /// Let every attention that has no dropout of its own drop this part of its weights, from 0 up to but not 1: exporters leave attention's
    /// dropout out. Which are dropped goes by their place and a seed, so that it is the same on any number of ranks
    #[arg(long, value_name = "PART")]
    pub(crate) dropout: Option<f64>,
    /// The seed of the first attention's dropout; each further one has the next
    #[arg(long, value_name = "N", default_value_t = 0, requires = "dropout", allow_negative_numbers = true)]
    pub(crate) dropout_seed: i64,
}

/// How to split.
#[derive(Debug, Args)]
pub(crate) struct Split {
    /// Split the sequence over this many ranks
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u32).range(1..=annulus::shard::MAX_RANKS as i64))]
    pub(crate) ranks: u32,
    /// How keys and queries meet: ring (keys and values go to the next rank), ring-reverse (to the one before), all-gather, all-gather-staged,
    /// queries (these travel, and partial results come home), heads (each rank gets all rows of its heads), or auto, which takes whatever
    /// needs the least time on the device
    #[arg(long, default_value = "auto", value_parser = strategy)]
    pub(crate) strategy: Choice<Strategy>,
    /// Which rows each rank owns: contiguous, zigzag, stripe, document (zigzag within each document that the masks keep apart), balanced (by
    /// the area of the masks), or auto, which takes whatever needs the least time on the device
    #[arg(long, default_value = "auto", value_parser = layout)]
    pub(crate) layout: Choice<LayoutKind>,
    /// Hand this input to the ranks by rows along this axis (from 0), and split what is computed from it as far as it goes.
    /// Inputs that are not named are handed over whole, but for caches that attentions read. With =ROWS the ranks have these
    /// rows already (what a report says of an earlier `present`, which is `past` now), as in past_k:2="0:3 9:1|3:3 10:1|6:3 11:1"
    #[arg(long, value_name = "INPUT:AXIS[=ROWS]", value_parser = input_axis)]
    pub(crate) shard: Vec<Handed>,
    /// Promise that this operator, which annulus does not compute, treats rows apart from one another, so that what it reads need not be
    /// gathered: entry i along AXIS of its results is made of the entries i along AXES of its operands, an axis for each operand, and -
    /// for one that it needs whole, as in com.microsoft::MoE=0,0:0. Nothing proves it: if it is false, so are the numbers
    #[arg(long, value_name = "OPERATOR=AXES:AXIS", value_parser = rowwise)]
    pub(crate) rowwise: Vec<Rowwise>,
    /// Estimate times for this device, and choose by them: h100x8, h200x8, h200x8x8, cpu, or a file like src/device/h200x8.toml. By default it
    /// is the smallest of h200x8 and h200x8x8 that holds P ranks
    #[arg(long, value_name = "FILE-or-NAME")]
    pub(crate) device: Option<PathBuf>,
    /// Let the ranks stand on N nodes, equally many on each, instead of on as many as the device says: queries and heads then travel along
    /// two levels, each with its own stream, so that rows cross once for a node, and links between nodes cost what the device says of its
    /// network. Without it they are taken as on one level where that is faster
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) nodes: Option<u32>,
    /// Refuse schedules whose working memory for one attention on a rank is larger than this; K, M and G are powers of 1024, as in 64K or 2G
    #[arg(long, value_name = "BYTES", value_parser = memory)]
    pub(crate) memory: Option<usize>,
    /// Give each rank of a ring this many receive slots, at least 2; more of them cost memory, and let ranks lag behind one another where
    /// work is uneven. No more are made than hops arrive
    #[arg(long, value_name = "N", default_value_t = SLOTS as u32, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) slots: u32,
    /// Let transfers hold N multiprocessors of a GPU while they are under way, a power of two, or 0 where copy engines move everything: with more
    /// of them transfers are faster, and the kernels beside them have less of the device. By default as many as take the least time
    #[arg(long, value_name = "N")]
    pub(crate) comm_sms: Option<u32>,
}

/// `auto`, or one that is named.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Choice<T> {
    Auto,
    This(T),
}

impl<T: Copy> Choice<T> {
    pub(crate) fn named(&self) -> Option<T> {
        match self {
            Choice::Auto => None,
            Choice::This(x) => Some(*x),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Find {
    #[command(flatten)]
    pub(crate) model: Model,
    #[command(flatten)]
    pub(crate) admit: Admit,
    /// Print the rules that led to each attention
    #[arg(long)]
    pub(crate) explain: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Eval {
    #[command(flatten)]
    pub(crate) model: Model,
    #[command(flatten)]
    pub(crate) data: Data,
}

/// An architecture by its name.
fn arch(name: &str) -> Result<Arch, String> {
    let names: Vec<&str> = Arch::ALL.iter().map(|a| a.name()).collect();
    let found = Arch::ALL.into_iter().find(|a| a.name() == name);
    found.ok_or_else(|| format!("there are kernels for {}", names.join(", ")))
}

#[derive(Debug, Args)]
pub(crate) struct Compile {
    #[command(flatten)]
    pub(crate) model: Model,
    #[command(flatten)]
    pub(crate) split: Split,
    #[command(flatten)]
    pub(crate) admit: Admit,
    /// Print the graph, or the device program, of this rank
    #[arg(long, default_value_t = 0)]
    pub(crate) rank: u32,
    /// Print this instead of the report; may be repeated with -o
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) emit: Vec<Emit>,
    /// Of what GPUs --emit cuda tells: sm_80, sm_86, sm_87, sm_88, sm_89, sm_90a, sm_100, sm_103, sm_110, sm_120 or sm_121
    #[arg(long, value_parser = arch, default_value = "sm_90a", value_name = "ARCH")]
    pub(crate) arch: Arch,
    /// Write the emitted files into this folder: graph.R.txt, schedule.txt, graph.R.dot, cuda.R.txt, timeline.svg and timeline.json
    /// (and timeline.1.svg, ... for further islands), report.txt
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Emit {
    /// The rank's rewritten graph as text
    Graph,
    /// The schedules of all ranks as text
    Schedule,
    /// The rank's rewritten graph as DOT
    Dot,
    /// The timeline of all ranks for ui.perfetto.dev
    Perfetto,
    /// The timeline of all ranks as a picture
    Svg,
    /// What the rank's GPU is told, an operation a line (launch, copy, record, wait, group), and the text of each kernel
    Cuda,
    /// What was found, split and proved
    Report,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) model: Model,
    #[command(flatten)]
    pub(crate) split: Split,
    #[command(flatten)]
    pub(crate) admit: Admit,
    #[command(flatten)]
    pub(crate) data: Data,
    /// Run on this
    #[arg(long, value_enum, default_value = "cpu")]
    pub(crate) backend: Backend,
    /// Run the steps in another legal order, chosen by this number, on the CPU; the result has the same bits
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Compile GPU kernels anew instead of taking them from the cache; the CPU has none
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// How ranks reach each other: in this process, or each in a process of its own. Each of as many processes as ranks, which a
    /// launcher starts, is then given the same command line; the first one prints
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) transport: Transport,
    /// Seconds that a rank waits for others, or for a GPU, without anything moving, before it gives up
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) patience: u64,
    /// Where a rank that fails leaves what it did last, for `annulus check --flight`; unless it is said, ranks that are processes leave it in a
    /// folder under the system's temporary one, which is named then
    #[arg(long, value_name = "DIR")]
    pub(crate) flight: Option<PathBuf>,
    /// Issue every run of an attention to the GPU step by step, instead of replaying the first one as a graph of CUDA
    #[arg(long)]
    pub(crate) no_graph: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// The CPU, with every rank in this process, or in one of its own (--transport)
    Cpu,
    /// GPUs of NVIDIA, one for every rank in this process, or one for each process (--transport): attentions there, the rest on the CPU
    Cuda,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// Where a launcher started several processes: nccl with --backend cuda, mpi otherwise; else local
    Auto,
    /// All ranks in this process
    Local,
    /// One rank in each process, on the CPU, over MPI: mpiexec -n P annulus run …
    Mpi,
    /// One rank in each process, each with a GPU, over NCCL: annulus launch, torchrun, srun or mpiexec
    Nccl,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// A file as `compile --emit schedule` prints it, or - for standard input
    #[arg(required_unless_present = "flight")]
    pub(crate) schedule: Option<PathBuf>,
    /// Say where the ranks of a failed run first went different ways, by the records that they left in this folder (`run --flight`)
    #[arg(long, value_name = "DIR", conflicts_with = "schedule")]
    pub(crate) flight: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Accepted for uniformity
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Print without colour, as all output is so far
    #[arg(long)]
    pub(crate) no_color: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Print every file that was found, and every folder that was searched
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Print without colour, as all output is so far
    #[arg(long)]
    pub(crate) no_color: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Launch {
    /// Start this many ranks
    #[arg(short = 'n', long = "ranks", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=annulus::shard::MAX_RANKS as i64))]
    pub(crate) ranks: u32,
    /// Give ranks that are ended this many seconds between SIGTERM and SIGKILL
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub(crate) grace: u32,
    /// The process that starts the ranks, which annulus starts itself
    #[arg(long, hide = true)]
    pub(crate) guarded: bool,
    /// What every rank runs, behind --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
    /// Accepted for uniformity
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Print without colour, as all output is so far
    #[arg(long)]
    pub(crate) no_color: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Opt {
    #[command(flatten)]
    pub(crate) model: Model,
    /// Run these passes in order, separated by commas: import, find, shard, ring, schedule, check. Each needs those before it, which run
    /// even if they are not named. A text graph may begin with a line `// opt ranks=4 rank=1 layout=zigzag strategy=ring`, which says
    /// how it is split; it may name device, nodes, slots and comm-sms too
    #[arg(long, value_name = "a,b,c", value_delimiter = ',', required = true, value_parser = stage)]
    pub(crate) passes: Vec<Pass>,
    #[command(flatten)]
    pub(crate) admit: Admit,
    /// Print constants exactly, not by their hash
    #[arg(long)]
    pub(crate) full: bool,
}

fn stage(text: &str) -> Result<Pass, String> {
    let names = Pass::ALL.map(Pass::name).join(", ");
    Pass::ALL.into_iter().find(|s| s.name() == text).ok_or_else(|| format!("want {names}"))
}

fn dim(text: &str) -> Result<(String, usize), String> {
    let (name, size) = text.split_once('=').ok_or("want NAME=N, such as sequence=4096")?;
    let size = size.parse().map_err(|_| format!("want a whole number after =, found {size}"))?;
    Ok((name.to_owned(), size))
}

fn memory(text: &str) -> Result<usize, String> {
    let units = [('K', 10), ('M', 20), ('G', 30)];
    let unit = units.into_iter().find(|(unit, _)| text.ends_with(*unit));
    let (digits, shift) = unit.map_or((text, 0), |(_, shift)| (&text[..text.len() - 1], shift));
    let bytes = digits.parse::<usize>().ok().and_then(|n| n.checked_mul(1 << shift));
    bytes.ok_or_else(|| "want a number of bytes, such as 65536 or 64K".into())
}

fn input_axis(text: &str) -> Result<Handed, String> {
    let numbers = |rows: &str| rows.chars().all(|c| c.is_ascii_digit() || ":| -".contains(c));
    // Names may hold signs of equality themselves.
    let (named, rows) = match text.rsplit_once('=').filter(|(_, rows)| numbers(rows)) {
        Some((named, rows)) => (named, Some(rows_of(rows)?)),
        None => (text, None),
    };
    // Names may hold colons themselves.
    let (name, axis) = named.rsplit_once(':').ok_or("want INPUT:AXIS, such as hidden:1")?;
    let axis = axis
        .parse()
        .map_err(|_| format!("want the number of an axis, from 0, after the colon, found {axis}"))?;
    Ok(Handed::new(name, axis).rows(rows))
}

fn rowwise(text: &str) -> Result<Rowwise, String> {
    let want = "want OPERATOR=AXES:AXIS, such as com.microsoft::MoE=0,0:0";
    let number = |text: &str| {
        text.parse().map_err(|_| format!("want the number of an axis, from 0, or -, found {text}; {want}"))
    };
    let (operator, axes) = text.rsplit_once('=').ok_or(want)?;
    let (operands, result) = axes.split_once(':').ok_or(want)?;
    let axis = |text: &str| if text == "-" { Ok(None) } else { number(text).map(Some) };
    let operands = operands.split(',').map(axis).collect::<Result<Vec<Option<usize>>, String>>()?;
    Ok(Rowwise::new(operator, operands, number(result)?))
}

/// The rows of every rank as listings print them: `0:3 9:1|3:3 10:1`.
fn rows_of(text: &str) -> Result<Vec<Vec<Progression>>, String> {
    let progression = |word: &str| {
        let numbers = word.split(':').map(str::parse).collect::<Result<Vec<usize>, _>>();
        match numbers.as_deref() {
            Ok(&[start, len]) => Ok(Progression::range(start, len)),
            Ok(&[start, len, step]) if step > 0 => Ok(Progression { start, len, step }),
            _ => Err(format!("{word}: want rows as start:length or start:length:step")),
        }
    };
    let rank = |rank: &str| rank.split_whitespace().filter(|w| *w != "-").map(progression).collect();
    text.split('|').map(rank).collect()
}

fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x >= 0.0 && x.is_finite() => Ok(x),
        _ => Err("want a finite number that is not negative".into()),
    }
}

fn numerics(text: &str) -> Result<Numerics, String> {
    Numerics::ALL
        .into_iter()
        .find(|n| n.name() == text)
        .ok_or_else(|| format!("want one of {}", Numerics::ALL.map(Numerics::name).join(", ")))
}

pub(crate) fn strategy(text: &str) -> Result<Choice<Strategy>, String> {
    if text == "auto" {
        return Ok(Choice::Auto);
    }
    let names = Strategy::ALL.map(Strategy::name).join(", ");
    Strategy::from_name(text).map(Choice::This).ok_or_else(|| format!("want auto, {names}"))
}

pub(crate) fn layout(text: &str) -> Result<Choice<LayoutKind>, String> {
    if text == "auto" {
        return Ok(Choice::Auto);
    }
    let names = LayoutKind::ALL.map(LayoutKind::name).join(", ");
    LayoutKind::ALL
        .into_iter()
        .find(|k| k.name() == text)
        .map(Choice::This)
        .ok_or_else(|| format!("want auto, {names}"))
}
