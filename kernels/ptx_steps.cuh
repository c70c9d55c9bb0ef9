// The instructions of the steps between products and softmax that C++ does not have, as in ptx.cuh.

// The nearest number of the type, ties to even; what is beyond its largest becomes infinite.
__device__ inline float round_f16(float x) {
    u16 bits;
    float y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(bits));
    return y;
}

__device__ inline float round_bf16(float x) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits_to_float((u32)bits << 16);
}
