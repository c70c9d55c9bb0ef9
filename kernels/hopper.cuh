// attn_partial for sm_90a: a producer warp that feeds shared memory through the copy engine, and WGS warpgroups of 64 query
// rows each that multiply and exponentiate.
//
// A warpgroup issues the scores of the next block before the product of the last one with its values, and takes the softmax
// of the former while the latter runs. Warpgroups take turns at issuing (PINGPONG), so that one's softmax lies under the
// other's products. Blocks of work are handed out by a counter: whoever is free takes the next one.
//
// The structure is that of FlashAttention-3 (arXiv 2407.08608).

constexpr int BM = WGS * 64;
constexpr int K_PANELS = DK / 64, V_PANELS = DV / 64;
constexpr int Q_BYTES = BM * DK * 2, K_BYTES = BN * DK * 2, V_BYTES = BN * DV * 2;
constexpr int K_AT = Q_SLOTS * Q_BYTES, V_AT = K_AT + 2 * K_BYTES, BARRIERS_AT = V_AT + 2 * V_BYTES;
constexpr int CONSUMER_WARPS = WGS * 4;

struct Maps {
    TensorMap q, k[MAX_PIECES], v[MAX_PIECES];
};

// What the producer tells the consumers of a tile: where it lies, and how many blocks of keys it has; −1 for no more tiles.
struct TileMail {
    Work work;
    i32 blocks;
};

// And of a block of keys.
struct BlockMail {
    i32 piece, block;
};

struct Barriers {
    u64 q_full[Q_SLOTS], q_free[Q_SLOTS];
    u64 k_full[2], k_free[2], v_full[2], v_free[2];
    u64 tile_full[2], tile_free[2];
    TileMail tile[2];
    BlockMail block[2];
};

// Uses of a ring of N buffers are counted: the slot of use n, and the parity of its round.
template <int N>
__device__ inline u32 slot_of(u32 n) {
    return n % N;
}

template <int N>
__device__ inline u32 round_of(u32 n) {
    return n / N & 1;
}

// ---- the producer: one thread ------------------------------------------------------------------------------------------

__device__ inline void load_keys(const Maps& m, u8* smem, Barriers& bar, i32 head, i32 piece, i32 block, u32 n) {
    u32 slot = slot_of<2>(n);
    mbarrier_wait(&bar.k_free[slot], round_of<2>(n) ^ 1);
    bar.block[slot] = {piece, block};
    mbarrier_expect(&bar.k_full[slot], K_BYTES);
#pragma unroll
    for (int i = 0; i < K_PANELS; ++i)
        copy_box(smem + K_AT + slot * K_BYTES + i * BN * 128, &m.k[piece], &bar.k_full[slot], i * 64, block * BN, head);
}

__device__ inline void load_values(const Maps& m, u8* smem, Barriers& bar, i32 head, i32 piece, i32 block, u32 n) {
    u32 slot = slot_of<2>(n);
    mbarrier_wait(&bar.v_free[slot], round_of<2>(n) ^ 1);
    mbarrier_expect(&bar.v_full[slot], V_BYTES);
#pragma unroll
    for (int i = 0; i < V_PANELS; ++i)
        copy_box(smem + V_AT + slot * V_BYTES + i * BN * 128, &m.v[piece], &bar.v_full[slot], i * 64, block * BN, head);
}

