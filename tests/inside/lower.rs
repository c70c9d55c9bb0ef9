//! lower: keys make texts, and nothing else does.

mod program;
mod scores;

use annulus::ir::{AttentionSizes, DType, EmptyRow, Scores};
use annulus::lower::{
    Arch, Element, Helper, KernelKey, Launch, Refusal, Tiling, kernel, listed, options, prelude, sight, text,
};
use annulus::mask::{self, Mask, Term, Tile};
use annulus::schedule::AttentionFacts;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Whether it is cut for long rows of keys.
fn is_long(key: &KernelKey) -> bool {
    let short = KernelKey::hopper(key.element, key.dk.into(), key.dv.into(), key.positions);
    short.is_some_and(|s| s.tiling != key.tiling && s.for_keys(usize::MAX).tiling == key.tiling)
}

/// Which kernels share the values of their fields, and the values; the tile follows from them.
fn fields(key: &KernelKey) -> (String, Vec<String>) {
    let family = (matches!(key.tiling, Tiling::Hopper(_)), key.element == Element::F32);
    let values = vec![
        format!("heads {}/{}{}", key.dk, key.dv, if is_long(key) { " long" } else { "" }),
        format!("{:?}", key.element),
        format!("copies of {}", key.copy),
        format!("positions {}", key.positions),
        format!("mask {}", key.mask),
        format!("bias {:?}", key.bias),
        format!("fill {:?}", key.fill),
        format!("softcap {}", key.softcap),
        format!("carry_in {}", key.carry_in),
        format!("cast_out {}", key.cast_out),
        format!("sinks {:?}", key.sinks),
    ];
    (format!("{family:?}"), values)
}

#[test]
fn the_list_is_short_and_covers_every_pair_of_values() {
    for arch in Arch::ALL {
        let keys = listed(arch);
        assert!(keys.len() <= 200, "{}", keys.len());
        assert!(keys.iter().all(KernelKey::exists));
        assert_eq!(keys, listed(arch));
        let mut families: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
        for (family, values) in keys.iter().map(fields) {
            families.entry(family).or_default().push(values);
        }
        for (family, rows) in families {
            let mut values = vec![BTreeSet::new(); rows[0].len()];
            rows.iter().for_each(|row| row.iter().zip(&mut values).for_each(|(v, all)| all.extend([v])));
            for (b, a) in (0..values.len()).flat_map(|b| (0..b).map(move |a| (b, a))) {
                for (x, y) in values[a].iter().flat_map(|x| values[b].iter().map(move |y| (x, y))) {
                    // Sinks are counted where the result is written.
                    let sinks = *x == "cast_out false" && *y != "sinks None" && y.starts_with("sinks");
                    // And the cut for long rows has no registers for a softcap.
                    let never = sinks || (x.ends_with(" long") && *y == "softcap true");
                    let there = rows.iter().any(|r| &&r[a] == x && &&r[b] == y);
                    assert_eq!(there, !never, "{} {family}: {x} with {y}", arch.name());
                }
            }
        }
    }
}

#[test]
fn the_support_table_names_every_architecture() {
    let table = annulus::dump::support::table();
    Arch::ALL.iter().for_each(|arch| assert!(table.contains(arch.name()), "{}: {table}", arch.name()));
}

#[test]
fn texts_hold_only_what_keys_say() {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_ \n#(),".contains(c);
    for arch in Arch::ALL {
        for key in listed(arch) {
            assert!(prelude(&key).chars().all(allowed), "{}", prelude(&key));
            let all = text(&key);
            assert_eq!(all, text(&key));
            assert!(!all.contains('\0') && !all.contains("#include"), "{key}");
            let code = all.lines().map(|l| l.split("//").next().unwrap_or_default());
            let odd: Vec<char> =
                code.flat_map(str::chars).filter(|c| !c.is_ascii() || c.is_ascii_control()).collect();
            assert!(odd.is_empty(), "{key}: {odd:?}");
        }
        for helper in Helper::all() {
            assert!(helper.prelude().chars().all(allowed), "{}", helper.prelude());
            assert!(!helper.text().contains('\0') && !helper.text().contains("#include"));
        }
        let fixed: Vec<String> = options(arch);
        assert_eq!(fixed[0], format!("--gpu-architecture={}", arch.name()));
        assert_eq!(fixed[1..], options(Arch::Sm80)[1..]);
    }
}

fn facts(dtype: DType, head_dims: [usize; 2], mask: Mask) -> AttentionFacts {
    AttentionFacts {
        sizes: AttentionSizes {
            batch: 1,
            q_heads: 4,
            kv_heads: 2,
            q_len: 64,
            kv_len: 64,
            head_dim: head_dims[0],
            v_head_dim: head_dims[1],
        },
        dtype,
        acc: DType::F32,
        scores: Scores::usual(0.125, 0.0, None, mask),
        sinks: None,
        dropout: None,
        empty_row: EmptyRow::Zero,
        lse: false,
        leaves: vec![],
    }
}

/// A step that ends what it begins.
fn step(tile: Tile) -> Launch {
    Launch::whole(tile, 64)
}

