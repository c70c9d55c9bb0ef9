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

