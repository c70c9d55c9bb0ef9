//! labels: layouts and strategy are what the head calls them.
//!
//! Names of layouts are proved by their closed forms ([`layouts`](super::layouts)). What a strategy's name says:
//!
//! | strategy | what travels, and how |
//! |---|---|
//! | `ring` | hops, each a `sendrecv` of its own: to the next rank and from the one before, the last with the first; a message holds keys and values of one rank, and what a rank receives comes from ever farther back |
//! | `ring-reverse` | the same the other way round |
//! | `all-gather` | one `all_gather`, group 1: a rank sends its own keys and values, the same amount to every other rank, or nothing to any |
//! | `all-gather-staged` | up to four, groups 1 to 4: of the rows that a rank sends, n in all, stage g has those from ⌊(g−1)n/4⌋ up to ⌊gn/4⌋ |
//! | `queries` | an `all_to_all`, group 1, of own queries and the leaves that go with them; a `reduce_scatter`, group 2, of partial results, each to the rank that owns the rows |
//! | `heads` | each an `all_to_all`: in groups of odd numbers of own queries, leaves, keys and values; in those of even numbers of results, each to the rank that owns the rows |
//!
//! On a mesh of two axes what goes to a rank that differs along both goes by the one of its node that stands as the sender does, or comes
//! home by the one of the sender's node that stands as the receiver does (its *deputy*):
//!
//! | strategy | along the inner axis | along the outer axis |
//! |---|---|---|
//! | `queries` | group 1 own queries, group 3 queries of ranks whose deputy the sender is (both `all_to_all`); group 4 partial results for the receiver, or for ranks whose deputy it is (`reduce_scatter`) | group 2 own queries (`all_to_all`); group 5 partial results for the receiver (`reduce_scatter`) |
//! | `heads` | of groups 4n + 1 to 4n + 4 the second: rows of the sender and of those whose deputy it is; the third: results for the receiver and for those whose deputy it is | the first: own rows; the fourth: results for the receiver |
//!
//! The form of each step is asked here; [`Travel`] asks whose keys a message holds while the steps run. Between two ranks a
//! ring is one in both directions, and without a message all strategies are one: then the names are all true. A rank may
//! keep keys at home that no other needs, and a hop may carry nothing: `coverage` shows that nobody misses them.

use super::bytes::{kv_bytes, message_bytes};
use super::layouts;
use super::levels::{deputised, two_axes};
use super::log::Log;
use super::memory::What;
use super::rows::Owned;
use crate::ir::Strategy;
use crate::layout::Progression;
use crate::schedule::{AttentionFacts, Block, ExchangeKind, Port, Schedule, Step, StepOp, Transfer};

/// Stages of a staged all-gather.
const STAGES: usize = 4;

/// The names of the layouts, and the form of each step.
pub(super) fn labels(schedule: &Schedule, log: &mut Log<'_>) {
    layouts::layouts(schedule, log);
    let strategy = schedule.strategy;
    log.each_rank(|r, log| {
        let steps = &schedule.ranks[r].steps;
        let exchanges =
            || steps.iter().enumerate().filter_map(|(i, s)| Exchange::of(s).map(|exchange| (i, exchange)));
        let sent: u128 = exchanges().map(|(_, e)| e.to_each(&schedule.attention)).sum();
        let rank = Rank { schedule, r, sent };
        for (i, exchange) in exchanges() {
            let Some(why) = rank.misfit(strategy, &exchange) else {
                log.fact();
                continue;
            };
            log.fail(r, i, || {
                let fits = |s: &Strategy| rank.misfit(*s, &exchange).is_none();
                let fits: Vec<&str> = Strategy::ALL.into_iter().filter(fits).map(Strategy::name).collect();
                let fits = if fits.is_empty() {
                    "a step of no strategy".to_owned()
                } else {
                    format!("a step of {}", fits.join(" or "))
                };
                format!("{why}: it is {fits}, and the head says {strategy}")
            });
        }
    });
}

/// The fields of an exchange.
struct Exchange<'a> {
    lane: usize,
    group: usize,
    kind: ExchangeKind,
    sends: &'a [Transfer],
    recvs: &'a [Transfer],
}