#[test]
fn a_step_goes_to_the_fastest_kernel_that_computes_it() {
    let family = |facts: &AttentionFacts, tile, arch| {
        kernel(facts, step(tile), arch).map(|k| (matches!(k.tiling, Tiling::Hopper(_)), k.positions))
    };
    let plain = facts(DType::BF16, [128, 128], Mask::causal(0));
    assert_eq!(family(&plain, Tile::Partial, Arch::Sm90a), Ok((true, true)));
    assert_eq!(family(&plain, Tile::Full, Arch::Sm90a), Ok((true, false)));
    assert_eq!(family(&plain, Tile::Partial, Arch::Sm80), Ok((false, true)));
    assert_eq!(family(&plain, Tile::Partial, Arch::Sm100), Ok((false, true)));
    let odd = facts(DType::BF16, [60, 64], Mask::none());
    assert_eq!(family(&odd, Tile::Full, Arch::Sm90a), Ok((false, false)));
    let single = facts(DType::F32, [64, 64], Mask::none());
    assert_eq!(family(&single, Tile::Full, Arch::Sm90a), Ok((false, false)));
    let negative =
        AttentionFacts { scores: Scores::usual(-1.0, 0.0, None, Mask::causal(0)), ..plain.clone() };
    assert_eq!(family(&negative, Tile::Full, Arch::Sm90a), Ok((false, false)));
    let filled = Mask { fill: mask::Fill::Replace(-1e4), ..Mask::causal(0) };
    let filled = facts(DType::F16, [64, 64], filled);
    assert_eq!(family(&filled, Tile::Partial, Arch::Sm90a), Ok((false, true)));
    assert_eq!(family(&filled, Tile::Full, Arch::Sm90a), Ok((true, false)));
}

/// Where positions hide keys, a kernel that multiplies their values by 0 has one behind it that does not.
#[test]
fn a_kernel_that_leaves_rows_has_one_behind_it() {
    for arch in Arch::ALL {
        for key in listed(arch) {
            let leaves = matches!(key.tiling, Tiling::Hopper(_)) && key.positions;
            let Some(redo) = key.redo(arch) else {
                assert!(!leaves, "{key}");
                continue;
            };
            assert!(leaves && redo.exists() && redo.redo(arch).is_none(), "{key}");
            assert!(matches!(redo.tiling, Tiling::Portable(_)) && redo.rows() % 16 == 0);
            assert!(redo.dk >= key.dk && redo.dv >= key.dv, "{key}: {redo}");
            assert_eq!(
                (redo.softcap, redo.carry_in, redo.cast_out, redo.sinks, redo.element),
                (key.softcap, key.carry_in, key.cast_out, key.sinks, key.element)
            );
        }
    }
}

#[test]
fn what_no_kernel_computes_is_refused_with_the_reason() {
    let refused = |facts: &AttentionFacts| kernel(facts, step(Tile::Partial), Arch::Sm90a).unwrap_err();
    let double = facts(DType::F64, [64, 64], Mask::none());
    assert_eq!(refused(&double), Refusal::Element("f64"));
    let large = facts(DType::F16, [512, 64], Mask::none());
    assert_eq!(refused(&large), Refusal::Heads { dk: 512, dv: 64 });
    let huge = AttentionFacts { scores: Scores::scaled(1e300), ..facts(DType::F16, [64, 64], Mask::none()) };
    assert_eq!(refused(&huge), Refusal::Number { what: "scale", value: 1e300 });
    let tiny = AttentionFacts {
        scores: Scores::usual(0.125, 1e-60, None, Mask::none()),
        ..facts(DType::F16, [64, 64], Mask::none())
    };
    assert_eq!(refused(&tiny), Refusal::Number { what: "softcap", value: 1e-60 });
    let missing = AttentionFacts {
        scores: Scores::usual(0.125, 0.0, Some(3), Mask::none()),
        ..facts(DType::F16, [64, 64], Mask::none())
    };
    assert_eq!(refused(&missing), Refusal::Operand { what: "bias", found: "missing" });
}

fn term() -> impl Strategy<Value = Term> {
    prop_oneof![6 => positions(), 1 => Just(Term::Tensor { operand: 3 })]
}

fn positions() -> impl Strategy<Value = Term> {
    let offset = prop_oneof![-40i64..40, Just(i64::MIN), Just(i64::MAX)];
    let offset2 = offset.clone();
    let side = || prop::option::of(prop_oneof![0u64..30, Just(u64::MAX)]);
    let starts = prop::collection::btree_set(1usize..60, 0..5);
    prop_oneof![
        offset.clone().prop_map(|offset| Term::Causal { offset }),
        (side(), side(), offset).prop_map(|(left, right, offset)| Term::Window { left, right, offset }),
        (starts, -20i64..20).prop_map(|(starts, offset)| {
            let starts: Arc<[usize]> = starts.into_iter().collect();
            Term::Segments { starts, offset }
        }),
        (0usize..60, offset2).prop_map(|(length, offset)| Term::Prefix { length, offset }),
        (0usize..30, 0usize..60).prop_map(|(start, n)| Term::Keys { start, end: start + n }),
    ]
}

proptest! {
    /// What the kernels compute from the numbers is what the mask says, pair by pair.
    #[test]
    fn sight_is_the_mask(
        terms in prop::collection::vec(term(), 0..4),
        entries in prop::option::of(prop::collection::vec(prop::collection::vec(positions(), 0..3), 3)),
    ) {
        let batch = if entries.is_some() { 3 } else { 2 };
        let own = entries.map(|entries| Term::Batch { entries: entries.into() });
        let mask = Mask { terms: terms.into_iter().chain(own).collect(), fill: mask::Fill::NegInf };
        let seen = sight(&mask, 50, batch);
        for (entry, q) in (0..batch).flat_map(|entry| (0..50usize).map(move |q| (entry, q))) {
            let mut low = seen.window[0].map_or(i64::MIN, |l| q as i64 + i64::from(l));
            let mut high = seen.window[1].map_or(i64::MAX, |h| q as i64 + i64::from(h));
            if let Some(documents) = &seen.documents {
                let row = documents[entry * seen.entry_rows + q];
                low = low.max(row[0].into());
                high = high.min(row[1].into());
            }
            for k in 0..50usize {
                prop_assert_eq!(mask.keeps(entry, q, k), (low..high).contains(&(k as i64)), "{:?} {} {}", mask, q, k);
            }
        }
    }
}