__device__ inline void produce(const Params& p, const Maps& m, u8* smem, Barriers& bar) {
    u32 blocks = 0;
    for (u32 tiles = 0;; ++tiles) {
        i32 tile = (i32)atomicAdd(p.counter, 1u);
        bool more = tile < p.tiles;
        Work w = work_of<BM>(p, more ? tile : 0);
        u32 slot = slot_of<2>(tiles), q_slot = slot_of<Q_SLOTS>(tiles);
        mbarrier_wait(&bar.tile_free[slot], round_of<2>(tiles) ^ 1);
        bar.tile[slot] = {w, more ? count_blocks<BM, BN>(p, w) : -1};
        mbarrier_arrive(&bar.tile_full[slot]);
        if (!more) break;
        mbarrier_wait(&bar.q_free[q_slot], round_of<Q_SLOTS>(tiles) ^ 1);
        mbarrier_expect(&bar.q_full[q_slot], Q_BYTES);
#pragma unroll
        for (int i = 0; i < K_PANELS; ++i)
            copy_box(smem + q_slot * Q_BYTES + i * BM * 128, &m.q, &bar.q_full[q_slot], i * 64,
                     p.q_piece[w.piece].rows.local + w.first, w.batch * p.q_heads + w.head);
        i32 head = w.batch * p.kv_heads + w.head / (p.q_heads / p.kv_heads);
        // Keys of a block, then the values of the one before: in this order they are needed.
        i32 piece = -1, block = 0;
        for (Blocks<BM, BN> at(p, w); !at.done(); at.next(p, w), ++blocks) {
            load_keys(m, smem, bar, head, at.piece, at.block, blocks);
            if (piece >= 0) load_values(m, smem, bar, head, piece, block, blocks - 1);
            piece = at.piece;
            block = at.block;
        }
        if (piece >= 0) load_values(m, smem, bar, head, piece, block, blocks - 1);
    }
    // The last block to leave clears the counter for the next launch.
    if (atomicInc(p.counter + 1, gridDim.x - 1) == gridDim.x - 1) atomicExch(p.counter, 0u);
}

// ---- the consumers -----------------------------------------------------------------------------------------------------

// Warpgroups take turns at the tensor cores.
__device__ inline void turn_wait(int wg) {
#if PINGPONG
    if (wg == 0) barrier_sync<1, 256>();
    if (wg == 1) barrier_sync<2, 256>();
    if (WGS > 2 && wg == 2) barrier_sync<3, 256>();
#endif
}

__device__ inline void turn_pass(int wg) {
#if PINGPONG
    int next = wg + 1 == WGS ? 0 : wg + 1;
    if (next == 0) barrier_arrive<1, 256>();
    if (next == 1) barrier_arrive<2, 256>();
    if (WGS > 2 && next == 2) barrier_arrive<3, 256>();
#endif
}

// s = q·kᵀ of 64 rows and BN keys.
__device__ inline void issue_scores(float (&s)[BN / 2], u64 q, u64 k) {
    // Sums of descriptors are made here, not kept through the loop.
    q = tile_pin(q);
#pragma unroll
    for (int i = 0; i < DK / 16; ++i) {
        u32 inside = (i % 4) * 32;
        Wgmma<BN>::from_shared(s, tile_advance(q, (i / 4) * BM * 128 + inside), tile_advance(k, (i / 4) * BN * 128 + inside),
                               i > 0);
    }
}

// o += p·v of 64 rows and BN keys, 16 keys a product.
__device__ inline void issue_values(float (&o)[DV / 2], u32 (&weights)[BN / 4], u64 v) {
#pragma unroll
    for (int i = 0; i < BN / 16; ++i) {
        u32(&a)[4] = *reinterpret_cast<u32(*)[4]>(&weights[4 * i]);
        Wgmma<DV>::from_registers(o, a, tile_advance(v, i * 2048));
    }
}

// The first of a thread's two rows in its warpgroup, as the accumulators of wgmma are laid out.
__device__ inline int row_of_thread() { return (threadIdx.x & 127) / 32 * 16 + (threadIdx.x & 31) / 4; }

// 2^x for x < 128 without the special-function unit, whose 16 results a clock bound small heads (cf. FlashAttention-4): the
// polynomial is within 1e-4 of 2^f for |f| ≤ 1/2, finer than the rounding of weights to 16 bits. From −127 down it is 0.
__device__ inline float exp2_by_fma(float x) {
    x = max_or_nan(x, -127.0f);
    float shifted = x + 12582912.0f;  // 1.5·2^23: the sum's low bits are x rounded to an integer
    float f = x - (shifted - 12582912.0f);
    float y = ((0.0550084f * f + 0.2422097f) * f + 0.6932829f) * f + 1.0f;
    return bits_to_float(float_to_bits(y) + (float_to_bits(shifted) << 23));
}

