// attn_partial for sm_80 and later, elements of 16 bits: mma.sync on fragments from ldmatrix, keys and values brought by
// cp.async one block ahead. A block of threads takes one tile: BM = WARPS·ROW_TILES·16 query rows of one head.
//
// Follows contract.cuh, ptx.cuh, plan.cuh and softmax.cuh. The key of a variant, as macros:
//
//   ELEMENT_BF16   1 bf16, 0 f16
//   DK, DV         head sizes, padded: DK to a multiple of 16, DV to one of 32; the true ones are Params::dk and dv
//   COPY           bytes of one copy, 16, 4 or 2: the largest that divides 2·dk, 2·dv and the address of q, k, v and out
//   WARPS          4 or 8
//   ROW_TILES      16-row tiles of a warp, 1 or 2
//   BN             keys of a block, a multiple of 16
//   BLOCKS_PER_SM  for __launch_bounds__
//   POSITIONS      1 if rows decide what is visible (causal, window, documents)
//   MASK           1 if Params::mask holds a boolean tile, nonzero for kept
//   BIAS           0, 1 (f32) or 2 (element type)
//   FILL           what masked scores become: FILL_NEG_INF 0, FILL_REPLACE 1 (Params::fill), FILL_ADD 2 (score + fill)
//   SOFTCAP        1 if Params::softcap holds
//   CARRY_IN       1 if the carry takes part, else it is (0, −∞, 0)
//   CAST_OUT       1 if out (and lse) are written, else the carry
//   SINKS          0, 1 (f32) or 2 (element type); only with CAST_OUT
//
// Launch: grid Params::tiles = batch · q_heads · Σ over query pieces of ⌈len/BM⌉; WARPS·32 threads; shared memory
// SHARED_BYTES = 2·BM·DK + 4·BN·(max(DK, 16·WARPS) + DV) + 84 + (POSITIONS ? 64·BM : 8). Params::counter is not used.
//
//   DK/DV      WARPS ROW_TILES  BN  BLOCKS_PER_SM   shared bytes with POSITIONS
//   ≤ 64         4       2      64       2           57428 at 64
//   ≤ 128        4       2      48       2           90196 at 128
//   ≤ 192/128    4       2      48       1          118868 at 192/128
//   ≤ 256        8       1      64       1          204884 at 256
//
// With MASK, BIAS or COPY < 16 one row tile, for those need registers; src/lower/tile.rs has the cuts for architectures with
// less shared memory.
//
// With two row tiles each fragment of k and v serves two products, which halves the traffic of shared memory; o and s then
// fill the registers: 128 + 96 of 255 at 128 and 48 keys, and with 64 keys some variants spill. Two blocks on a
// multiprocessor keep the tensor cores busy while one of them is in its softmax.
//
// The structure is that of FlashAttention-2 (arXiv 2307.08691). A masked key takes no part even where its value is infinite
// or NaN: blocks that need masking look for such values, and take a path that keeps 0·∞ out of the sums.

constexpr int WARP_ROWS = ROW_TILES * 16;
constexpr int Q_BYTES = BM * DK * 2, K_BYTES = BN * (DK > WARPS * 16 ? DK : WARPS * 16) * 2, V_BYTES = BN * DV * 2;
constexpr int PLAN_AT = Q_BYTES + 2 * (K_BYTES + V_BYTES), SHARED_BYTES = PLAN_AT + sizeof(Plan);

// ---- tiles in shared memory --------------------------------------------------------------------------------------------

// A tile has rows of D elements in chunks of 16 bytes, whose places within groups of GROUP are permuted by the row, so that
// eight rows of the same chunk lie in eight different banks.
template <int D>
struct Tile {
    static constexpr int GROUP = D % 64 == 0 ? 8 : D % 32 == 0 ? 4 : 2;
    static constexpr int ROW_BYTES = D * 2;

    __device__ static int twist(int row) { return row / (8 / GROUP) % GROUP; }
};

// Where a lane finds fragments of the tile at `tile`, an offset in shared memory. The chunk of a column differs from the
// lane's first by an exclusive or within the group, so few addresses are made, and the rest is in the instruction.
template <int D>
struct Fragments {
    u32 first;

