//! What a rank did last, as plain data.

/// Of what a rank failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Of something of its own.
    Own,
    /// It waited in vain.
    Waited,
    /// Another rank is gone, or gave up.
    Others,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 3] = [Cause::Own, Cause::Waited, Cause::Others];

    /// The word in text.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Own => "own",
            Cause::Waited => "waited",
            Cause::Others => "others",
        }
    }
}

/// How far a rank has come with a group of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It has not come to it.
    Before,
    /// It waits for the other ranks.
    Waits,
    /// It is through, as far as this rank knows.
    Through,
}

impl State {
    /// All of them.
    pub const ALL: [State; 3] = [State::Before, State::Waits, State::Through];

    /// The word in text.
    pub fn name(self) -> &'static str {
        match self {
            State::Before => "before",
            State::Waits => "waits",
            State::Through => "through",
        }
    }
}

/// A group of messages of a rank's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number, the same on every rank that takes part.
    pub number: usize,
    /// The step of the schedule.
    pub step: usize,
    /// How far the rank is with it.
    pub state: State,
    /// To which ranks how many bytes go.
    pub sends: Vec<(usize, usize)>,
    /// From which ranks how many come.
    pub recvs: Vec<(usize, usize)>,
}

/// What happened to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// A group was begun.
    Posted,
    /// It was told the device, or a group was through.
    Issued,
}

impl Happened {
    /// All of them.
    pub const ALL: [Happened; 2] = [Happened::Posted, Happened::Issued];

    /// The word in text.
    pub fn name(self) -> &'static str {
        match self {
            Happened::Posted => "posted",
            Happened::Issued => "issued",
        }
    }
}

/// One of the last operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Microseconds since the program began.
    pub micros: u64,
    /// The operation's number in the program.
    pub op: usize,
    /// Its step.
    pub step: usize,
    /// What it does, a word.
    pub action: String,
    /// What happened to it.
    pub happened: Happened,
}

/// What a rank did last, and what it failed of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The version of annulus.
    pub version: String,
    /// Name of the island.
    pub island: String,
    /// The rank.
    pub rank: usize,
    /// Of how many.
    pub ranks: usize,
    /// What it failed of, in words.
    pub error: String,
    /// And whose it is.
    pub cause: Cause,
    /// Whether every operation was issued, so that what it failed of is the device's, or another rank's.
    pub issued: bool,
    /// How many groups of the program stand before those that are listed.
    pub left_out: usize,
    /// Its groups, in the order of the program: all of them, or the last ones.
    pub groups: Vec<Group>,
    /// Its last operations, the oldest first.
    pub notes: Vec<Note>,
}