impl<'a> Exchange<'a> {
    fn of(step: &'a Step) -> Option<Exchange<'a>> {
        match &step.op {
            StepOp::Exchange { group, kind, sends, recvs, .. } => {
                Some(Exchange { lane: step.stream.lane(), group: *group, kind: *kind, sends, recvs })
            }
            _ => None,
        }
    }

    /// What the first of those who are sent anything gets.
    fn to_each(&self, a: &AttentionFacts) -> u128 {
        self.sends.first().map_or(0, |t| bytes(a, t))
    }
}

fn bytes(a: &AttentionFacts, t: &Transfer) -> u128 {
    message_bytes(a, t).unwrap_or(usize::MAX) as u128
}

/// A rank, and how many bytes it sends to each other rank where it sends the same to all.
struct Rank<'a> {
    schedule: &'a Schedule,
    r: usize,
    sent: u128,
}

impl Rank<'_> {
    /// Why a step is none of a strategy.
    fn misfit(&self, strategy: Strategy, exchange: &Exchange<'_>) -> Option<String> {
        match strategy {
            Strategy::Ring => self.hop(exchange, true),
            Strategy::RingReverse => self.hop(exchange, false),
            Strategy::AllGather => self.gather(exchange, 1),
            Strategy::AllGatherStaged => self.gather(exchange, STAGES),
            Strategy::Queries => self.travels(exchange),
            Strategy::Heads => self.deals(exchange),
        }
    }

    fn hop(&self, exchange: &Exchange<'_>, on: bool) -> Option<String> {
        let (r, ranks) = (self.r, self.schedule.ranks.len());
        if exchange.kind != ExchangeKind::SendRecv {
            let kind = a(exchange.kind);
            return Some(format!("is {kind}, and a ring has hops, each a sendrecv"));
        }
        let (next, before) = ((r + 1) % ranks, (r + ranks - 1) % ranks);
        let (to, from) = if on { (next, before) } else { (before, next) };
        if let Some(t) = exchange.sends.iter().find(|t| t.peer != to) {
            return Some(format!("sends to rank {}, and hops go to rank {to}", t.peer));
        }
        let t = exchange.recvs.iter().find(|t| t.peer != from)?;
        Some(format!("receives from rank {}, and hops come from rank {from}", t.peer))
    }

    fn travels(&self, exchange: &Exchange<'_>) -> Option<String> {
        let (kind, group) = (exchange.kind, exchange.group);
        let Some(leg) = Leg::of_queries(self.schedule, group) else {
            return Some(match two_axes(self.schedule) {
                true => format!(
                    "is of group {group}, and queries go in groups 1 to 3, partial results home in groups 4 and 5"
                ),
                false => {
                    format!("is of group {group}, and queries go in group 1, partial results home in group 2")
                }
            });
        };
        let (wanted, what) = match leg.home {
            true => (ExchangeKind::ReduceScatter, "partial results come home by reduce_scatter"),
            false => (ExchangeKind::AllToAll, "queries travel by all_to_all"),
        };
        if kind != wanted {
            return Some(format!("is {}, and {what}", a(kind)));
        }
        self.along(exchange, leg)
    }

    fn deals(&self, exchange: &Exchange<'_>) -> Option<String> {
        let kind = exchange.kind;
        if kind != ExchangeKind::AllToAll {
            return Some(format!("is {}, and heads are dealt out by all_to_all", a(kind)));
        }
        self.along(exchange, Leg::of_heads(self.schedule, exchange.group))
    }

    /// Whether an exchange is along the axis of its leg.
    fn along(&self, exchange: &Exchange<'_>, leg: Leg) -> Option<String> {
        if !two_axes(self.schedule) || exchange.lane == 1 + usize::from(!leg.outer) {
            return None;
        }
        let axis = if leg.outer { "outer" } else { "inner" };
        Some(format!("is of group {}, which goes along the {axis} axis", exchange.group))
    }

    fn gather(&self, exchange: &Exchange<'_>, stages: usize) -> Option<String> {
        let others = self.schedule.ranks.len() - 1;
        if exchange.kind != ExchangeKind::AllGather {
            return Some(format!("is {}, and keys are gathered by all_gather", a(exchange.kind)));
        }
        let group = exchange.group;
        if group > stages {
            let all = if stages == 1 {
                "all keys come in group 1".to_owned()
            } else {
                format!("keys come in groups 1 to {stages}")
            };
            return Some(format!("is of group {group}, and {all}"));
        }
        let (sends, facts) = (exchange.sends, &self.schedule.attention);
        if !sends.is_empty() && sends.len() != others {
            return Some(format!("sends to {} ranks, and keys go to all {others} others", sends.len()));
        }
        if let Some(w) = sends.windows(2).find(|w| bytes(facts, &w[0]) != bytes(facts, &w[1])) {
            let [a, b] = [&w[0], &w[1]].map(|t| format!("{} bytes to rank {}", bytes(facts, t), t.peer));
            return Some(format!("sends {a} and {b}, and all others get the same keys"));
        }
        let row = kv_bytes(&self.schedule.attention, 1).unwrap_or(usize::MAX) as u128;
        // Keys and values of no bytes are not counted.
        let rows = self.sent.checked_div(row)?;
        let upto = |g: usize| rows * g as u128 / stages as u128 * row;
        let (part, have) =
            (upto(group) - upto(group.saturating_sub(1)), exchange.to_each(&self.schedule.attention));
        (part != have).then(|| {
            format!(
                "sends each other rank {have} of {} bytes, and stage {group} of {stages} has {part}",
                self.sent
            )
        })
    }
}