    __device__ Fragments(u32 tile, int lane_row, int lane_chunk)
        : first(tile + lane_row * Tile<D>::ROW_BYTES + (Tile<D>::twist(lane_row) ^ lane_chunk) * 16) {}

    // In 16 rows and 16 columns from row 16·rows and column 16·columns on.
    __device__ const u8* at(int rows, int columns) const {
        constexpr int PAIRS = Tile<D>::GROUP / 2;
        const u8* chunk = shared_base() + (first ^ columns % PAIRS * 32);
        return chunk + columns / PAIRS * PAIRS * 32 + rows * 16 * Tile<D>::ROW_BYTES;
    }
};

// Calls f(chunk's place in the tile, row, column of its first element) for every chunk that is the thread's to bring.
template <int ROWS, int D, class F>
__device__ inline void each_chunk(F f) {
    constexpr int GROUP = Tile<D>::GROUP, STEP = THREADS / GROUP;
    const int chunk = threadIdx.x % GROUP, first = threadIdx.x / GROUP;
    const int place = first * Tile<D>::ROW_BYTES + (Tile<D>::twist(first) ^ chunk) * 16;
#pragma unroll(COPY == 2 ? 1 : ROWS)
    for (int r = 0; r < ROWS; r += STEP) {
        if (ROWS % STEP != 0 && first + r >= ROWS) break;
#pragma unroll(COPY == 2 ? 1 : D)
        for (int c = 0; c < D; c += GROUP * 8) f(place + r * Tile<D>::ROW_BYTES + c * 2, first + r, chunk * 8 + c);
    }
}

// Brings `rows` rows of `width` elements; the rest of the tile becomes zero.
template <int ROWS, int D>
__device__ inline void load_tile(u8* tile, const void* from, i32 rows, i32 width) {
    const u16* source = reinterpret_cast<const u16*>(from);
    each_chunk<ROWS, D>([&](int place, int row, int column) {
        const u16* at = source + row * width + column;
        if (COPY == 2) {
            u16* to = reinterpret_cast<u16*>(tile + place);
#pragma unroll
            for (int i = 0; i < 8; ++i) to[i] = row < rows && column + i < width ? at[i] : (u16)0;
        } else {
#pragma unroll
            for (int i = 0; i < 8; i += COPY / 2) {
                bool take = row < rows && column + i < width;
                copy_async<COPY>(tile + place + i * 2, at + i, take);
            }
        }
    });
}

// Nonzero if a half of the word is infinite or NaN.
__device__ inline u32 not_finite(u32 x) {
    constexpr u32 EXPONENT = ELEMENT_BF16 ? 0x7f807f80u : 0x7c007c00u, STEP = ELEMENT_BF16 ? 0x00800080u : 0x04000400u;
    return ((x & EXPONENT) + STEP) & 0x80008000u;
}

// Whether a chunk that the thread brought holds an infinity or a NaN.
template <int ROWS, int D>
__device__ inline bool holds_not_finite(const u8* tile) {
    u32 found = 0;
    each_chunk<ROWS, D>([&](int place, int, int) {
        uint4 x = *reinterpret_cast<const uint4*>(tile + place);
        found |= not_finite(x.x) | not_finite(x.y) | not_finite(x.z) | not_finite(x.w);
    });
    return found != 0;
}

// ---- products ----------------------------------------------------------------------------------------------------------

template <int N>
__device__ inline float (&quad(float (&x)[N], int i))[4] {
    return *reinterpret_cast<float(*)[4]>(&x[4 * i]);
}

template <int N>
__device__ inline const u32 (&quad(const u32 (&x)[N], int i))[4] {
    return *reinterpret_cast<const u32(*)[4]>(&x[4 * i]);
}

// s = q·kᵀ of the warp's rows and BN keys.
__device__ inline void scores(float (&s)[ROW_TILES][BN / 2], const Fragments<DK>& q, const Fragments<DK>& k) {
#pragma unroll
    for (int t = 0; t < ROW_TILES; ++t)
#pragma unroll
        for (int i = 0; i < BN / 2; ++i) s[t][i] = 0.0f;
#pragma unroll(DK > 192 ? 4 : DK)
    for (int d = 0; d < DK / 16; ++d) {
        u32 a[ROW_TILES][4];
#pragma unroll
        for (int t = 0; t < ROW_TILES; ++t) load_matrix_x4(a[t], q.at(t, d));
#pragma unroll
        for (int n = 0; n < BN / 16; ++n) {
            u32 b[4];
            load_matrix_x4(b, k.at(n, d));
#pragma unroll
            for (int t = 0; t < ROW_TILES; ++t) {
                mma_16x8x16(quad(s[t], 2 * n), a[t], b[0], b[1]);
                mma_16x8x16(quad(s[t], 2 * n + 1), a[t], b[2], b[3]);
            }
        }
    }
}

