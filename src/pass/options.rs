//! What is asked of the pass.

use super::error::Error;
use crate::device::Device;
use crate::find::FindOptions;
use crate::layout::LayoutKind;
use crate::ring::Strategy;
use crate::schedule::SLOTS;
use crate::search::SearchOptions;
use crate::shard::{Handed, MAX_RANKS, Rowwise, ShardOptions};

/// The most receive slots that may be asked for: what the command line takes too.
const MAX_SLOTS: usize = u32::MAX as usize;

/// What is asked of the pass. What is not set is chosen by the pass.
///
/// ```
/// use annulus::Options;
/// use annulus::device::Device;
/// use annulus::layout::LayoutKind;
/// use annulus::ring::Strategy;
/// use annulus::shard::Handed;
///
/// let options = Options::new(4)
///     .strategy(Strategy::Ring)
///     .layout(LayoutKind::Zigzag)
///     .input(Handed::new("hidden", 1))
///     .device(Device::default_for(4))
///     .memory(512 << 20)
///     .slots(3);
/// assert!(options.check().is_ok());
/// // What the ranks could not do is refused before anything is searched.
/// assert_eq!(options.slots(0).check().unwrap_err().to_string(), "slots is 0: want 2 to 4294967295");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Number of ranks, from 1 to [`MAX_RANKS`].
    pub ranks: usize,
    /// How keys and queries meet; `None`: whatever takes the least time on the device, and short windows that lie in the batch axis
    /// are split along the batch.
    pub strategy: Option<Strategy>,
    /// Who owns which rows; `None`: whatever takes the least time on the device, over all attentions of a sequence.
    pub layout: Option<LayoutKind>,
    /// Inputs that the host hands to a rank by rows.
    pub inputs: Vec<Handed>,
    /// Operators that annulus does not compute, and that treat rows apart from one another: what they read need not be gathered.
    /// Nothing proves it; see [`Rowwise`].
    pub rowwise: Vec<Rowwise>,
    /// What the ranks are; `None`: [`Device::default_for`] their number.
    pub device: Option<Device>,
    /// On how many nodes the ranks stand, equally many on each, in strategies that [use levels](Strategy::uses_levels) and in what links cost;
    /// `None`: as [the device says](Device::nodes_of), and such a strategy takes all ranks as on one level where that is faster.
    pub nodes: Option<usize>,
    /// The most bytes of arena that an island may have on a rank; `None`: any number.
    pub memory: Option<usize>,
    /// How many receive slots a rank of a ring has, at least 2: more let a rank lag behind its neighbours where work is uneven. No
    /// more are made than hops arrive, and the schedule says how many are.
    pub slots: usize,
    /// How many multiprocessors of a GPU every transfer may hold: a power of two, or 0 where copy engines move everything; `None`: as many
    /// as take the least time, of those that [the device offers](Device::budgets).
    pub comm_sms: Option<usize>,
    /// Which rewritings are admitted.
    pub find: FindOptions,
}

impl Options {
    /// Everything chosen by the pass, on so many ranks.
    pub fn new(ranks: usize) -> Options {
        Options {
            ranks,
            strategy: None,
            layout: None,
            inputs: vec![],
            rowwise: vec![],
            device: None,
            nodes: None,
            memory: None,
            slots: SLOTS,
            comm_sms: None,
            find: FindOptions::default(),
        }
    }

    /// The strategy that every island takes; `None` leaves it to the pass.
    #[must_use]
    pub fn strategy(mut self, strategy: impl Into<Option<Strategy>>) -> Options {
        self.strategy = strategy.into();
        self
    }

    /// The layout of every sequence; `None` leaves it to the pass.
    #[must_use]
    pub fn layout(mut self, layout: impl Into<Option<LayoutKind>>) -> Options {
        self.layout = layout.into();
        self
    }

    /// One more input that the host hands to a rank by rows.
    #[must_use]
    pub fn input(mut self, handed: Handed) -> Options {
        self.inputs.push(handed);
        self
    }

    /// More inputs that the host hands to a rank by rows.
    #[must_use]
    pub fn inputs(mut self, handed: impl IntoIterator<Item = Handed>) -> Options {
        self.inputs.extend(handed);
        self
    }

    /// One more operator that annulus does not compute, and that treats rows apart from one another.
    #[must_use]
    pub fn rowwise(mut self, promise: Rowwise) -> Options {
        self.rowwise.push(promise);
        self
    }

    /// What the ranks are; `None` takes [`Device::default_for`] their number.
    #[must_use]
    pub fn device(mut self, device: impl Into<Option<Device>>) -> Options {
        self.device = device.into();
        self
    }

    /// On how many nodes the ranks stand; `None` takes what the device says.
    #[must_use]
    pub fn nodes(mut self, nodes: impl Into<Option<usize>>) -> Options {
        self.nodes = nodes.into();
        self
    }

    /// The most bytes of arena that an island may have on a rank; `None` allows any number.
    #[must_use]
    pub fn memory(mut self, bytes: impl Into<Option<usize>>) -> Options {
        self.memory = bytes.into();
        self
    }

    /// How many receive slots a rank of a ring has, if as many hops arrive.
    #[must_use]
    pub fn slots(mut self, slots: usize) -> Options {
        self.slots = slots;
        self
    }

    /// How many multiprocessors of a GPU every transfer may hold; `None` leaves it to the pass.
    #[must_use]
    pub fn comm_sms(mut self, sms: impl Into<Option<usize>>) -> Options {
        self.comm_sms = sms.into();
        self
    }