/// A kind with its article.
fn a(kind: ExchangeKind) -> String {
    let article = if kind.name().starts_with('a') { "an" } else { "a" };
    format!("{article} {}", kind.name())
}

/// What a group carries, where queries travel or heads are dealt out.
#[derive(Clone, Copy)]
struct Leg {
    /// Along the outer of two axes.
    outer: bool,
    /// What was made of rows, and not the rows.
    home: bool,
    /// Of the rank at the near end: that sends rows, or that gets what was made of them.
    own: bool,
    /// Of those whose deputy it is.
    others: bool,
}

impl Leg {
    fn of_queries(schedule: &Schedule, group: usize) -> Option<Leg> {
        let (outer, home, own, others) = match (two_axes(schedule), group) {
            (_, 1) => (false, false, true, false),
            (false, 2) => (false, true, true, false),
            (true, 2) => (true, false, true, false),
            (true, 3) => (false, false, false, true),
            (true, 4) => (false, true, true, true),
            (true, 5) => (true, true, true, false),
            _ => return None,
        };
        Some(Leg { outer, home, own, others })
    }

    fn of_heads(schedule: &Schedule, group: usize) -> Leg {
        if !two_axes(schedule) {
            return Leg { outer: false, home: group.is_multiple_of(2), own: true, others: false };
        }
        let nth = group.wrapping_sub(1) % 4;
        let outer = matches!(nth, 0 | 3);
        Leg { outer, home: nth > 1, own: true, others: !outer }
    }
}

/// What a leg carries, in words.
fn says(queries: bool, leg: Leg) -> String {
    let (rows, made) = if queries { ("queries", "partial results") } else { ("rows", "results") };
    match (leg.home, leg.own, leg.others) {
        (false, true, false) => format!("its own {rows} in it"),
        (false, false, true) => format!("{rows} of ranks whose deputy it is in it"),
        (false, ..) => format!("its own {rows} in it, and those of ranks whose deputy it is"),
        (true, _, false) => format!("{made} to the rank whose rows they are of in it"),
        (true, _, true) => {
            format!("{made} to the rank whose rows they are of in it, or to the deputy of that rank")
        }
    }
}

/// What travels, message by message.
pub(super) struct Travel<'a> {
    schedule: &'a Schedule,
    /// Of each rank of a ring, how far back the owner is of what it received last.
    farthest: Vec<usize>,
    /// Of each rank its query rows, where partial results travel.
    owned: Vec<Owned>,
}