// o += weights·v.
__device__ inline void add_values(float (&o)[ROW_TILES][DV / 2], const u32 (&weights)[ROW_TILES][BN / 4],
                                  const Fragments<DV>& v) {
#pragma unroll
    for (int k = 0; k < BN / 16; ++k)
#pragma unroll
        for (int n = 0; n < DV / 16; ++n) {
            u32 b[4];
            load_matrix_x4_transposed(b, v.at(k, n));
#pragma unroll
            for (int t = 0; t < ROW_TILES; ++t) {
                mma_16x8x16(quad(o[t], 2 * n), quad(weights[t], k), b[0], b[1]);
                mma_16x8x16(quad(o[t], 2 * n + 1), quad(weights[t], k), b[2], b[3]);
            }
        }
}

// The same for 16 rows, key by key, passing over weights that bear the sign bit of a key without part: 0·∞ would be NaN.
// The weights come from shared memory, rows of BN.
__device__ inline void add_values_by_key(float (&o)[DV / 2], const u16* weights, const u8* v, int lane) {
    const u16* row = weights + lane / 4 * BN;
#pragma unroll 1
    for (i32 key = 0; key < BN; ++key) {
        const u16 weight[2] = {row[key], row[8 * BN + key]};
        const float factor[2] = {element_to_float(weight[0]), element_to_float(weight[1])};
        const u8* values = v + key * Tile<DV>::ROW_BYTES + (lane & 3) * 4;
#pragma unroll
        for (int n = 0; n < DV / 8; ++n) {
            u32 x = *reinterpret_cast<const u32*>(values + (n ^ Tile<DV>::twist(key)) * 16);
            float low = element_to_float((u16)x), high = element_to_float((u16)(x >> 16));
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                if (weight[h] & 0x8000) continue;
                o[4 * n + 2 * h] += factor[h] * low;
                o[4 * n + 2 * h + 1] += factor[h] * high;
            }
        }
    }
}

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

// ---- the kernel --------------------------------------------------------------------------------------------------------

__device__ inline void load_queries(const Params& p, const Work& w, u8* tile) {
    const Rows& rows = p.q_piece[w.piece].rows;
    const i64 row = ((i64)w.batch * p.q_heads + w.head) * p.q_rows + rows.local + w.first;
    load_tile<BM, DK>(tile, reinterpret_cast<const u16*>(p.q) + row * p.dk, rows.len - w.first, p.dk);
}

// Of the block with so many left, itself included: k, then v.
__device__ inline u32 buffer_of(i32 left) { return Q_BYTES + (left & 1) * (K_BYTES + V_BYTES); }

// Keys and values of a block into a buffer.
__device__ inline void load_block(const Params& p, const Work& w, u8* buffer, const At& at) {
    const KvPiece& kv = p.kv_piece[at.piece];
    const i32 head = w.batch * p.kv_heads + w.head / (p.q_heads / p.kv_heads);
    const i64 row = (i64)head * kv.rows.len + at.block * BN;
    const i32 rows = kv.rows.len - at.block * BN;
    load_tile<BN, DK>(buffer, reinterpret_cast<const u16*>(kv.k) + row * p.dk, rows, p.dk);
    load_tile<BN, DV>(buffer + K_BYTES, reinterpret_cast<const u16*>(kv.v) + row * p.dv, rows, p.dv);
}

