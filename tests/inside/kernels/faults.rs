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