impl<'a> Travel<'a> {
    pub(super) fn new(schedule: &'a Schedule) -> Travel<'a> {
        let travel = matches!(schedule.strategy, Strategy::Queries | Strategy::Heads);
        let owned = schedule.q_layout.rows.iter().filter(|_| travel).map(|rows| Owned::new(rows)).collect();
        Travel { schedule, farthest: vec![0; schedule.ranks.len()], owned }
    }

    /// A message of step `step` of rank `from` to rank `to`, whose bytes hold this. What was never written is told elsewhere.
    pub(super) fn message(
        &mut self,
        (from, step, to): (usize, usize, usize),
        holds: impl Iterator<Item = What>,
        log: &mut Log<'_>,
    ) {
        match self.schedule.strategy {
            strategy @ (Strategy::Queries | Strategy::Heads) => {
                self.own_or_home(strategy, (from, step, to), holds, log);
            }
            strategy => self.keys(strategy, (from, step, to), holds, log),
        }
    }

    /// Whether a message has what one of its group has: rows on their way out, or what was made of rows on their way home.
    fn own_or_home(
        &self,
        strategy: Strategy,
        (from, step, to): (usize, usize, usize),
        holds: impl Iterator<Item = What>,
        log: &mut Log<'_>,
    ) {
        let group = Exchange::of(&self.schedule.ranks[from].steps[step]).map_or(0, |e| e.group);
        let queries = strategy == Strategy::Queries;
        let leg = match queries {
            true => Leg::of_queries(self.schedule, group),
            false => Some(Leg::of_heads(self.schedule, group)),
        };
        // Of a group that there is not `labels` tells at its step.
        let Some(leg) = leg else { return };
        // Whose rows pass: of the rank at the near end, and of those whose deputy it is.
        let by = if leg.home { to } else { from };
        let stands_for = deputised(self.schedule, by).filter(|_| leg.others);
        let whose: Vec<usize> = stands_for.chain(leg.own.then_some(by)).collect();
        let has = |rows: &Progression| whose.iter().any(|&o| self.owned[o].local(rows).is_some());
        for what in holds {
            let fits = match what {
                What::Nothing => continue,
                What::Block { block, owner } => {
                    !leg.home && whose.contains(&owner) && !(queries && block.port == Port::Kv)
                }
                What::Carry { rows, .. } => queries && leg.home && has(&rows),
                What::Result { block, .. } => !queries && leg.home && has(&block.rows),
            };
            log.want(fits, from, step, || {
                let what = what.name(&self.schedule.attention);
                let says = says(queries, leg);
                format!(
                    "sends {what} to rank {to} in group {group}, and in {strategy} each rank sends {says}"
                )
            });
        }
    }

    /// Keys and values of one rank, its own or what came round the ring.
    fn keys(
        &mut self,
        strategy: Strategy,
        (from, step, to): (usize, usize, usize),
        holds: impl Iterator<Item = What>,
        log: &mut Log<'_>,
    ) {
        let mut whose: Option<usize> = None;
        for what in holds {
            let owner = match what {
                What::Block { block: Block { port: Port::Kv, .. }, owner } => owner,
                What::Block { .. } | What::Carry { .. } | What::Result { .. } => {
                    log.fail(from, step, || {
                        format!(
                            "sends {} to rank {to}, and {strategy} sends keys and values alone",
                            what.name(&self.schedule.attention)
                        )
                    });
                    return;
                }
                What::Nothing => return,
            };
            if let Some(other) = whose.filter(|&w| w != owner) {
                log.fail(from, step, || {
                    format!(
                        "sends keys of ranks {other} and {owner} to rank {to} in one message, and a message of {strategy} has \
                         those of one rank"
                    )
                });
                return;
            }
            whose = Some(owner);
        }
        let Some(owner) = whose else { return };
        let ranks = self.farthest.len();
        let back = match strategy {
            Strategy::Ring => (to + ranks - owner) % ranks,
            Strategy::RingReverse => (owner + ranks - to) % ranks,
            _ => {
                log.want(owner == from, from, step, || {
                    format!(
                        "sends keys of rank {owner} to rank {to}, and in {strategy} each rank sends its own"
                    )
                });
                return;
            }
        };
        let before = std::mem::replace(&mut self.farthest[to], back);
        log.want(back > before, from, step, || {
            if back == 0 {
                format!("sends rank {to} its own keys, which are not to come back in a ring")
            } else {
                format!(
                    "sends rank {to} the keys of rank {owner}, {back} hops back, after those of {before} hops back: what comes \
                     round in {strategy} comes from ever farther"
                )
            }
        });
    }
}