// Whether some rows of the block's tile are marked.
__device__ inline bool has_odd(const Params& p) {
    const Work w = work_of<BM>(p, blockIdx.x);
    const i32 row = w.first + (i32)threadIdx.x * 16;
    const bool inside = threadIdx.x < BM / 16 && row < p.q_piece[w.piece].rows.len;
    return block_any(inside && p.odd[sixteen(p, w, row)]);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM) attn_partial(const __grid_constant__ Params p) {
    Plan& plan = *reinterpret_cast<Plan*>(shared_base() + PLAN_AT);
    const int lane = threadIdx.x & 31, warp_row = threadIdx.x / 32 * WARP_ROWS;
    const i32 row = warp_row + lane / 4;  // the lane's first row in the tile

    if (p.odd && !has_odd(p)) return;
    make_plan(p, plan);

    // Scores stay in units of `scale` until the exponential where nothing comes in between and it is positive.
    const bool late_scale = !SOFTCAP && !WIDE && p.scale > 0.0f;
    const float unit = late_scale ? p.scale : 1.0f;

    float o[ROW_TILES][DV / 2];
    Softmax<BN> soft[ROW_TILES];
#pragma unroll
    for (int t = 0; t < ROW_TILES; ++t) {
        soft[t].reset();
#pragma unroll
        for (int i = 0; i < DV / 2; ++i) o[t][i] = 0.0f;
    }

    i32 left = plan.blocks;
    if (left) {
        load_queries(p, plan.work, shared_base());
        load_block(p, plan.work, shared_base() + buffer_of(left), At(p, plan, left - 1));
    }
    copy_async_commit();

    for (; left; --left) {
        const At at(p, plan, left - 1);
        const bool clear = at.clear(p, plan);
        const u32 k = buffer_of(left), v = k + K_BYTES;

        Cover covers[ROW_TILES];
        if (!clear) {
#pragma unroll
            for (int t = 0; t < ROW_TILES; ++t) covers[t].look(p, plan, at, row + 16 * t, lane);
        }

        copy_async_wait<0>();
        // Also: every warp is done with the other buffer.
        bool odd = false;
        if (CAN_HIDE)
            odd = block_any(!clear && holds_not_finite<BN, DV>(shared_base() + v));
        else
            block_sync();
        if (left > 1) load_block(p, plan.work, shared_base() + buffer_of(left - 1), At(p, plan, left - 2));
        copy_async_commit();

        float s[ROW_TILES][BN / 2];
        u32 weights[ROW_TILES][BN / 4];
        const int l = forgotten(lane);
        scores(s, Fragments<DK>(warp_row * DK * 2, l & 15, l >> 4), Fragments<DK>(k, (l & 7) + (l >> 4) * 8, (l >> 3) & 1));
#pragma unroll
        for (int t = 0; t < ROW_TILES; ++t) {
            if (SOFTCAP) {
                cap_scores(s[t], p.scale, p.softcap);
            } else if (!late_scale) {
#pragma unroll
                for (int i = 0; i < BN / 2; ++i) s[t][i] *= p.scale;
            }
            if (!clear) covers[t].put(p, plan, at, row + 16 * t, lane, s[t]);
            float shrink[2];
            soft[t].peak(s[t], unit, shrink);
            soft[t].weigh(s[t], unit, shrink);
            pack_weights(weights[t], s[t]);
            shrink_moved(o[t], shrink);
        }
        if (CAN_HIDE && odd) {
            block_sync();  // every warp is done with k, which now takes the weights
            u16* const mine = reinterpret_cast<u16*>(shared_base() + k) + threadIdx.x / 32 * 16 * BN;
#pragma unroll
            for (int t = 0; t < ROW_TILES; ++t) {
                covers[t].mark(weights[t]);
#pragma unroll
                for (int i = 0; i < BN / 4; ++i)
                    *reinterpret_cast<u32*>(mine + (lane / 4 + i % 2 * 8) * BN + i / 2 * 8 + (lane & 3) * 2) = weights[t][i];
                warp_sync();
                add_values_by_key(o[t], mine, shared_base() + v, lane);
                warp_sync();
            }
        } else {
            add_values(o, weights, Fragments<DV>(v, l & 15, l >> 4));
        }
    }
#pragma unroll
    for (int t = 0; t < ROW_TILES; ++t) {
        const i32 first = plan.work.first + warp_row + 16 * t;
        if (p.odd) {
            const bool inside = first < p.q_piece[plan.work.piece].rows.len;
            u8* const mark = p.odd + sixteen(p, plan.work, first);
            if (!inside || !*mark) continue;
            warp_sync();
            if (lane == 0) *mark = 0;
        }
        Carry<1> carry;
        finish(p, plan.work, o[t], soft[t], carry, first + lane / 4, lane);
    }
}