// What a thread knows of its two rows, `half` 0 and 1, eight rows apart.
struct Softmax {
    float m[2], zero[2], l[2];  // reference, the same in exponents of two, the thread's share of the sum

    __device__ void reset() {
        m[0] = m[1] = -INFINITY;
        zero[0] = zero[1] = 0.0f;
        l[0] = l[1] = 0.0f;
    }

    // Moves the reference; returns the factor exp(old − new). In exponents −∞ stands as 0, so that no key is 2^−∞ and not
    // NaN, and ∞ as NaN, as ∞ − ∞ is.
    __device__ float refer(int half, float to) {
        float before = m[half] == -INFINITY ? -INFINITY : zero[half];
        float now = product(to, LOG2E);
        now = to == -INFINITY ? 0.0f : now;
        now = to == INFINITY ? NAN : now;
        m[half] = to;
        zero[half] = now;
        return exp2_fast(before - now);
    }

    // Turns scores into weights exp(score − m) and adds them to l; o must be multiplied by `shrink`. The reference lags while
    // the maximum grows by less than a factor 2^8, which changes no result, for o and l share it, and saves rescaling o. No
    // branch, so that one row's maximum, the exponentials and the packing share the clocks of the special-function unit.
    __device__ void weigh(float (&s)[BN / 2], float unit, float (&shrink)[2]) {
        const float factor = unit * LOG2E;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float top[2] = {s[2 * h], s[2 * h + 1]};
#pragma unroll
            for (int i = 4; i < BN / 2; i += 4) {
                top[0] = max_or_nan(top[0], s[i + 2 * h]);
                top[1] = max_or_nan(top[1], s[i + 2 * h + 1]);
            }
            float x = max_or_nan(top[0], top[1]);
            x = max_or_nan(x, shuffle_xor(x, 1));
            x = max_or_nan(x, shuffle_xor(x, 2));
            float peak = x * unit;
            shrink[h] = refer(h, peak <= m[h] + 5.5f ? m[h] : peak);  // 8·ln 2
            float sum[2] = {l[h] * shrink[h], 0.0f};
#pragma unroll
            for (int i = 0; i < BN / 2; i += 4) {
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float& y = s[i + 2 * h + e];
                    float x = y * factor - zero[h];
                    y = i / 4 % 8 < EXP2_BY_FMA ? exp2_by_fma(x) : exp2_fast(x);
                    sum[e] += y;
                }
            }
            l[h] = sum[0] + sum[1];
        }
    }
};

// Which keys of a piece a thread's two rows see, and which all rows of its warpgroup see.
struct Sight {
    Span row[2];
    Span all;

    __device__ void look(const Params& p, const Work& w, i32 piece, int wg) {
        const Rows& q = p.q_piece[w.piece].rows;
        const Rows& keys = p.kv_piece[piece].rows;
        i32 first = w.first + wg * 64, last = q.len - 1;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            i32 mine = first + row_of_thread() + 8 * h;
            row[h] = visible(p, keys, w.batch, global_row(q, mine < last ? mine : last));
        }
        all.begin = visible(p, keys, w.batch, global_row(q, first + 63 < last ? first + 63 : last)).begin;
        all.end = visible(p, keys, w.batch, global_row(q, first < last ? first : last)).end;
    }

    // Puts −∞ where a key is out of sight.
    __device__ void cover(float (&s)[BN / 2], i32 block) const {
        i32 key = block * BN + 2 * (threadIdx.x & 3);
        if (block * BN >= all.begin && (block + 1) * BN <= all.end) return;
        u32 width0 = row[0].end - row[0].begin, width1 = row[1].end - row[1].begin;
        i32 key0 = key - row[0].begin, key1 = key - row[1].begin;
#pragma unroll
        for (int i = 0; i < BN / 2; ++i) {
            i32 step = 8 * (i / 4) + (i & 1);
            bool seen = (i >> 1) & 1 ? (u32)(key1 + step) < width1 : (u32)(key0 + step) < width0;
            if (!seen) s[i] = -INFINITY;
        }
    }
};

