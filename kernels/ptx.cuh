// The instructions that the kernels use and C++ does not have, a function each. The kernels hold no assembly of their own,
// so that the same text runs on a CPU where these functions are written in C++ (tests/inside/kernels/shim).
//
// PTX ISA 8.0: mbarrier (9.7.13.15), cp.async (9.7.9.25), cp.async.bulk.tensor (9.7.9.27), wgmma (9.7.15), mma (9.7.14).

struct alignas(64) TensorMap {
    u64 opaque[16];
};

extern __shared__ __align__(1024) u8 shared_bytes[];

__device__ inline u8* shared_base() { return shared_bytes; }

__device__ inline u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// The number, but nobody knows: what is computed from it is computed again where it is used, instead of held in registers.
template <class T>
__device__ inline T forgotten(T x) {
    if constexpr (sizeof(T) == 8)
        asm volatile("" : "+l"(x));
    else
        asm volatile("" : "+r"(x));
    return x;
}

// ---- warps -------------------------------------------------------------------------------------------------------------

template <class T>
__device__ inline T shuffle_xor(T x, int lanes) {
    return __shfl_xor_sync(0xffffffffu, x, lanes);
}

// The first lane's number: the compiler then knows that all lanes have the same.
__device__ inline int first_lane(int x) { return __shfl_sync(0xffffffffu, x, 0); }

__device__ inline bool any_lane(bool x) { return __any_sync(0xffffffffu, x); }

__device__ inline void warp_sync() { __syncwarp(); }

// ---- arithmetic --------------------------------------------------------------------------------------------------------

// a·b, rounded; never part of a fused operation.
__device__ inline float product(float a, float b) { return __fmul_rn(a, b); }

__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The larger number, or NaN if either is.
__device__ inline float max_or_nan(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

__device__ inline u32 float_to_bits(float x) { return __float_as_uint(x); }

__device__ inline float bits_to_float(u32 x) { return __uint_as_float(x); }

__device__ inline float log2_fast(float x) {
    float y;
    asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ inline float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Two numbers in the element type, `low` in the lower half.
__device__ inline u32 pack_elements(float low, float high) {
    u32 y;
#if ELEMENT_BF16
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
#endif
    return y;
}

__device__ inline float element_to_float(u16 x) {
    float y;
#if ELEMENT_BF16
    y = bits_to_float((u32)x << 16);
#else
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
#endif
    return y;
}

// ---- barriers ----------------------------------------------------------------------------------------------------------

__device__ inline void block_sync() { __syncthreads(); }

// Waits for all threads of the block, and tells whether any says yes.
__device__ inline bool block_any(bool x) { return __syncthreads_or(x); }

// Barrier `ID` among so many threads of the block; 0 is __syncthreads.
template <int ID, int THREADS>
__device__ inline void barrier_sync() {
    asm volatile("bar.sync %0, %1;" ::"n"(ID), "n"(THREADS) : "memory");
}

template <int ID, int THREADS>
__device__ inline void barrier_arrive() {
    asm volatile("bar.arrive %0, %1;" ::"n"(ID), "n"(THREADS) : "memory");
}

__device__ inline void mbarrier_init(u64* bar, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine.
__device__ inline void mbarrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void mbarrier_arrive(u64* bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}

// Arrives, and lets the phase end only after so many bytes were copied.
__device__ inline void mbarrier_expect(u64* bar, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes)
                 : "memory");
}

// Waits until the phase with this parity has ended.
__device__ inline void mbarrier_wait(u64* bar, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra over;\n"
        "bra again;\n"
        "over:\n"
        "}\n" ::"r"(shared_address(bar)),
        "r"(parity)
        : "memory");
}

// ---- copies ------------------------------------------------------------------------------------------------------------

// 16, 8 or 4 bytes from global to shared memory, or zeros. Only copies of 16 bytes can pass by the L1 cache.
template <int BYTES>
__device__ inline void copy_async(void* to, const void* from, bool take) {
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(take ? 16 : 0)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(BYTES),
                     "r"(take ? BYTES : 0)
                     : "memory");
}

__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most N of the thread's groups are under way.
template <int N>
__device__ inline void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// ---- mma.sync ----------------------------------------------------------------------------------------------------------

__device__ inline void load_matrix_x4(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ inline void load_matrix_x4_transposed(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d (16×8) += a (16×16, rows) · b (16×8, columns).
__device__ inline void mma_16x8x16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if ELEMENT_BF16
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
