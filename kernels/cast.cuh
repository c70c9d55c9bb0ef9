// Casts between f32 and the element type, and the end of a carry that no kernel with CAST_OUT ended: its sinks, the division
// and the cast.
//
// Follows types.cuh, ptx.cuh and contract.cuh. Macros: ELEMENT_F32 or ELEMENT_BF16 as for attn_partial; SINKS 0, 1 (f32) or 2
// (element type). Any grid, any number of warps.

#if ELEMENT_F32
typedef float Number;
__device__ inline Number number_of(float x) { return x; }
__device__ inline float float_of(Number x) { return x; }
#else
typedef u16 Number;
__device__ inline Number number_of(float x) { return (u16)pack_elements(x, x); }
__device__ inline float float_of(Number x) { return element_to_float(x); }
#endif

extern "C" __global__ void cast_from_f32(const float* from, Number* to, i64 count) {
    const i64 threads = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += threads) to[i] = number_of(from[i]);
}

extern "C" __global__ void cast_to_f32(const Number* from, float* to, i64 count) {
    const i64 threads = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += threads) to[i] = float_of(from[i]);
}

struct Finish {
    QPiece piece;  // of which q is not read
    i32 batch, q_heads, dv;
    float empty_row;
    Leaf sinks;
};

extern "C" __global__ void finish(const __grid_constant__ Finish p) {
    const i32 lane = threadIdx.x & 31, warps = blockDim.x / 32;
    const Rows& piece = p.piece.rows;
    const i64 rows = (i64)p.batch * p.q_heads * piece.len;
    const float* const carry_m = p.piece.carry + rows * p.dv;
    for (i64 at = (i64)blockIdx.x * warps + threadIdx.x / 32; at < rows; at += (i64)gridDim.x * warps) {
        const i32 head = (i32)(at / piece.len), row = (i32)(at % piece.len);
        float m = carry_m[at], l = carry_m[rows + at], shrink = 1.0f;
#if SINKS
        const Work w = {0, head / p.q_heads, head % p.q_heads, 0};
        const i64 leaf = leaf_row(p.sinks, w, piece, row);
        const float sink = SINKS == 1 ? reinterpret_cast<const float*>(p.sinks.at)[leaf]
                                      : float_of(reinterpret_cast<const Number*>(p.sinks.at)[leaf]);
        const float top = max_or_nan(m, sink);
        if (top != -INFINITY) {
            shrink = m == top ? 1.0f : expf(m - top);
            l = l * shrink + expf(sink - top);
            m = top;
        }
#endif
        const bool empty = l == 0.0f;
        const i64 out_row = result_row(p.piece, head / p.q_heads, head % p.q_heads, row);
        Number* const out = reinterpret_cast<Number*>(p.piece.out) + out_row * p.dv;
        for (i32 i = lane; i < p.dv; i += 32)
            out[i] = number_of(empty ? p.empty_row : p.piece.carry[at * p.dv + i] * shrink / l);
        if (p.piece.lse && lane == 0) p.piece.lse[out_row] = empty ? -INFINITY : m + logf(l);
    }
}
