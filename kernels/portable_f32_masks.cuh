// Softcap, bias and mask. Returns the keys without part, a bit each.
__device__ inline u32 adjust(const Params& p, const Plan& plan, const At& at, i32 row, i32 lane,
                             float (&s)[KEY_COUNT]) {
    const Rows& keys = p.kv_piece[at.piece].rows;
    const Span span = seen(p, plan, at.piece, row);
#if MASK || BIAS
    const Rows& queries = p.q_piece[plan.work.piece].rows;
    const i32 q_row = query(p, plan, row);
#endif
    u32 dead = 0;
#pragma unroll
    for (int c = 0; c < KEY_COUNT; ++c) {
        const i32 key = at.block * BN + lane + 16 * c;
        const bool inside = key < keys.len;
        bool kept = key >= span.begin && key < span.end;
        bool lives = FILL == FILL_NEG_INF ? kept : inside;
#if MASK
        if (inside)
            kept = kept && reinterpret_cast<const u8*>(p.mask.at)[leaf_row(p.mask, plan.work, queries, q_row) +
                                                                 global_row(keys, key) * p.mask.key] != 0;
        if (FILL == FILL_NEG_INF) lives = kept;
#endif
        float x = s[c] * p.scale;
        if (SOFTCAP) x = p.softcap * tanhf(x / p.softcap);
#if BIAS
        if (inside) {
            float bias = reinterpret_cast<const float*>(p.bias.at)[leaf_row(p.bias, plan.work, queries, q_row) +
                                                                   global_row(keys, key) * p.bias.key];
            x += bias;
            if (bias == -INFINITY) lives = false;
        }
#endif
        if (FILL == FILL_REPLACE && !kept) x = p.fill;
        if (FILL == FILL_ADD && !kept) x += p.fill;
        s[c] = lives ? x : -INFINITY;
        if (!lives) dead |= 1u << c;
    }
    return dead;
}

