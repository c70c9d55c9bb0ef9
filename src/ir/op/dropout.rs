//! Dropout of an attention's weights: which of them are dropped, by position alone.
//!
//! In: a key, and where a pair of rows stands in the whole attention. Out: whether its weight is kept. Nothing of ranks, steps or tiles
//! goes in, so that the mask is the same however the work is split, forward and backward.

/// Dropout of the weights between the softmax and the values: a weight that is kept is divided by 1 − ratio, one that is dropped is 0.
/// The log-sum-exp and the row statistics are those of all weights. Which are dropped a [`DropMask`] says, whose key is an operand: it is
/// another one in each step of a training, and in each layer, and the program is the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The part that is dropped, from 0 up to but not 1.
    pub ratio: f64,
    /// Operand index of the seed: one i64, whose bits are the key. It is the last operand, but for the sinks.
    pub seed: usize,
    /// Whether all batch entries have the mask of the first one.
    pub same_batch: bool,
    /// Whether all query heads have the mask of the first one.
    pub same_heads: bool,
}

impl Dropout {
    /// Of every batch entry and head a mask of its own.
    pub fn new(ratio: f64, seed: usize) -> Dropout {
        Dropout { ratio, seed, same_batch: false, same_heads: false }
    }

    /// What is wrong with it, if anything is.
    pub fn fault(&self) -> Option<String> {
        let fits = (0.0..1.0).contains(&self.ratio);
        (!fits).then(|| format!("dropout of {}: want a part from 0 up to but not 1", self.ratio))
    }

    /// What a weight that is kept is multiplied by.
    pub fn scale(&self) -> f64 {
        1.0 / (1.0 - self.ratio)
    }

    /// The mask under a seed.
    pub fn mask(&self, seed: i64) -> DropMask {
        let Dropout { ratio, same_batch, same_heads, .. } = *self;
        DropMask { ratio, key: seed.cast_unsigned(), same_batch, same_heads }
    }
}

/// Which weights of an attention are dropped.
///
/// The random number of a pair is a word of Philox 4×32-10 under the key: of the block that batch entry, query head, query row and
/// ⌊key row / 4⌋ count (each modulo 2³²), word `key row mod 4`. It is dropped where the word is below ratio · 2³². Source of the generator: Salmon,
/// Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropMask {
    /// The part that is dropped.
    pub ratio: f64,
    /// Its low half is the first word of the generator's key.
    pub key: u64,
    /// As of [`Dropout`].
    pub same_batch: bool,
    /// As of [`Dropout`].
    pub same_heads: bool,
}

/// How many keys share a block.
const WORDS: usize = 4;

impl DropMask {
    /// Whether the weight of a batch entry, query head, query row and key row is kept; all of them count in the whole attention.
    ///
    /// ```
    /// use annulus::ir::Dropout;
    ///
    /// let half = Dropout::new(0.5, 3).mask(7);
    /// let kept = (0..10_000).filter(|&key| half.keeps([0, 3, 17, key])).count();
    /// assert!((4_800..5_200).contains(&kept));
    /// assert_eq!(half.keeps([0, 3, 17, 5]), half.keeps([0, 3, 17, 5]));
    /// ```
    pub fn keeps(&self, [batch, head, row, key]: [usize; 4]) -> bool {
        let block = self.block([batch, head, row], key / WORDS);
        u64::from(block[key % WORDS]) >= self.least()
    }

    /// The same of one query row and many keys, ascending or not: neighbours are drawn together.
    pub(crate) fn of_row(&self, at: [usize; 3]) -> impl FnMut(usize) -> bool + use<> {
        let (mask, least) = (*self, self.least());
        let mut drawn: Option<(usize, [u32; WORDS])> = None;
        move |key| {
            let words = match drawn {
                Some((block, words)) if block == key / WORDS => words,
                _ => drawn.insert((key / WORDS, mask.block(at, key / WORDS))).1,
            };
            u64::from(words[key % WORDS]) >= least
        }
    }

    /// Words below this drop their weight.
    fn least(&self) -> u64 {
        // At most 2³², which no word reaches.
        (self.ratio * 4_294_967_296.0) as u64
    }

    fn block(&self, [batch, head, row]: [usize; 3], block: usize) -> [u32; WORDS] {
        let batch = if self.same_batch { 0 } else { batch };
        let head = if self.same_heads { 0 } else { head };
        let counter = [batch, head, row, block].map(|n| n as u32);
        philox(counter, [self.key as u32, (self.key >> 32) as u32])
    }
}

/// Philox 4×32 in ten rounds: four random words of a counter under a key.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
    const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let wide = |of: usize, word: u32| {
            let product = u64::from(MULTIPLIERS[of]) * u64::from(word);
            ((product >> 32) as u32, product as u32)
        };
        let [a, b, c, d] = counter;
        let ((high0, low0), (high1, low1)) = (wide(0, a), wide(1, c));
        counter = [high1 ^ b ^ key[0], low1, high0 ^ d ^ key[1], low0];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that Random123 publishes.
    #[test]
    fn known_answers() {
        let answers = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, words) in answers {
            assert_eq!(philox(counter, key), words);
        }
    }

    /// The part that is kept, over rows, keys, heads and batch entries; and that these are apart, but where they share a mask.
    #[test]
    fn as_many_are_kept_as_is_said() {
        for ratio in [0.0, 0.1, 0.5, 0.9, 1.0 - 1e-9] {
            let dropout = Dropout::new(ratio, 3).mask(0x5eed_0000_0001);
            let n = 1 << 18;
            let at = |i: usize| [i >> 16, i >> 12 & 15, i >> 6 & 63, i & 63];
            let kept = (0..n).filter(|&i| dropout.keeps(at(i))).count() as f64;
            let deviation = (n as f64 * ratio * (1.0 - ratio)).sqrt();
            assert!((kept - n as f64 * (1.0 - ratio)).abs() <= 4.0 * deviation, "{ratio}: {kept} of {n}");
        }
        let own = Dropout::new(0.5, 3).mask(3);
        let row = |d: &DropMask, at: [usize; 3]| {
            (0..256).map(|j| d.keeps([at[0], at[1], at[2], j])).collect::<Vec<_>>()
        };
        let base = row(&own, [0, 0, 0]);
        for at in [[1, 0, 0], [0, 1, 0], [0, 0, 1]] {
            let other = row(&own, at);
            let alike = base.iter().zip(&other).filter(|(a, b)| a == b).count();
            assert!((96..160).contains(&alike), "{alike}");
        }
        assert_ne!(base, row(&DropMask { key: 4, ..own }, [0, 0, 0]));
        assert_ne!(base, row(&DropMask { key: 3 | 1 << 32, ..own }, [0, 0, 0]));
        let shared = DropMask { same_batch: true, same_heads: true, ..own };
        assert_eq!(base, row(&shared, [5, 7, 0]));
        let mut of_row = own.of_row([0, 0, 0]);
        assert!((0..256).rev().all(|j| of_row(j) == base[j]));
    }
}