// Before the softmax: softcap and mask.
__device__ inline void prepare(const Params& p, const Sight& sight, float (&s)[BN / 2], i32 block) {
#if SOFTCAP
    // tanh(x) = 1 − 2/(1 + e^2x)
    float in = p.scale / p.softcap * 2.0f * LOG2E;
#pragma unroll
    for (int i = 0; i < BN / 2; ++i)
        s[i] = p.softcap - 2.0f * p.softcap * reciprocal_fast(1.0f + exp2_fast(s[i] * in));
#endif
    sight.cover(s, block);
}

__device__ inline void pack_weights(u32 (&weights)[BN / 4], const float (&s)[BN / 2]) {
#pragma unroll
    for (int i = 0; i < BN / 4; ++i) weights[i] = pack_elements(s[2 * i], s[2 * i + 1]);
}

__device__ inline void shrink_rows(float (&o)[DV / 2], const float (&shrink)[2]) {
#pragma unroll
    for (int i = 0; i < DV / 2; ++i) o[i] *= shrink[(i >> 1) & 1];
}

// After the last block: joins the carry and the sinks, and writes either the carry or the result.
__device__ inline void finish(const Params& p, const Work& w, float (&o)[DV / 2], Softmax& soft, int wg) {
    const int lane = threadIdx.x & 31, row_in_group = row_of_thread();
    const QPiece& piece = p.q_piece[w.piece];
    i32 head = w.batch * p.q_heads + w.head;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        float l = soft.l[h];
        l += shuffle_xor(l, 1);
        l += shuffle_xor(l, 2);
        i32 row = w.first + wg * 64 + row_in_group + 8 * h;
        bool mine = row < piece.rows.len;
        i64 at = (i64)head * piece.rows.len + row;
        i64 rows = (i64)p.batch * p.q_heads * piece.rows.len;
        float* carry_o = piece.carry + at * p.dv + 2 * (lane & 3);
        float* carry_m = piece.carry + rows * p.dv + at;
        float* carry_l = carry_m + rows;
#if CARRY_IN
        {
            float m = mine ? *carry_m : -INFINITY, before = mine ? *carry_l : 0.0f;
            float here = soft.refer(h, max_or_nan(soft.m[h], m));
            float there = m == -INFINITY ? 0.0f : exp2_fast(product(m, LOG2E) - soft.zero[h]);
            l = l * here + before * there;
#pragma unroll
            for (int i = 0; i < DV / 8; ++i) {
                bool inside = mine && 8 * i < p.dv;
                float2 c = inside ? *reinterpret_cast<const float2*>(carry_o + 8 * i) : make_float2(0.0f, 0.0f);
                o[4 * i + 2 * h] = o[4 * i + 2 * h] * here + c.x * there;
                o[4 * i + 2 * h + 1] = o[4 * i + 2 * h + 1] * here + c.y * there;
            }
            // All four lanes of the row have read m and l before one of them writes.
            warp_sync();
        }
#endif
#if SINKS
        {
            i64 leaf = w.batch * p.sinks.batch + w.head * p.sinks.head +
                       (p.sinks.local_rows ? piece.rows.local + row : global_row(piece.rows, row)) * p.sinks.row;
            float sink = mine ? reinterpret_cast<const float*>(p.sinks.at)[leaf] : -INFINITY;
            float here = soft.refer(h, max_or_nan(soft.m[h], sink));
            l = l * here + (sink == -INFINITY ? 0.0f : exp2_fast(product(sink, LOG2E) - soft.zero[h]));
#pragma unroll
            for (int i = 0; i < DV / 8; ++i) {
                o[4 * i + 2 * h] *= here;
                o[4 * i + 2 * h + 1] *= here;
            }
        }
#endif
#if CAST_OUT
        float inverse = reciprocal_fast(l);
        bool empty = l == 0.0f;
        i64 out_row = (i64)head * p.q_rows + piece.rows.local + row;
        u16* out = reinterpret_cast<u16*>(p.out) + out_row * p.dv;
#pragma unroll
        for (int i = 0; i < DV / 32; ++i) {
            u32 x[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                int at = 16 * i + 4 * j + 2 * h;
                x[j] = empty ? pack_elements(p.empty_row, p.empty_row) : pack_elements(o[at] * inverse, o[at + 1] * inverse);
            }
            // Four lanes hold two columns each of four groups of eight; after the exchange each holds one group.
            transpose_quad(x, lane);
            i32 column = 32 * i + 8 * (lane & 3);
            if (mine && column < p.dv) *reinterpret_cast<uint4*>(out + column) = make_uint4(x[0], x[1], x[2], x[3]);
        }
        if (p.lse && mine && (lane & 3) == 0) p.lse[out_row] = empty ? -INFINITY : (soft.zero[h] + log2_fast(l)) * LN2;
#else
        if (mine) {
#pragma unroll
            for (int i = 0; i < DV / 8; ++i)
                if (8 * i < p.dv)
                    *reinterpret_cast<float2*>(carry_o + 8 * i) = make_float2(o[4 * i + 2 * h], o[4 * i + 2 * h + 1]);
            if ((lane & 3) == 0) {
                *carry_m = soft.m[h];
                *carry_l = l;
            }
        }
#endif
    }
}

