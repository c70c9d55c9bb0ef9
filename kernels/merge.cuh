// merge: of partials that arrive by themselves, (o, m, l) with (o, m, l). Total: (0, −∞, 0) is neutral, and two rows without
// a live key make such a row, not NaN.
//
// Follows types.cuh and ptx.cuh. A warp takes a row at a time; any grid, any number of warps.

// o (rows, dv), then m (rows), then l (rows), f32. `to` may be `a` or `b`.
struct Merge {
    const float *a, *b;
    float* to;
    i64 rows;  // batch · heads · rows
    i32 dv;
};

extern "C" __global__ void merge(const __grid_constant__ Merge p) {
    const i32 lane = threadIdx.x & 31, warps = blockDim.x / 32;
    const float *m_a = p.a + p.rows * p.dv, *m_b = p.b + p.rows * p.dv;
    float* const m_to = p.to + p.rows * p.dv;
    for (i64 row = (i64)blockIdx.x * warps + threadIdx.x / 32; row < p.rows; row += (i64)gridDim.x * warps) {
        const float m = max_or_nan(m_a[row], m_b[row]);
        // The one that has the reference keeps its bits; with it, −∞ − (−∞) is not taken.
        const float of_a = m_a[row] == m ? 1.0f : expf(m_a[row] - m);
        const float of_b = m_b[row] == m ? 1.0f : expf(m_b[row] - m);
        const float l = m_a[p.rows + row] * of_a + m_b[p.rows + row] * of_b;
        const float *a = p.a + row * p.dv, *b = p.b + row * p.dv;
        float* const to = p.to + row * p.dv;
        if (p.dv % 4 == 0) {
            for (i32 i = lane * 4; i < p.dv; i += 128) {
                const float4 x = *reinterpret_cast<const float4*>(a + i), y = *reinterpret_cast<const float4*>(b + i);
                *reinterpret_cast<float4*>(to + i) = make_float4(x.x * of_a + y.x * of_b, x.y * of_a + y.y * of_b,
                                                                 x.z * of_a + y.z * of_b, x.w * of_a + y.w * of_b);
            }
        } else {
            for (i32 i = lane; i < p.dv; i += 32) to[i] = a[i] * of_a + b[i] * of_b;
        }
        // All lanes have read m and l before one of them writes.
        warp_sync();
        if (lane == 0) {
            m_to[row] = m;
            m_to[p.rows + row] = l;
        }
    }
}
