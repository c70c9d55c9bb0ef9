//! Faults to plant into the text of a kernel, and what must find each.

/// The edits replace the first place of a text each, which must be there: where a kernel changes, so must these.
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) found: &'static str,
    pub(crate) edits: &'static [(&'static str, &'static str)],
}

pub(crate) const HOPPER: &[Fault] = &[
    Fault {
        name: "k is not waited for",
        found: "race: reads shared memory",
        edits: &[("mbarrier_wait(&bar.k_full[slot_of<2>(blocks + 1)], round_of<2>(blocks + 1));", ";")],
    },
    Fault {
        name: "v is not waited for",
        found: "race: reads shared memory",
        edits: &[("mbarrier_wait(&bar.v_full[slot_of<2>(blocks)], round_of<2>(blocks));", ";")],
    },
    Fault {
        name: "the wrong phase",
        found: "deadlock",
        edits: &[(
            "mbarrier_wait(&bar.k_free[slot], round_of<2>(n) ^ 1);",
            "mbarrier_wait(&bar.k_free[slot], round_of<2>(n));",
        )],
    },
    Fault {
        name: "the wrong stride of a swizzled tile",
        found: "l is ",
        edits: &[("tile_descriptor(smem + K_AT, 16, 1024)", "tile_descriptor(smem + K_AT, 16, 512)")],
    },
    Fault {
        name: "the mask is off by one",
        found: " is ",
        edits: &[("i32 step = 8 * (i / 4) + (i & 1);", "i32 step = 8 * (i / 4) + (i & 1) - 1;")],
    },
    Fault { name: "o is not rescaled", found: " of o is ", edits: &[("shrink_moved(o, shrink);", ";")] },
    Fault {
        name: "k is released early",
        found: "while a product reads it",
        edits: &[
            ("if (leads) mbarrier_arrive(&bar.k_free[slot_of<2>(blocks + 1)]);", ";"),
            (
                "wgmma_wait<1>();",
                "if (leads) mbarrier_arrive(&bar.k_free[slot_of<2>(blocks + 1)]);\nwgmma_wait<1>();",
            ),
        ],
    },
    Fault {
        name: "v is released early",
        found: "while a product reads it",
        edits: &[
            ("if (leads) mbarrier_arrive(&bar.v_free[slot_of<2>(blocks)]);", ";"),
            (
                "wgmma_wait<1>();",
                "wgmma_wait<1>();\nif (leads) mbarrier_arrive(&bar.v_free[slot_of<2>(blocks)]);",
            ),
        ],
    },
    Fault {
        name: "scores are read before they are there",
        found: "touches the sum of a product",
        edits: &[("wgmma_wait<1>();", ";")],
    },
    Fault {
        name: "weights are overwritten under a product",
        found: "overwrites an operand",
        edits: &[("wgmma_wait<1>();", "wgmma_wait<1>();\npack_weights(weights, s);")],
    },
    Fault {
        name: "registers are handed over without a fence",
        found: "written after the last wgmma_fence",
        edits: &[
            ("hold(weights);\n                wgmma_fence();", ";"),
            ("wgmma_fence();\n                const u64 v_here", "const u64 v_here"),
        ],
    },
    Fault {
        name: "a race on m and l",
        found: "carry0+",
        edits: &[(
            "// All four lanes of the row have read m and l before one of them writes.\n            warp_sync();",
            "",
        )],
    },
    Fault { name: "the turn is not passed on", found: "deadlock", edits: &[("turn_pass(wg);\n", ";\n")] },
];

/// Of tiles without keys, one after another through one slot of q.
pub(crate) const EMPTY_TILES: &[Fault] = &[Fault {
    name: "lanes miss the end of a phase",
    found: "deadlock",
    edits: &[("if (left == 0) {\n            warp_sync();", "if (left == 0) {")],
}];

/// Of rows with an infinite value: what the Hopper kernel leaves, and what the kernel behind it does.
pub(crate) const LEFT_ROWS: &[Fault] = &[
    Fault { name: "left rows are not marked", found: " is NaN", edits: &[("row)] = 1;", "row)] = 0;")] },
    Fault {
        name: "left rows are written all the same",
        found: " is ",
        edits: &[(
            "} else {\n            finish(p, tile.work",
            "}\n        {\n            finish(p, tile.work",
        )],
    },
    Fault {
        name: "marks are of the wrong rows",
        found: "outside of every buffer",
        edits: &[("sixteen(p, tile.work, row)] = 1", "sixteen(p, tile.work, row ^ 16)] = 1")],
    },
];

