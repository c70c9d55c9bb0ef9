// o += p·v; with CAREFUL, keys without part are passed over: 0·∞ would be NaN.
template <bool CAREFUL>
__device__ inline void add_values(Row (&rows)[ROW_COUNT], const float* weights, const float* v) {
#pragma unroll 1
    for (int key = 0; key < BN; key += 4) {
        float4 w[ROW_COUNT];
#pragma unroll
        for (int r = 0; r < ROW_COUNT; ++r) w[r] = four(weights + r * P_ROW + key);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int c = 0; c < COLUMN_COUNT; c += 4) {
                float4 x = four(v + (key + i) * DV + c * 16);
#pragma unroll
                for (int r = 0; r < ROW_COUNT; ++r) {
                    float weight = i == 0 ? w[r].x : i == 1 ? w[r].y : i == 2 ? w[r].z : w[r].w;
                    if (CAREFUL && float_to_bits(weight) == DEAD) continue;
                    rows[r].o[c] += weight * x.x;
                    rows[r].o[c + 1] += weight * x.y;
                    rows[r].o[c + 2] += weight * x.z;
                    rows[r].o[c + 3] += weight * x.w;
                }
            }
    }
}

// Reads or writes the columns of a row that a thread has: four at a time, 64 apart.
template <class F>
__device__ inline void each_column(i32 lane, i32 width, F f) {
#pragma unroll
    for (int c = 0; c < COLUMN_COUNT; ++c) {
        i32 column = c / 4 * 64 + lane * 4 + c % 4;
        if (column < width) f(c, column);
    }
}

// Joins the carry and the sinks, and writes either the carry or the result.
__device__ inline void finish(const Params& p, const Work& w, Row& row, i32 at_row, i32 lane) {
    const QPiece& piece = p.q_piece[w.piece];
    const bool mine = at_row < piece.rows.len;
#if CARRY_IN || !CAST_OUT
    const i64 head = w.batch * p.q_heads + w.head;
    const i64 at = head * piece.rows.len + at_row, rows = (i64)p.batch * p.q_heads * piece.rows.len;
    float* const carry_o = piece.carry + at * p.dv;
    float* const carry_m = piece.carry + rows * p.dv + at;
    float* const carry_l = carry_m + rows;
#endif
    const i32 width = mine ? p.dv : 0;
    row.l = row_sum(row.l);
#if CARRY_IN
    const float m = mine ? *carry_m : -INFINITY, l = mine ? *carry_l : 0.0f;
    row.refer(m);
    const float there = m == row.m ? 1.0f : weight_of(m, row.m);
    row.l += l * there;
    each_column(lane, width, [&](int c, i32 column) { row.o[c] += carry_o[column] * there; });
    // All threads of the row have read m and l before one of them writes.
    warp_sync();
#endif
#if SINKS
    const float sink =
        mine ? reinterpret_cast<const float*>(p.sinks.at)[leaf_row(p.sinks, w, piece.rows, at_row)] : -INFINITY;
    row.refer(sink);
    row.l += weight_of(sink, row.m);
#endif
#if CAST_OUT
    const bool empty = row.l == 0.0f;
    const i64 out_row = result_row(piece, w.batch, w.head, at_row);
    float* const out = reinterpret_cast<float*>(piece.out) + out_row * p.dv;
    each_column(lane, width, [&](int c, i32 column) { out[column] = empty ? p.empty_row : row.o[c] / row.l; });
    if (piece.lse && mine && lane == 0) piece.lse[out_row] = empty ? -INFINITY : row.m + logf(row.l);
#else
    each_column(lane, width, [&](int c, i32 column) { carry_o[column] = row.o[c]; });
    if (mine && lane == 0) {
        *carry_m = row.m;
        *carry_l = row.l;
    }
#endif
}

__device__ inline i64 key_row(const Params& p, const Work& w, const At& at) {
    return first_key_row(p, w, p.kv_piece[at.piece]) + at.block * BN;
}

__device__ inline void load_keys(const Params& p, const Work& w, float* to, const At& at) {
    const float* k = reinterpret_cast<const float*>(p.kv_piece[at.piece].k);
    load_tile<BN, DK, QK_ROW>(to, k + key_row(p, w, at) * p.dk, p.kv_piece[at.piece].rows.len - at.block * BN, p.dk);
}

__device__ inline void load_values(const Params& p, const Work& w, float* to, const At& at) {
    const float* v = reinterpret_cast<const float*>(p.kv_piece[at.piece].v);
    load_tile<BN, DV, DV>(to, v + key_row(p, w, at) * p.dv, p.kv_piece[at.piece].rows.len - at.block * BN, p.dv);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM) attn_partial(const __grid_constant__ Params p) {
    float* const shared = reinterpret_cast<float*>(shared_base());
    Plan& plan = *reinterpret_cast<Plan*>(shared_base() + PLAN_AT);
    const i32 lane = threadIdx.x % 16, first = threadIdx.x / 16 * ROW_COUNT;  // of the thread's keys and columns; rows

    make_plan(p, plan);

    Row rows[ROW_COUNT];
#pragma unroll
    for (int r = 0; r < ROW_COUNT; ++r) rows[r].reset();

    if (plan.blocks) {
        const Work& w = plan.work;
        const QPiece& piece = p.q_piece[w.piece];
        const float* const q = reinterpret_cast<const float*>(piece.q) + first_query(piece, w) * p.dk;
        load_tile<BM, DK, QK_ROW>(shared + Q_AT, q, piece.rows.len - w.first, p.dk);
        load_keys(p, w, shared + K_AT, At(p, plan, plan.blocks - 1));
    }
    copy_async_commit();

    for (i32 left = plan.blocks; left; --left) {
        const At at(p, plan, left - 1);
        const bool clear = at.clear(p, plan);
        load_values(p, plan.work, shared + V_AT, at);
        copy_async_commit();

        float s[ROW_COUNT][KEY_COUNT];
        copy_async_wait<1>();
        block_sync();
        scores(s, shared + Q_AT + first * QK_ROW, shared + K_AT + lane * QK_ROW);
        block_sync();
        if (left > 1) load_keys(p, plan.work, shared + K_AT, At(p, plan, left - 2));
        copy_async_commit();

        float* const weights = shared + P_AT + first * P_ROW;
#pragma unroll
        for (int r = 0; r < ROW_COUNT; ++r) {
            const u32 dead = adjust(p, plan, at, first + r, lane, s[r]);
            float top = s[r][0];
#pragma unroll
            for (int c = 1; c < KEY_COUNT; ++c) top = max_or_nan(top, s[r][c]);
            rows[r].refer(row_max(top));
#pragma unroll
            for (int c = 0; c < KEY_COUNT; ++c) {
                float weight = weight_of(s[r][c], rows[r].m);
                rows[r].l += weight;
                weights[r * P_ROW + lane + 16 * c] = dead >> c & 1 ? bits_to_float(DEAD) : weight;
            }
        }
        copy_async_wait<1>();
        block_sync();
        if (CAN_HIDE && !clear)
            add_values<true>(rows, weights, shared + V_AT + lane * 4);
        else
            add_values<false>(rows, weights, shared + V_AT + lane * 4);
        block_sync();
    }
#pragma unroll
    for (int r = 0; r < ROW_COUNT; ++r) finish(p, plan.work, rows[r], plan.work.first + first + r, lane);
}
