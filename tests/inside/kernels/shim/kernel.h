// How a kernel's program hands its kernel to launch.cpp.
#pragma once

struct Kernel {
    int rows, keys, threads;  // of a block of queries, of a block of keys, of a block of CUDA
    u32 shared_bytes;
    bool bf16, has_maps;
    void (*enter)(const void* params, const void* maps);
};
extern const Kernel kernel;

// Tensors that hold the rows of all pieces which have no place of their own.
struct Whole {
    const void* q;
    void* out;
    float* lse;
    i32 q_rows, element;  // rows; bytes of an element
};
extern Whole whole;
