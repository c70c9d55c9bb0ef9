// What kernel text finds instead of CUDA's own names, and of those of kernels/ptx.cuh, ptx_steps.cuh, ptx_time.cuh and ptx_hopper.cuh.
#pragma once

#include "calls.h"

#define __device__
#define __global__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(N) alignas(N)
#define threadIdx (machine::Index{machine::thread_index()})
#define blockIdx (machine::Index{machine::block_index()})
#define gridDim (machine::Index{machine::grid_size()})
#define blockDim (machine::Index{machine::block_threads()})

namespace machine {
struct Index {
    u32 x;
};
}  // namespace machine

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }

extern "C" {
float expf(float) noexcept;
float logf(float) noexcept;
float tanhf(float) noexcept;
}
inline float __uint_as_float(u32 x) { float y; __builtin_memcpy(&y, &x, 4); return y; }
inline float __int_as_float(int x) { return __uint_as_float((u32)x); }
inline u32 __float_as_uint(float x) { u32 y; __builtin_memcpy(&y, &x, 4); return y; }
inline int __float_as_int(float x) { return (int)__float_as_uint(x); }

inline u32 atomicAdd(u32* at, u32 x) { return machine::atomic(at, [](u32 old, u32 x) -> u32 { return old + x; }, x); }
inline u32 atomicExch(u32* at, u32 x) { return machine::atomic(at, [](u32, u32 x) -> u32 { return x; }, x); }
inline u32 atomicInc(u32* at, u32 top) { return machine::atomic(at, [](u32 old, u32 x) -> u32 { return old >= x ? 0 : old + 1; }, top); }
inline void __syncthreads() { machine::barrier(0, machine::block_threads(), true); }

// ---- ptx.cuh -----------------------------------------------------------------------------------------------------------

struct alignas(64) TensorMap {
    u64 opaque[16];
};

inline u8* shared_base() { return machine::shared_base(); }
inline u32 shared_address(const void* p) { return machine::shared_offset(p); }

template <class T>
T forgotten(T x) { return x; }
inline float product(float a, float b) { return a * b; }
inline float max_or_nan(float a, float b) { return a != a || b != b ? __builtin_nanf("") : a > b ? a : b; }
inline u32 float_to_bits(float x) { return __float_as_uint(x); }
inline float bits_to_float(u32 x) { return __uint_as_float(x); }
inline void block_sync() { __syncthreads(); }
inline bool block_any(bool x) { return machine::barrier(0, machine::block_threads(), true, x); }

template <class T>
T shuffle_from(T x, int lane) {
    static_assert(sizeof(T) == 4);
    u32 bits;
    __builtin_memcpy(&bits, &x, 4);
    bits = machine::shuffle(bits, lane);
    __builtin_memcpy(&x, &bits, 4);
    return x;
}
template <class T>
T shuffle_xor(T x, int lanes) { return shuffle_from(x, (threadIdx.x & 31) ^ lanes); }
inline int first_lane(int x) { return shuffle_from(x, 0); }
inline bool any_lane(bool x) { return machine::any_lane(x); }
inline void warp_sync() { machine::warp_sync(); }

inline float flushed(float x) { return __builtin_fabsf(x) < 1.17549435e-38f ? __builtin_copysignf(0.0f, x) : x; }
inline float exp2_fast(float x) { return flushed(__builtin_exp2f(flushed(x))); }
inline float log2_fast(float x) { return __builtin_log2f(x); }
inline float reciprocal_fast(float x) { return flushed(1.0f / flushed(x)); }
inline float round_f16(float x) { return (float)(_Float16)x; }
inline float round_bf16(float x) {
    if (x != x) return x;
    u32 b = __float_as_uint(x);
    return __uint_as_float(b + 0x7fff + (b >> 16 & 1) & 0xffff0000);  // to nearest, ties to even
}
inline u32 pack_elements(float low, float high) { return machine::element_of(low) | (u32)machine::element_of(high) << 16; }
inline float element_to_float(u16 x) { return machine::element_value(x); }

template <int ID, int THREADS>
void barrier_sync() { machine::barrier(ID, THREADS, true); }
template <int ID, int THREADS>
void barrier_arrive() { machine::barrier(ID, THREADS, false); }

inline void mbarrier_init(u64* bar, u32 arrivals) { machine::mbarrier_init(bar, arrivals); }
inline void mbarrier_init_fence() { machine::mbarrier_init_fence(); }
inline void mbarrier_arrive(u64* bar) { machine::mbarrier_arrive(bar, 0); }
inline void mbarrier_expect(u64* bar, u32 bytes) { machine::mbarrier_arrive(bar, bytes); }
inline void mbarrier_wait(u64* bar, u32 parity) { machine::mbarrier_wait(bar, parity); }

template <int BYTES>
void copy_async(void* to, const void* from, bool take) { machine::copy_async(to, from, BYTES, take); }
inline void copy_async_commit() { machine::copy_async_commit(); }
template <int N>
void copy_async_wait() { machine::copy_async_wait(N); }

inline void load_matrix_x4(u32 (&r)[4], const void* row) { machine::load_matrix(r, row, false); }
inline void load_matrix_x4_transposed(u32 (&r)[4], const void* row) { machine::load_matrix(r, row, true); }
inline void mma_16x8x16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { machine::mma_16x8x16(d, a, b0, b1); }

// ---- ptx_time.cuh ------------------------------------------------------------------------------------------------------

// A clock that goes on whenever it is looked at: this machine has no time.
__attribute__((no_sanitize("thread"), noinline)) inline u64 device_time() {
    static u64 time;
    return time += 1000;
}
inline void doze() {}

// ---- ptx_hopper.cuh ----------------------------------------------------------------------------------------------------

inline void prefetch(const void* from, u32 bytes) { machine::prefetch(from, bytes); }

inline void copy_box(void* to, const TensorMap* map, u64* bar, i32 x, i32 y, i32 z) {
    machine::copy_box(to, map, bar, x, y, z);
}
template <int N>
void registers_down() { static_assert(N % 8 == 0 && N >= 24 && N <= 256); }
template <int N>
void registers_up() { static_assert(N % 8 == 0 && N >= 24 && N <= 256); }

inline void wgmma_fence() { machine::wgmma_fence(); }
inline void wgmma_commit() { machine::wgmma_commit(); }
template <int N>
void wgmma_wait() { machine::wgmma_wait(N); }
template <class T, int N>
void hold(T (&)[N]) {}

inline u64 tile_descriptor(const void* at, u32 leading, u32 stride) {
    return (u64)(shared_address(at) >> 4) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | (u64)1 << 62;
}
inline u64 tile_advance(u64 descriptor, u32 bytes) { return descriptor + (bytes >> 4); }
inline u64 tile_pin(u64 descriptor) { return descriptor; }

template <int N>
struct Wgmma {
    static_assert(N % 8 == 0 && N >= 8 && N <= 256);
    static void from_shared(float (&d)[N / 2], u64 a, u64 b, int add) { machine::wgmma_issue(d, N, a, b, nullptr, add != 0); }
    static void from_registers(float (&d)[N / 2], const u32 (&a)[4], u64 b) { machine::wgmma_issue(d, N, 0, b, a, true); }
};
