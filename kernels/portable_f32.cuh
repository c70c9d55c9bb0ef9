// attn_partial for sm_80 and later, elements f32: every product and sum in f32, so that a model in f32 gives on a GPU what it
// gives on a CPU. Tensor cores have no such product; of the ways around that, three TF32 products per product lose the last
// two bits, and this is for models that are compared, not served. A block of threads takes BM query rows of one head; its
// threads are a grid of THREADS/16 × 16, each with ROW_COUNT rows, BN/16 keys and DV/16 columns.
//
// Follows contract.cuh, ptx.cuh and plan.cuh. Macros as for portable.cuh, but for
//
//   ELEMENT_F32    1
//   DK, DV         padded: DK to a multiple of 16, DV to one of 64
//   COPY           16 or 4: the larger that divides 4·dk, 4·dv and the address of q, k, v and out
//   WARPS          4 or 8
//   ROW_TILES      1 or 2: BM = WARPS·ROW_TILES·8
//   BN             a multiple of 16
//   BIAS, SINKS    0 or 1
//
// Launch: grid Params::tiles, THREADS threads; shared memory SHARED_BYTES =
// 4·((BM + BN)·(DK + 4) + BN·DV + BM·(BN + 4)) + 84 + (POSITIONS ? 64·BM : 8).
//
//   DK/DV    WARPS ROW_TILES  BN  BLOCKS_PER_SM   shared bytes, POSITIONS 1
//   64         8       1      64       2           72788
//   128        8       1      32       2           80468
//   256        8       1      32       1          146004; where memory is short BN 16, 108884, or with 4 warps, 70996

constexpr int ROW_COUNT = 4 * ROW_TILES, KEY_COUNT = BN / 16, COLUMN_COUNT = DV / 16;

// Rows in shared memory, in floats: four more than there are columns, so that eight rows of the same columns lie in
// different banks.
constexpr int QK_ROW = DK + 4, P_ROW = BN + 4;
constexpr int Q_AT = 0, K_AT = Q_AT + BM * QK_ROW, V_AT = K_AT + BN * QK_ROW, P_AT = V_AT + BN * DV;
constexpr int PLAN_AT = (P_AT + BM * P_ROW) * 4, SHARED_BYTES = PLAN_AT + sizeof(Plan);

// The weight of a key without part. A weight is never negative.
constexpr u32 DEAD = 0x80000000u;

// Brings `rows` rows of `width` numbers; the rest of the tile becomes zero.
template <int ROWS, int D, int STRIDE>
__device__ inline void load_tile(float* tile, const float* from, i32 rows, i32 width) {
#pragma unroll 4
    for (i32 i = threadIdx.x; i < ROWS * (D / 4); i += THREADS) {
        const i32 row = i / (D / 4), column = i % (D / 4) * 4;
#pragma unroll
        for (int j = 0; j < 4; j += COPY / 4) {
            bool take = row < rows && column + j < width;
            copy_async<COPY>(tile + row * STRIDE + column + j, take ? from + (i64)row * width + column + j : from, take);
        }
    }
}

__device__ inline float4 four(const float* at) { return *reinterpret_cast<const float4*>(at); }

// The largest number, or NaN, of the 16 threads that share rows.
__device__ inline float row_max(float x) {
#pragma unroll
    for (int lanes = 1; lanes < 16; lanes *= 2) x = max_or_nan(x, shuffle_xor(x, lanes));
    return x;
}

__device__ inline float row_sum(float x) {
#pragma unroll
    for (int lanes = 1; lanes < 16; lanes *= 2) x += shuffle_xor(x, lanes);
    return x;
}

// exp(x − m); 0 of −∞ even where m is.
__device__ inline float weight_of(float x, float m) { return x == -INFINITY ? 0.0f : expf(x - m); }

// What a thread knows of one of its rows.
struct Row {
    float m, l;
    float o[COLUMN_COUNT];

    __device__ void reset() {
        m = -INFINITY;
        l = 0.0f;
#pragma unroll
        for (int i = 0; i < COLUMN_COUNT; ++i) o[i] = 0.0f;
    }

    // Moves the reference up to `to`.
    __device__ void refer(float to) {
        float top = max_or_nan(m, to);
        if (top == m) return;
        float shrink = weight_of(m, top);
        m = top;
        l *= shrink;
#pragma unroll
        for (int i = 0; i < COLUMN_COUNT; ++i) o[i] *= shrink;
    }
};

// s = q·kᵀ.
__device__ inline void scores(float (&s)[ROW_COUNT][KEY_COUNT], const float* q, const float* k) {
#pragma unroll
    for (int r = 0; r < ROW_COUNT; ++r)
#pragma unroll
        for (int c = 0; c < KEY_COUNT; ++c) s[r][c] = 0.0f;
#pragma unroll 4
    for (int d = 0; d < DK; d += 4) {
        float4 a[ROW_COUNT];
#pragma unroll
        for (int r = 0; r < ROW_COUNT; ++r) a[r] = four(q + r * QK_ROW + d);
#pragma unroll
        for (int c = 0; c < KEY_COUNT; ++c) {
            float4 b = four(k + c * 16 * QK_ROW + d);
#pragma unroll
            for (int r = 0; r < ROW_COUNT; ++r)
                s[r][c] += a[r].x * b.x + a[r].y * b.y + a[r].z * b.z + a[r].w * b.w;
        }
    }
}

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
    const i64 head = w.batch * p.q_heads + w.head;
#if CARRY_IN || !CAST_OUT
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
    const i64 out_row = head * p.q_rows + piece.rows.local + at_row;
    float* const out = reinterpret_cast<float*>(p.out) + out_row * p.dv;
    each_column(lane, width, [&](int c, i32 column) { out[column] = empty ? p.empty_row : row.o[c] / row.l; });
    if (p.lse && mine && lane == 0) p.lse[out_row] = empty ? -INFINITY : row.m + logf(row.l);
#else
    each_column(lane, width, [&](int c, i32 column) { carry_o[column] = row.o[c]; });
    if (mine && lane == 0) {
        *carry_m = row.m;
        *carry_l = row.l;
    }
#endif
}

__device__ inline i64 key_row(const Params& p, const Work& w, const At& at) {
    const i32 head = w.batch * p.kv_heads + w.head / (p.q_heads / p.kv_heads);
    return (i64)head * p.kv_piece[at.piece].rows.len + at.block * BN;
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
        const Rows& queries = p.q_piece[w.piece].rows;
        const i64 row = ((i64)w.batch * p.q_heads + w.head) * p.q_rows + queries.local + w.first;
        load_tile<BM, DK, QK_ROW>(shared + Q_AT, reinterpret_cast<const float*>(p.q) + row * p.dk, queries.len - w.first, p.dk);
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
