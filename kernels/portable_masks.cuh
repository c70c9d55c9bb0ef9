// ---- masks -------------------------------------------------------------------------------------------------------------

// Which scores s[i] of a lane are not what the product says, a bit each. Found out before the product is taken, while the
// registers of the scores are free.
struct Cover {
    static constexpr int WORDS = (BN / 2 + 31) / 32;
    u32 dead[WORDS];  // the key has no part
    u32 filled[WORDS];  // the mask hides the key, which takes part all the same: the fill is finite

    // Of a lane whose first row in the tile is `row`.
    __device__ void look(const Params& p, const Plan& plan, const At& at, i32 row, int lane) {
        const Rows& keys = p.kv_piece[at.piece].rows;
        const i32 first_key = at.block * BN + 2 * (lane & 3);
#pragma unroll
        for (int i = 0; i < WORDS; ++i) dead[i] = filled[i] = 0;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const Span span = seen(p, plan, at.piece, row + 8 * h);
#if MASK
            const i64 stride = forgotten(p.mask.key);
            const u8* mask = reinterpret_cast<const u8*>(p.mask.at) + leaf_row(p.mask, plan.work, p.q_piece[plan.work.piece].rows, query(p, plan, row + 8 * h));
#endif
#pragma unroll
            for (int i = 0; i < BN / 4; ++i) {
                const int j = 4 * (i / 2) + 2 * h + (i & 1);
                const i32 key = first_key + 8 * (i / 2) + (i & 1);
                const bool inside = key < keys.len;
                bool kept = key >= span.begin && key < span.end;
#if MASK
                // Loads that depend on nothing run side by side.
                kept = mask[global_row(keys, inside ? key : keys.len - 1) * stride] != 0 && kept;
#endif
                if (FILL == FILL_NEG_INF ? !kept : !inside) dead[j / 32] |= 1u << j % 32;
                if (FILL != FILL_NEG_INF && !kept) filled[j / 32] |= 1u << j % 32;
            }
        }
    }

    // Adds the bias and gives hidden scores what the fill says.
    __device__ void put(const Params& p, const Plan& plan, const At& at, i32 row, int lane, float (&s)[BN / 2]) {
#if BIAS
        const Rows& keys = p.kv_piece[at.piece].rows;
        const i32 first_key = at.block * BN + 2 * (lane & 3);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const i64 stride = forgotten(p.bias.key);
            const i64 leaf = leaf_row(p.bias, plan.work, p.q_piece[plan.work.piece].rows, query(p, plan, row + 8 * h));
#pragma unroll
            for (int i = 0; i < BN / 4; ++i) {
                const int j = 4 * (i / 2) + 2 * h + (i & 1);
                const i32 key = first_key + 8 * (i / 2) + (i & 1);
                float bias = key < keys.len ? leaf_number<BIAS>(p.bias, leaf + global_row(keys, key) * stride) : 0.0f;
                if (bias == -INFINITY) dead[j / 32] |= 1u << j % 32;
                s[j] += bias;
            }
        }
#endif
#pragma unroll
        for (int i = 0; i < BN / 2; ++i) {
            if (FILL != FILL_NEG_INF && filled[i / 32] >> i % 32 & 1) s[i] = FILL == FILL_ADD ? s[i] + p.fill : p.fill;
            if (dead[i / 32] >> i % 32 & 1) s[i] = -INFINITY;
        }
    }

    // Sets the sign bit of the weights of keys that have no part.
    __device__ void mark(u32 (&weights)[BN / 4]) const {
#pragma unroll
        for (int i = 0; i < BN / 2; ++i)
            if (dead[i / 32] >> i % 32 & 1) weights[i / 2] |= i & 1 ? 0x80000000u : 0x8000u;
    }
};

