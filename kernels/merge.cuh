// merge: of partials that arrive by themselves, (o, m, l) with (o, m, l). Total: (0, −∞, 0) is neutral, and two rows without
// a live key make such a row, not NaN.
//
// Follows types.cuh and ptx.cuh. A warp takes a row at a time; any grid, any number of warps.

// o (rows, dv), then m (rows), then l (rows), f32. `to` may be `a` or `b`; where one of these is null, it is the result of no key.
struct Merge {
    const float *a, *b;
    float* to;
    i64 rows;  // batch · heads · rows
    i32 dv;
};

// A row of a partial result.
struct Partial {
    const float* o;
    float m, l;

    __device__ Partial(const float* at, i64 row, i64 numbers, const Merge& p)
        : o(at ? at + row * p.dv : nullptr), m(at ? at[numbers + row] : -INFINITY), l(at ? at[numbers + p.rows + row] : 0.0f) {}

    __device__ float one(i32 i) const { return o ? o[i] : 0.0f; }

    __device__ float4 four(i32 i) const {
        return o ? *reinterpret_cast<const float4*>(o + i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
};

extern "C" __global__ void merge(const __grid_constant__ Merge p) {
    const i32 lane = threadIdx.x & 31, warps = blockDim.x / 32;
    const i64 numbers = p.rows * p.dv;
    // Four numbers at a time where all three lie so.
    const bool fours = p.dv % 4 == 0 && ((u64)p.a | (u64)p.b | (u64)p.to) % 16 == 0;
    float* const m_to = p.to + numbers;
    for (i64 row = (i64)blockIdx.x * warps + threadIdx.x / 32; row < p.rows; row += (i64)gridDim.x * warps) {
        const Partial a(p.a, row, numbers, p), b(p.b, row, numbers, p);
        const float m = max_or_nan(a.m, b.m);
        // The one that has the reference keeps its bits; with it, −∞ − (−∞) is not taken.
        const float of_a = a.m == m ? 1.0f : expf(a.m - m);
        const float of_b = b.m == m ? 1.0f : expf(b.m - m);
        const float l = a.l * of_a + b.l * of_b;
        float* const to = p.to + row * p.dv;
        if (fours) {
            for (i32 i = lane * 4; i < p.dv; i += 128) {
                const float4 x = a.four(i), y = b.four(i);
                *reinterpret_cast<float4*>(to + i) = make_float4(x.x * of_a + y.x * of_b, x.y * of_a + y.y * of_b,
                                                                 x.z * of_a + y.z * of_b, x.w * of_a + y.w * of_b);
            }
        } else {
            for (i32 i = lane; i < p.dv; i += 32) to[i] = a.one(i) * of_a + b.one(i) * of_b;
        }
        // All lanes have read m and l before one of them writes.
        warp_sync();
        if (lane == 0) {
            m_to[row] = m;
            m_to[p.rows + row] = l;
        }
    }
}
