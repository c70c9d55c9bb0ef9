//! What is asked of the pass.

use crate::device::Device;
use crate::find::FindOptions;
use crate::layout::LayoutKind;
use crate::ring::Strategy;
use crate::schedule::SLOTS;
use crate::search::SearchOptions;
use crate::shard::{Handed, ShardOptions};

/// What is asked of the pass.
///
/// ```
/// use annulus::{Options, device::Device, layout::LayoutKind};
///
/// let mut options = Options::new(16); // strategy and layout are chosen by time on the device
/// options.layout = Some(LayoutKind::Zigzag);
/// options.device = Device::named("h200x8x8");
/// options.memory = Some(80 << 20); // bytes of arena that an island may have on a rank
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of ranks, at least 1.
    pub ranks: usize,
    /// How keys and queries meet; `None`: whatever takes the least time on the device.
    pub strategy: Option<Strategy>,
    /// Who owns which rows; `None`: whatever takes the least time on the device, over all attentions of a sequence.
    pub layout: Option<LayoutKind>,
    /// Inputs that the host hands to a rank by rows.
    pub inputs: Vec<Handed>,
    /// What the ranks are; `None`: [`Device::default_for`] their number.
    pub device: Option<Device>,
    /// The most bytes of arena that an island may have on a rank.
    pub memory: Option<usize>,
    /// How many receive slots a rank of a ring has, at least 2: more let a rank lag behind its neighbours where work is uneven.
    pub slots: usize,
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
            device: None,
            memory: None,
            slots: SLOTS,
            find: FindOptions::default(),
        }
    }

    /// What `shard` is asked.
    pub(super) fn shard(&self) -> ShardOptions {
        ShardOptions { ranks: self.ranks, layout: self.layout, inputs: self.inputs.clone() }
    }

    /// What `search` is asked.
    pub(super) fn search(&self) -> SearchOptions {
        SearchOptions { strategy: self.strategy, memory: self.memory, slots: self.slots }
    }
}
