// attn_partial for sm_90a: a producer warp that feeds shared memory through the copy engine, and WGS warpgroups of 64 query
// rows each that multiply and exponentiate.
//
// A warpgroup issues the scores of the next block, then VALUES_AHEAD of the products of the last one's weights with their
// values, looks for the maxima of the scores, issues the other products, and exponentiates under them: a product that takes
// its weights from registers holds up the instructions behind it until the tensor cores are near it, so that products issued
// all at once would push the softmax behind themselves. Warpgroups take turns at issuing (PINGPONG), so that one's softmax
// lies under the other's products. Blocks of work are handed out by a counter: whoever is free takes the next one.
//
// The structure is that of FlashAttention-3 (arXiv 2407.08608), but for the products in two parts.
//
// A hidden key has a weight of 0, and 0 times an infinite value is NaN: where POSITIONS hide keys, rows with such a result are
// left to the portable kernel behind this one (Params::odd).
//
// The key of a variant, as macros, beside those of softmax.cuh: WGS, BN keys of a block, Q_SLOTS tiles of q in shared memory,
// PINGPONG, VALUES_AHEAD, PRODUCER_REGISTERS and CONSUMER_REGISTERS of a thread.

constexpr int BM = WGS * 64;
constexpr int K_PANELS = DK / 64, V_PANELS = DV / 64;
constexpr int Q_BYTES = BM * DK * 2, K_BYTES = BN * DK * 2, V_BYTES = BN * DV * 2;
constexpr int K_AT = Q_SLOTS * Q_BYTES, V_AT = K_AT + 2 * K_BYTES, BARRIERS_AT = V_AT + 2 * V_BYTES;
constexpr int CONSUMER_WARPS = WGS * 4;

struct Maps {
    TensorMap q[MAX_PIECES], k[MAX_PIECES], v[MAX_PIECES];
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

// Brings o of the tile's carry near, for the consumers read it at the end of the tile, where little hides the wait.
__device__ inline void prefetch_carry(const Params& p, const Work& w) {
    const QPiece& piece = p.q_piece[w.piece];
    const i32 left = piece.rows.len - w.first, rows = left < BM ? left : BM;
    const i64 at = ((i64)w.batch * p.q_heads + w.head) * piece.rows.len + w.first;
    // Where the carry is not aligned, the numbers behind o belong to it.
    const u64 from = (u64)(piece.carry + at * p.dv), more = from % 16 ? 16 : 0;
    prefetch(reinterpret_cast<const void*>(from - from % 16), (u32)(rows * p.dv * 4 + more));
}

__device__ inline void produce(const Params& p, const Maps& m, u8* smem, Barriers& bar) {
    u32 blocks = 0;
    for (u32 tiles = 0;; ++tiles) {
        i32 tile = (i32)atomicAdd(p.counter, 1u);
        bool more = tile < p.tiles;
        Work w = work_of<BM>(p, more ? tile : 0);
        i32 count = more ? count_blocks<BM, BN>(p, w) : -1;
        u32 slot = slot_of<2>(tiles), q_slot = slot_of<Q_SLOTS>(tiles);
        mbarrier_wait(&bar.tile_free[slot], round_of<2>(tiles) ^ 1);
        bar.tile[slot] = {w, count};
        mbarrier_arrive(&bar.tile_full[slot]);
        if (!more) break;
        mbarrier_wait(&bar.q_free[q_slot], round_of<Q_SLOTS>(tiles) ^ 1);
        mbarrier_expect(&bar.q_full[q_slot], Q_BYTES);
#pragma unroll
        for (int i = 0; i < K_PANELS; ++i)
            copy_box(smem + q_slot * Q_BYTES + i * BM * 128, &m.q[w.piece], &bar.q_full[q_slot], i * 64, w.first,
                     w.batch * p.q_heads + w.head);
#if CARRY_IN && WGS < 3  // beside three warpgroups the producer has no registers for it
        prefetch_carry(p, w);
#endif
        i32 head = w.batch * p.kv_heads + key_head(p, w.head);
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

// o += p·v of 64 rows and the keys 16·FROM … 16·TO of a block, 16 a product.
template <int FROM, int TO>
__device__ inline void issue_values(float (&o)[DV / 2], u32 (&weights)[BN / 4], u64 v) {
#pragma unroll
    for (int i = FROM; i < TO; ++i) {
        u32(&a)[4] = *reinterpret_cast<u32(*)[4]>(&weights[4 * i]);
        Wgmma<DV>::from_registers(o, a, tile_advance(v, i * 2048));
    }
}

// Whether the warp's sixteen rows are left to the kernel behind this one.
__device__ inline bool is_left(const Params& p, const float (&o)[DV / 2]) {
#if POSITIONS
    float odd = 0.0f;  // 0·x is NaN if x is not finite
#pragma unroll
    for (int i = 0; i < DV / 2; ++i) odd += o[i] * 0.0f;
    return any_lane(odd != odd) && p.odd;
#else
    return false;
#endif
}

// The first of a thread's two rows in its warpgroup, as the accumulators of wgmma are laid out.
__device__ inline int row_of_thread() { return (threadIdx.x & 127) / 32 * 16 + (threadIdx.x & 31) / 4; }

// The first of a thread's rows in the piece. Found anew where it is used: registers are scarce.
__device__ inline i32 first_row(const Work& w, int wg) { return w.first + forgotten(wg) * 64 + row_of_thread(); }

__device__ inline int lane_of_thread() { return forgotten((int)threadIdx.x) & 31; }

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

