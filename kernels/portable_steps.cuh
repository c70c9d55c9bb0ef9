// ---- steps -------------------------------------------------------------------------------------------------------------

// The steps on the scores s[i] of a lane, and which keys have no part: those that do not exist or are out of sight, and those whose
// score the steps leave at −∞.
struct Cover {
    static constexpr int WORDS = (BN / 2 + 31) / 32;
    u32 dead[WORDS];  // a bit a score

    __device__ void look(const Params&, const Plan&, const At&, i32, int) {}

    // Of a lane whose first row in the tile is `row`.
    __device__ void put(const Params& p, const Plan& plan, const At& at, i32 row, int lane, float (&s)[BN / 2]) {
        const Rows& keys = p.kv_piece[at.piece].rows;
        const i32 first_key = at.block * BN + 2 * (lane & 3);
#pragma unroll
        for (int i = 0; i < WORDS; ++i) dead[i] = 0;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const Pairs pairs = {plan.work, p.q_piece[plan.work.piece].rows, query(p, plan, row + 8 * h), keys, first_key};
            run_steps<0, BN / 4>(
                p, pairs, [&](int i) -> float& { return s[4 * (i / 2) + 2 * h + (i & 1)]; },
                [](int i) { return 8 * (i / 2) + (i & 1); });
            const Span span = seen(p, plan, at.piece, row + 8 * h);
#pragma unroll
            for (int i = 0; i < BN / 4; ++i) {
                const int j = 4 * (i / 2) + 2 * h + (i & 1);
                const i32 key = first_key + 8 * (i / 2) + (i & 1);
                if (key < span.begin || key >= span.end) s[j] = -INFINITY;
                if (s[j] == -INFINITY) dead[j / 32] |= 1u << j % 32;
            }
        }
    }

    // Sets the sign bit of the weights of keys that have no part.
    __device__ void mark(u32 (&weights)[BN / 4]) const {
#pragma unroll
        for (int i = 0; i < BN / 2; ++i)
            if (dead[i / 32] >> i % 32 & 1) weights[i / 2] |= i & 1 ? 0x80000000u : 0x8000u;
    }
};