__device__ inline void consume(const Params& p, u8* smem, Barriers& bar, int wg) {
    const u64 q_tile = tile_descriptor(smem + wg * 64 * 128, 16, 1024);
    const u64 k_tile = tile_descriptor(smem + K_AT, 16, 1024);
    const u64 v_tile = tile_descriptor(smem + V_AT, BN * 128, 1024);
    const float unit = SOFTCAP ? 1.0f : p.scale;
    const bool leads = (threadIdx.x & 31) == 0;  // arrives for its warp
    float s[BN / 2], o[DV / 2], shrink[2];
    u32 weights[BN / 4];
    u32 blocks = 0;  // of all tiles so far; the scores of a block are one ahead of its values
    Softmax soft;
    Sight sight;
    if (wg == WGS - 1) turn_pass(wg);  // the first turn is warpgroup 0's
    for (u32 tiles = 0;; ++tiles) {
        mbarrier_wait(&bar.tile_full[slot_of<2>(tiles)], round_of<2>(tiles));
        const TileMail& tile = bar.tile[slot_of<2>(tiles)];
        i32 left = tile.blocks;
        if (left < 0) break;
        const u64 q_here = tile_advance(q_tile, slot_of<Q_SLOTS>(tiles) * Q_BYTES);
        soft.reset();
#pragma unroll
        for (int i = 0; i < DV / 2; ++i) o[i] = 0.0f;
        mbarrier_wait(&bar.q_full[slot_of<Q_SLOTS>(tiles)], round_of<Q_SLOTS>(tiles));
        if (left == 0 && leads) mbarrier_arrive(&bar.q_free[slot_of<Q_SLOTS>(tiles)]);
        if (left > 0) {
            mbarrier_wait(&bar.k_full[slot_of<2>(blocks)], round_of<2>(blocks));
            const BlockMail at = bar.block[slot_of<2>(blocks)];
            warp_sync();  // all lanes have read it before one of them frees the slot
            i32 piece = at.piece;
            sight.look(p, tile.work, piece, wg);
            turn_wait(wg);
            hold(s);
            wgmma_fence();
            issue_scores(s, q_here, tile_advance(k_tile, slot_of<2>(blocks) * K_BYTES));
            wgmma_commit();
            turn_pass(wg);
            wgmma_wait<0>();
            hold(s);
            if (leads) mbarrier_arrive(&bar.k_free[slot_of<2>(blocks)]);
            if (left == 1 && leads) mbarrier_arrive(&bar.q_free[slot_of<Q_SLOTS>(tiles)]);
            prepare(p, sight, s, at.block);
            soft.weigh(s, unit, shrink);
            pack_weights(weights, s);
            for (; --left > 0; ++blocks) {
                mbarrier_wait(&bar.k_full[slot_of<2>(blocks + 1)], round_of<2>(blocks + 1));
                const BlockMail at = bar.block[slot_of<2>(blocks + 1)];
                warp_sync();
                turn_wait(wg);
                hold(s);
                hold(o);
                hold(weights);
                wgmma_fence();
                issue_scores(s, q_here, tile_advance(k_tile, slot_of<2>(blocks + 1) * K_BYTES));
                wgmma_commit();
                mbarrier_wait(&bar.v_full[slot_of<2>(blocks)], round_of<2>(blocks));
                wgmma_fence();
                issue_values(o, weights, tile_advance(v_tile, slot_of<2>(blocks) * V_BYTES));
                wgmma_commit();
                turn_pass(wg);
                if (at.piece != piece) {
                    piece = at.piece;
                    sight.look(p, tile.work, piece, wg);
                }
                wgmma_wait<1>();
                hold(s);
                if (leads) mbarrier_arrive(&bar.k_free[slot_of<2>(blocks + 1)]);
                if (left == 1 && leads) mbarrier_arrive(&bar.q_free[slot_of<Q_SLOTS>(tiles)]);
                prepare(p, sight, s, at.block);
                soft.weigh(s, unit, shrink);
                wgmma_wait<0>();
                hold(o);
                hold(weights);
                if (leads) mbarrier_arrive(&bar.v_free[slot_of<2>(blocks)]);
                pack_weights(weights, s);
                if (any_lane(shrink[0] != 1.0f || shrink[1] != 1.0f)) shrink_rows(o, shrink);
            }
            mbarrier_wait(&bar.v_full[slot_of<2>(blocks)], round_of<2>(blocks));
            hold(o);
            hold(weights);
            wgmma_fence();
            issue_values(o, weights, tile_advance(v_tile, slot_of<2>(blocks) * V_BYTES));
            wgmma_commit();
            wgmma_wait<0>();
            hold(o);
            if (leads) mbarrier_arrive(&bar.v_free[slot_of<2>(blocks)]);
            ++blocks;
        }
        finish(p, tile.work, o, soft, wg);
        warp_sync();
        if (leads) mbarrier_arrive(&bar.tile_free[slot_of<2>(tiles)]);
    }
}