/// Of the kernel behind it.
pub(crate) const BEHIND: &[Fault] = &[
    Fault {
        name: "marks are not cleared",
        found: "rows are left",
        edits: &[("if (lane == 0) *mark = 0;", ";")],
    },
    Fault { name: "rows are done twice", found: " is ", edits: &[("|| !*mark) continue;", ") continue;")] },
    Fault {
        name: "warps do not agree on whether there are marks",
        found: "deadlock",
        edits: &[("return block_any(inside &&", "return any_lane(inside &&")],
    },
];

pub(crate) const PORTABLE: &[Fault] = &[
    Fault {
        name: "copies are not waited for",
        found: "while a copy into it is under way",
        edits: &[("copy_async_wait<0>();", ";")],
    },
    Fault {
        name: "warps do not wait for each other",
        found: "race",
        edits: &[("odd = block_any(", "odd = any_lane(")],
    },
    Fault {
        name: "the wrong twist of a tile",
        found: " is ",
        edits: &[("Tile<D>::twist(lane_row) ^ lane_chunk", "Tile<D>::twist(lane_row + 1) ^ lane_chunk")],
    },
    Fault {
        name: "the mask is off by one",
        found: " is ",
        edits: &[("key < span.end;", "key <= span.end;")],
    },
    Fault { name: "o is not rescaled", found: " of o is ", edits: &[("shrink_moved(o[t], shrink);", ";")] },
    Fault {
        name: "a race on m and l",
        found: "carry0+",
        edits: &[(
            "// All four lanes of the row have read m and l before one of them writes.\n            warp_sync();",
            "",
        )],
    },
];

/// Of [`super::steps::ALL_KINDS`], in portable kernels.
pub(crate) const STEPS: &[Fault] = &[
    Fault {
        name: "a step is left out",
        found: " is ",
        edits: &[("        run_step<N, COUNT>(", "        if (N != 1) run_step<N, COUNT>(")],
    },
    Fault {
        name: "two steps are exchanged",
        found: " is ",
        edits: &[("        run_step<N, COUNT>(", "        run_step<N == 1 ? 2 : N == 2 ? 1 : N, COUNT>(")],
    },
    Fault { name: "a rounding is dropped", found: " is ", edits: &[("return round_bf16(x);", "return x;")] },
    Fault {
        name: "numbers are rounded towards zero",
        found: " is ",
        edits: &[("return round_bf16(x);", "return round_bf16(x * (1.0f - 0.00390625f));")],
    },
    Fault {
        name: "a fill is added once for every condition",
        found: " is ",
        edits: &[("hidden |= 1u << i;", "score(i) += number;")],
    },
    Fault {
        name: "a fill replaces what it should leave out",
        found: " is ",
        edits: &[("KIND == STEP_FILL_NEG_INF ? -INFINITY : number;", "number;")],
    },
    Fault {
        name: "the tensors of another step are read",
        found: "",
        edits: &[("step_leaf(n - 1) + (reads_number", "step_leaf(n - 1) + 0 * (reads_number")],
    },
    Fault {
        name: "positions are off by one",
        found: " is ",
        edits: &[("rows_below(pairs.keys, high)}", "rows_below(pairs.keys, high + 1)}")],
    },
    Fault {
        name: "the documents of another row",
        found: " is ",
        edits: &[("low > band.first_key[at] ? low : band.first_key[at]", "low")],
    },
    Fault {
        name: "tensors are read beyond the last key",
        found: "outside of every buffer",
        edits: &[("ahead(i) < left ? step_number", "true ? step_number")],
    },
    Fault {
        name: "masks are read beyond the last key",
        found: "outside of every buffer",
        edits: &[("if (ahead(i) < left && !mask", "if (!mask")],
    },
    Fault {
        name: "rows are counted as q's where they are not",
        found: "",
        edits: &[(
            "at(leaf_row(leaf, pairs.work, pairs.rows, pairs.row)",
            "at(leaf_row(leaf, pairs.work, pairs.rows, pairs.row + 1)",
        )],
    },
    Fault {
        name: "keys that are far apart are taken for neighbours",
        found: " is ",
        edits: &[("stride(forgotten(leaf.key * pairs.keys.step))", "stride(forgotten(leaf.key))")],
    },
    Fault {
        name: "a key out of sight takes part",
        found: " is ",
        edits: &[("if (key < span.begin || key >= span.end)", "if (key < 0)")],
    },
    Fault {
        name: "a key without part has its value in the sum",
        found: " is ",
        edits: &[("if (s[j] == -INFINITY) dead[j / 32] |= 1u << j % 32;", ";")],
    },
];

