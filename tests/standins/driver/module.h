// How the library that is made of a kernel text hands its kernels to the driver.
#pragma once

#include <cstddef>
#include <utility>

#include "calls.h"

namespace standin {

struct Entry {
    const char* name;
    // Calls the kernel with copies of its arguments, on the fiber that runs.
    void (*call)(void** arguments);
    int most_threads;  // of a block; 0 where the text does not say
    int count;
    u32 sizes[8];
};

// Of the bounds of a launch: the threads of a block.
template <class... Others>
constexpr int first(int threads, Others...) {
    return threads;
}

template <class T>
struct Plain {
    using type = T;
};
template <class T>
struct Plain<const T> {
    using type = T;
};

template <auto KERNEL>
struct Caller;

template <class... A, void (*KERNEL)(A...)>
struct Caller<KERNEL> {
    template <std::size_t... I>
    __attribute__((no_sanitize("thread"), always_inline)) static inline void spread(void** arguments, std::index_sequence<I...>) {
        KERNEL(*(typename Plain<A>::type*)arguments[I]...);
    }
    __attribute__((no_sanitize("thread"))) static void call(void** arguments) { spread(arguments, std::index_sequence_for<A...>{}); }
    static constexpr Entry entry(const char* name, int most_threads) {
        static_assert(sizeof...(A) <= 8);
        return {name, call, most_threads, (int)sizeof...(A), {(u32)sizeof(A)...}};
    }
};

}  // namespace standin

// What the text itself copies byte by byte is seen like every other access.
extern "C" {
#define SEEN __attribute__((visibility("hidden"), no_sanitize("thread"), optimize("no-tree-loop-distribute-patterns")))
void __tsan_read_range(void*, unsigned long);
void __tsan_write_range(void*, unsigned long);
SEEN inline void* seen_memcpy(void* to, const void* from, unsigned long n) {
    __tsan_read_range((void*)from, n);
    __tsan_write_range(to, n);
    for (unsigned long i = 0; i < n; ++i) ((volatile u8*)to)[i] = ((const u8*)from)[i];
    return to;
}
SEEN inline void* seen_memset(void* to, int x, unsigned long n) {
    __tsan_write_range(to, n);
    for (unsigned long i = 0; i < n; ++i) ((volatile u8*)to)[i] = (u8)x;
    return to;
}
}