extern "C" __global__ void __launch_bounds__((WGS + 1) * 128, 1)
    attn_partial(const __grid_constant__ Params p, const __grid_constant__ Maps maps) {
    u8* smem = shared_base();
    Barriers& bar = *reinterpret_cast<Barriers*>(smem + BARRIERS_AT);
    if (threadIdx.x == 0) {
        for (int i = 0; i < Q_SLOTS; ++i) {
            mbarrier_init(&bar.q_full[i], 1);
            mbarrier_init(&bar.q_free[i], CONSUMER_WARPS);
        }
        for (int i = 0; i < 2; ++i) {
            mbarrier_init(&bar.k_full[i], 1);
            mbarrier_init(&bar.v_full[i], 1);
            mbarrier_init(&bar.k_free[i], CONSUMER_WARPS);
            mbarrier_init(&bar.v_free[i], CONSUMER_WARPS);
        }
        for (int i = 0; i < 2; ++i) {
            mbarrier_init(&bar.tile_full[i], 1);
            mbarrier_init(&bar.tile_free[i], CONSUMER_WARPS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        registers_down<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) produce(p, maps, smem, bar);
    } else {
        registers_up<CONSUMER_REGISTERS>();
        consume(p, smem, bar, first_lane((int)threadIdx.x / 128) - 1);
    }
}
