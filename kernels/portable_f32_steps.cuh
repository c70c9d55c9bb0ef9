// The steps. Returns the keys without part, a bit each: those that do not exist or are out of sight, and those whose score the steps
// leave at −∞.
__device__ inline u32 adjust(const Params& p, const Plan& plan, const At& at, i32 row, i32 lane,
                             float (&s)[KEY_COUNT]) {
    const Rows& keys = p.kv_piece[at.piece].rows;
    const Span span = seen(p, plan, at.piece, row);
    const i32 first_key = at.block * BN + lane;
    const Pairs pairs = {plan.work, p.q_piece[plan.work.piece].rows, query(p, plan, row), keys, first_key};
    run_steps<0, KEY_COUNT>(
        p, pairs, [&](int c) -> float& { return s[c]; }, [](int c) { return 16 * c; });
    u32 dead = 0;
#pragma unroll
    for (int c = 0; c < KEY_COUNT; ++c) {
        const i32 key = first_key + 16 * c;
        if (key < span.begin || key >= span.end) s[c] = -INFINITY;
        if (s[c] == -INFINITY) dead |= 1u << c;
    }
    return dead;
}

