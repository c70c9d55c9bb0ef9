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