/// Of the same in kernels of f32, where their text is another.
pub(crate) const STEPS_IN_F32: &[Fault] = &[
    Fault {
        name: "keys of another thread",
        found: " is ",
        edits: &[("[](int c) { return 16 * c; }", "[](int c) { return c; }")],
    },
    Fault {
        name: "a key out of sight takes part",
        found: " is ",
        edits: &[("if (key < span.begin || key >= span.end)", "if (key < 0)")],
    },
    Fault {
        name: "a key without part has its value in the sum",
        found: " is ",
        edits: &[("if (s[c] == -INFINITY) dead |= 1u << c;", ";")],
    },
];

/// Of steps on Hopper.
pub(crate) const STEPS_ON_HOPPER: &[Fault] = &[
    Fault {
        name: "a step is left out",
        found: " is ",
        edits: &[("change_scores<N + 1>(p, s);", "change_scores<N + (N == 1 ? 2 : 1)>(p, s);")],
    },
    Fault {
        name: "two steps are exchanged",
        found: " is ",
        edits: &[
            (
                "constexpr int KIND = step_kind(N);\n        static_assert",
                "constexpr int M = N == 1 ? 2 : N == 2 ? 1 : N, KIND = step_kind(M);\n        static_assert",
            ),
            ("const float number = p.number[N], inverse", "const float number = p.number[M], inverse"),
        ],
    },
    Fault { name: "a rounding is dropped", found: " is ", edits: &[("return round_f16(x);", "return x;")] },
    Fault {
        name: "the other type is rounded to",
        found: " is ",
        edits: &[("return round_bf16(x);", "return round_f16(x);")],
    },
    Fault {
        name: "rows that a rounding hid a key of are not left",
        found: " is NaN",
        edits: &[("return any_lane(odd != odd) && p.odd;", "return false;")],
    },
];

/// Of a softcap on Hopper, which makes numbers of what a mask hides.
pub(crate) const SOFTCAP_ON_HOPPER: &[Fault] = &[Fault {
    name: "steps come behind the mask",
    found: " is ",
    edits: &[(
        "change_scores<0>(p, s);\n    sight.cover(s, block);",
        "sight.cover(s, block);\n    change_scores<0>(p, s);",
    )],
}];

/// Of sums rounded to halves.
pub(crate) const HALVES: &[Fault] = &[
    Fault { name: "no sum is rounded", found: " is ", edits: &[("return round_f16(x);", "return x;")] },
    Fault {
        name: "sums are rounded to the other type",
        found: " is ",
        edits: &[("return round_f16(x);", "return round_bf16(x);")],
    },
];

/// Of scores that are −∞ before a factor or an addend.
pub(crate) const REVIVALS: &[Fault] = &[
    Fault {
        name: "a score of −∞ is revived by an addend",
        found: " is ",
        edits: &[(
            "score(i) = x == -INFINITY || y == -INFINITY ? -INFINITY : x + y;",
            "score(i) = x == -INFINITY ? y : x + y;",
        )],
    },
    Fault {
        name: "a score of −∞ is revived by a factor of a tensor",
        found: " is ",
        edits: &[("score(i) = x == -INFINITY ? x : x * y;", "score(i) = x * y;")],
    },
    Fault {
        name: "a score of −∞ is revived by a factor",
        found: " is ",
        edits: &[("return x == -INFINITY ? x : x * number;", "return x * number;")],
    },
];