    /// Which rewritings are admitted, and which inputs are bound to a value.
    #[must_use]
    pub fn find(mut self, find: FindOptions) -> Options {
        self.find = find;
        self
    }

    /// Whether the numbers are in their ranges, as [`compile`](crate::compile) asks before anything else.
    ///
    /// # Errors
    /// [`Error::Option`] names the option and its range; [`Error::Nodes`] says that ranks are no multiple of nodes; [`Error::Figures`] a figure of the device that is not in its own;
    /// [`Error::Device`] says that the device has too few ranks; [`Error::CommSms`] that transfers cannot hold so many of its multiprocessors.
    pub fn check(&self) -> Result<(), Error> {
        let within = |option: &'static str, value: usize, least: usize, most: usize| {
            let fits = (least..=most).contains(&value);
            if fits { Ok(()) } else { Err(Error::Option { option, value, least, most }) }
        };
        within("ranks", self.ranks, 1, MAX_RANKS)?;
        within("slots", self.slots, SLOTS, MAX_SLOTS)?;
        if let Some(nodes) = self.nodes.filter(|&n| n == 0 || !self.ranks.is_multiple_of(n)) {
            return Err(Error::Nodes { ranks: self.ranks, nodes });
        }
        if let Some(device) = &self.device {
            device.check()?;
        }
        let Some(sms) = self.comm_sms else { return Ok(()) };
        let chosen = || Device::default_for(self.ranks);
        let device = self.device.clone().unwrap_or_else(chosen);
        let why = match device.sms {
            0 => format!("{} does not say how many multiprocessors it has", device.name),
            all if sms >= all => format!("want fewer than the {all} of {}", device.name),
            _ if sms > 0 && !sms.is_power_of_two() => "want a power of two, which is what NCCL takes".into(),
            _ => return Ok(()),
        };
        Err(Error::CommSms { sms, why })
    }

    /// What `shard` is asked.
    pub(super) fn shard(&self) -> ShardOptions {
        // A strategy is one for rows.
        let windows = self.strategy.is_none();
        let inputs = self.inputs.iter().cloned();
        let rowwise = self.rowwise.iter().cloned();
        ShardOptions::new(self.ranks).layout(self.layout).windows(windows).inputs(inputs).rowwise(rowwise)
    }

    /// What `search` is asked.
    pub(super) fn search(&self) -> SearchOptions {
        SearchOptions {
            strategy: self.strategy,
            nodes: self.nodes,
            memory: self.memory,
            slots: self.slots,
            comm_sms: self.comm_sms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile;
    use crate::ir::{DType, Graph, Type};

    /// What `compile` says of these options, of a graph of one input.
    fn said(options: &Options) -> Result<(), String> {
        let mut g = Graph::new("g");
        let x = g.input("x", Type::new(DType::F32, [2]));
        g.output("y", x);
        compile(&g, options).map(|_| ()).map_err(|e| e.to_string())
    }

    #[test]
    fn numbers_out_of_their_range_are_refused_by_name() {
        assert_eq!(said(&Options::new(1)), Ok(()));
        assert_eq!(said(&Options::new(3).slots(MAX_SLOTS)), Ok(()));
        let ranks = |n: usize| format!("ranks is {n}: want 1 to 4096");
        for n in [0, MAX_RANKS + 1, usize::MAX] {
            assert_eq!(said(&Options::new(n)), Err(ranks(n)));
        }
        assert_eq!(said(&Options::new(MAX_RANKS).device(Device::named("cpu"))), Ok(()));
        for n in [0, 1, usize::MAX] {
            assert_eq!(said(&Options::new(2).slots(n)), Err(format!("slots is {n}: want 2 to 4294967295")));
        }
        for n in [0, 3, usize::MAX] {
            let want = format!("4 ranks cannot stand on {n} nodes, equally many on each");
            assert_eq!(said(&Options::new(4).nodes(n)), Err(want));
        }
        let why =
            |sms: usize, device: &str| said(&Options::new(2).comm_sms(sms).device(Device::named(device)));
        for sms in [0, 1, 8, 64] {
            assert_eq!(why(sms, "h200x8"), Ok(()));
        }
        let refused =
            |sms: usize, why: &str| Err(format!("transfers cannot hold {sms} multiprocessors: {why}"));
        assert_eq!(why(3, "h200x8"), refused(3, "want a power of two, which is what NCCL takes"));
        assert_eq!(why(132, "h200x8"), refused(132, "want fewer than the 132 of h200x8"));
        assert_eq!(why(1, "cpu"), refused(1, "cpu does not say how many multiprocessors it has"));
        let mut device = Device::default_for(2);
        device.slowdown = f64::NAN;
        let why = said(&Options::new(2).device(device)).unwrap_err();
        assert_eq!(why, "device h200x8, slowdown: want a number from 0.0 to 10.0, not NaN");
    }

    #[test]
    fn setters_set_and_unset() {
        let o = Options::new(2)
            .strategy(Strategy::Ring)
            .layout(LayoutKind::Stripe)
            .memory(7)
            .inputs([Handed::new("x", 0), Handed::new("y", 1)]);
        assert_eq!((o.strategy, o.layout), (Some(Strategy::Ring), Some(LayoutKind::Stripe)));
        assert_eq!((o.memory, o.inputs.len()), (Some(7), 2));
        assert_eq!(o.clone().nodes(2).nodes, Some(2));
        let o = o.strategy(None).layout(None).memory(None);
        assert_eq!((o.strategy, o.layout, o.memory), (None, None, None));
    }
}
