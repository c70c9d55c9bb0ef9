// A program on two streams, written against the driver's API, with a fault planted on request, under each of the seeds 1 to N.
//
//   faults NAME N
//
// For every seed a line: how the process ended, what the stand-in said, or the error that a call returned. Without a fault, NAME
// being `none` or `graph` or one of a few others, it is `right`, and the numbers are checked.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

typedef unsigned long long u64;
typedef unsigned u32;

extern "C" {
int cuInit(u32);
int cuDevicePrimaryCtxRetain(void**, int);
int cuDevicePrimaryCtxRelease_v2(int);
int cuCtxSetCurrent(void*);
int cuCtxSynchronize();
int cuStreamCreateWithPriority(void**, u32, int);
int cuStreamDestroy_v2(void*);
int cuStreamSynchronize(void*);
int cuStreamQuery(void*);
int cuStreamWaitEvent(void*, void*, u32);
int cuEventCreate(void**, u32);
int cuEventDestroy_v2(void*);
int cuEventRecord(void*, void*);
int cuEventQuery(void*);
int cuEventSynchronize(void*);
int cuEventElapsedTime_v2(float*, void*, void*);
int cuMemAllocAsync(u64*, u64, void*);
int cuMemAlloc_v2(u64*, u64);
int cuMemFreeAsync(u64, void*);
int cuMemFree_v2(u64);
int cuMemHostAlloc(void**, u64, u32);
int cuMemFreeHost(void*);
int cuMemGetInfo_v2(u64*, u64*);
int cuMemcpyHtoDAsync_v2(u64, const void*, u64, void*);
int cuMemcpyDtoHAsync_v2(void*, u64, u64, void*);
int cuMemcpyDtoDAsync_v2(u64, u64, u64, void*);
int cuMemsetD8Async(u64, unsigned char, u64, void*);
int cuModuleLoadData(void**, const void*);
int cuModuleUnload(void*);
int cuModuleGetFunction(void**, void*, const char*);
int cuFuncSetAttribute(void*, int, int);
int cuLaunchKernel(void*, u32, u32, u32, u32, u32, u32, u32, void*, void**, void**);
int cuStreamBeginCapture_v2(void*, u32);
int cuStreamEndCapture(void*, void**);
int cuGraphInstantiateWithFlags(void**, void*, u64);
int cuGraphLaunch(void*, void*);
int cuGraphExecDestroy(void*);
int cuGraphDestroy(void*);
int cuMemcpy3DAsync_v2(const void*, void*);
int nvrtcCreateProgram(void**, const char*, const char*, int, const char* const*, const char* const*);
int nvrtcCompileProgram(void*, int, const char* const*);
int nvrtcGetCUBINSize(void*, size_t*);
int nvrtcGetCUBIN(void*, char*);
int nvrtcGetProgramLogSize(void*, size_t*);
int nvrtcGetProgramLog(void*, char*);
}

static const char TEXT[] = R"(
#define ELEMENT_BF16 0
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64; typedef int i32; typedef long long i64;
struct Job { const u32* from; u32* to; u32 add; };
// to = 2 from + add; a thread an element, and nobody looks whether it is there.
extern "C" __global__ void twice(const Job job) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    job.to[i] = 2 * job.from[i] + job.add;
}
// Every block writes the same.
extern "C" __global__ void crowd(const Job job) { job.to[threadIdx.x] = blockIdx.x; }
// Half of the threads come to a barrier of all.
extern "C" __global__ void stuck(const Job job) {
    if (threadIdx.x < 32) block_sync();
    job.to[threadIdx.x] = 0;
}
// Whole structures, and bytes by a call: the machine sees them too.
struct Sixteen { u32 x[16]; };
extern "C" __global__ void moved(const Job job) { if (threadIdx.x < 16) *((Sixteen*)job.to + threadIdx.x) = *((const Sixteen*)job.from + threadIdx.x); }
extern "C" __global__ void by_call(const Job job) {
    if (threadIdx.x == 0) memcpy(job.to, job.from, 64);
}
extern "C" __global__ void forever(const Job job) {
    while (*(volatile const u32*)job.from == 0) {}
}
extern "C" __global__ void crooked(const Job job) { *(u32*)((u8*)job.to + 2) = 1; }
extern "C" __global__ void __launch_bounds__(64, 1) few(const Job job) { job.to[threadIdx.x] = 1; }
)";

#define MUST(CALL)                                             \
    do {                                                       \
        if (int returned = CALL) {                             \
            printf("%.40s... returns %d\n", #CALL, returned);   \
            exit(4);                                           \
        }                                                      \
    } while (0)
// Says how a call that is to fail ends.
#define SAY(CALL)                                              \
    do {                                                       \
        printf("%.40s... returns %d\n", #CALL, CALL);           \
        exit(4);                                               \
    } while (0)

constexpr u32 THREADS = 64, BLOCKS = 4, COUNT = THREADS * BLOCKS, BYTES = COUNT * 4;

static std::string fault;
static bool is(const char* name) { return fault == name; }

struct Job {
    u64 from, to;
    u32 add;
};

static void* function(void* module, const char* name) {
    void* f;
    MUST(cuModuleGetFunction(&f, module, name));
    return f;
}

static int launch(void* f, u64 from, u64 to, u32 add, void* stream, u32 blocks = BLOCKS, u32 threads = THREADS, u32 shared = 0) {
    Job job{from, to, add};
    void* arguments[] = {&job};
    return cuLaunchKernel(f, blocks, 1, 1, threads, 1, 1, shared, stream, arguments, nullptr);
}

static std::vector<char> image() {
    void* program;
    const char* options[] = {is("another architecture") ? "--gpu-architecture=sm_80" : "--gpu-architecture=sm_90a", "--std=c++17"};
    MUST(nvrtcCreateProgram(&program, TEXT, "kernel.cu", 0, nullptr, nullptr));
    if (int code = nvrtcCompileProgram(program, 2, options)) {
        size_t bytes;
        nvrtcGetProgramLogSize(program, &bytes);
        std::string log(bytes, 0);
        nvrtcGetProgramLog(program, &log[0]);
        printf("the text does not compile, %d: %s\n", code, log.c_str());
        exit(5);
    }
    size_t bytes;
    MUST(nvrtcGetCUBINSize(program, &bytes));
    std::vector<char> out(bytes);
    MUST(nvrtcGetCUBIN(program, out.data()));
    return out;
}

struct World {
    void *context, *compute, *transfer, *module, *twice;
    void* event[8];
    u64 a, b, c, d;
    std::vector<u32> in = std::vector<u32>(COUNT), out = std::vector<u32>(COUNT);

    World() {
        MUST(cuInit(0));
        MUST(cuDevicePrimaryCtxRetain(&context, 0));
        MUST(cuCtxSetCurrent(context));
        MUST(cuStreamCreateWithPriority(&compute, 1, 0));
        MUST(cuStreamCreateWithPriority(&transfer, 1, -5));
        for (void*& e : event) MUST(cuEventCreate(&e, 2));
        MUST(cuModuleLoadData(&module, image().data()));
        twice = function(module, "twice");
        for (u64* at : {&a, &b, &c, &d}) MUST(cuMemAllocAsync(at, BYTES, compute));
        for (u32 i = 0; i < COUNT; ++i) in[i] = i * 7 + 1;
        MUST(cuStreamSynchronize(compute));
    }
    int record(int e, void* stream) { return cuEventRecord(event[e], stream); }
    int wait(void* stream, int e) { return cuStreamWaitEvent(stream, event[e], 0); }
    void check(u32 add) {
        for (u32 i = 0; i < COUNT; ++i) {
            const u32 want = 2 * (2 * in[i] + add) + 1;
            if (out[i] != want) {
                printf("wrong: element %u is %u, not %u\n", i, out[i], want);
                exit(6);
            }
        }
    }
};

// a → b by a kernel, b → c by a copy on the other stream, c → d by a kernel: `rounds` of it.
static void pipeline(World& w, u32 add, bool copies_in) {
    if (copies_in) MUST(cuMemcpyHtoDAsync_v2(w.a, w.in.data(), BYTES, w.compute));
    if (is("source changed")) w.in[3] = 0;
    MUST(w.record(0, w.compute));
    if (is("wait before the record")) MUST(w.wait(w.transfer, 1));
    if (is("copy before its kernel")) {
        MUST(w.wait(w.transfer, 0));
        MUST(cuMemcpyDtoDAsync_v2(w.c, w.b, BYTES, w.transfer));
        MUST(w.record(2, w.transfer));
    }
    MUST(launch(w.twice, w.a, w.b, add, w.compute, is("a grid too large") ? BLOCKS + 1 : is("a grid too small") ? BLOCKS - 1 : BLOCKS));
    if (is("a launch beside its stream")) MUST(launch(w.twice, w.a, w.b, add, w.transfer));
    MUST(w.record(1, w.compute));
    if (!is("copy before its kernel")) {
        if (!is("no event before the copy")) MUST(w.wait(w.transfer, is("wait on the wrong event") ? 0 : 1));
        const u64 bytes = is("too few bytes") ? BYTES - 4 : is("too many bytes") ? BYTES + 4 : BYTES;
        if (is("copy of another buffer"))
            MUST(cuMemcpyDtoDAsync_v2(w.c, w.d, bytes, w.transfer));
        else
            MUST(cuMemcpyDtoDAsync_v2(w.c, w.b, bytes, w.transfer));
        MUST(w.record(2, w.transfer));
    }
    if (is("freed before the copy by the other stream")) MUST(cuMemFreeAsync(w.b, w.compute));
    if (is("freed before the copy by the host")) MUST(cuMemFree_v2(w.b));
    // Nobody may write b before the copy has read it.
    if (is("reused early")) MUST(cuMemsetD8Async(w.b, 0, BYTES, w.compute));
    if (!is("no event after the copy")) MUST(w.wait(w.compute, is("wait on an old event") ? 1 : 2));
    if (is("use after free")) MUST(cuMemFreeAsync(w.c, w.compute));
    MUST(launch(w.twice, w.c, w.d, 1, w.compute));
    MUST(w.record(3, w.compute));
}

static void capture(World& w, void** graph) {
    MUST(cuStreamBeginCapture_v2(w.compute, 1));
    if (is("synchronise in a capture")) SAY(cuStreamSynchronize(w.compute));
    if (is("wait for the outside in a capture")) {
        void* e;
        void* other;
        MUST(cuStreamCreateWithPriority(&other, 1, 0));
        MUST(cuEventCreate(&e, 2));
        MUST(cuEventRecord(e, other));
        SAY(cuStreamWaitEvent(w.compute, e, 0));
    }
    if (is("allocate in a capture")) SAY(cuMemAlloc_v2(&w.a, 16));
    pipeline(w, 5, false);
    // The other stream comes back, if only at the end.
    MUST(w.wait(w.compute, 2));
    if (is("a stream that does not come back")) {
        MUST(cuMemsetD8Async(w.b, 0, BYTES, w.transfer));
        SAY(cuStreamEndCapture(w.compute, graph));
    }
    MUST(cuStreamEndCapture(w.compute, graph));
}

static void graphs(World& w) {
    MUST(cuMemcpyHtoDAsync_v2(w.a, w.in.data(), BYTES, w.compute));
    void *graph, *executable;
    capture(w, &graph);
    MUST(cuGraphInstantiateWithFlags(&executable, graph, 0));
    MUST(cuGraphDestroy(graph));
    for (int round = 0; round < 3; ++round) {
        if (is("replay of freed memory") && round == 1) MUST(cuMemFreeAsync(w.b, w.compute));
        void* stream = w.compute;
        if (is("replay beside its input") && round == 1) {
            MUST(cuMemcpyHtoDAsync_v2(w.a, w.in.data(), BYTES, w.compute));
            stream = w.transfer;
        }
        MUST(cuGraphLaunch(executable, stream));
        if (round == 1) MUST(cuMemsetD8Async(w.d, 0, BYTES, w.compute));
    }
    MUST(cuMemcpyDtoHAsync_v2(w.out.data(), w.d, BYTES, w.compute));
    MUST(cuStreamSynchronize(w.compute));
    w.check(5);
    MUST(cuGraphExecDestroy(executable));
    if (is("replay of a destroyed graph")) SAY(cuGraphLaunch(executable, w.compute));
}

static void eager(World& w) {
    for (u32 round = 0; round < 2; ++round) {
        // c is free again only when the kernel of the round before has read it; the first wait of the transfers is behind it.
        pipeline(w, round, true);
        MUST(cuMemcpyDtoHAsync_v2(w.out.data(), w.d, BYTES, w.compute));
        if (is("result taken early")) w.check(round);
        if (round == 0) {
            for (int code; (code = cuStreamQuery(w.compute));)
                if (code != 600) MUST(code);
        } else {
            MUST(w.record(4, w.compute));
            for (int code; (code = cuEventQuery(w.event[4]));)
                if (code != 600) MUST(code);
        }
        w.check(round);
    }
}

// Faults that need no pipeline.
static bool single(World& w) {
    void* f = nullptr;
    auto stray = [&](const char* kernel, u32 blocks, u32 threads) {
        f = function(w.module, kernel);
        MUST(cuMemsetD8Async(w.a, 0, BYTES, w.compute));
        MUST(launch(f, w.a, w.b, 0, w.compute, blocks, threads));
        SAY(cuStreamSynchronize(w.compute));
    };
    if (is("host reads")) printf("%u\n", *(volatile u32*)w.a);
    if (is("host writes")) *(volatile u32*)w.a = 1;
    if (is("host reads beyond")) printf("%u\n", *(volatile u32*)(w.d + 4096));
    if (is("blocks that race")) stray("crowd", 2, 64);
    if (is("a barrier that is missed")) stray("stuck", 1, 64);
    if (is("a crooked address")) stray("crooked", 1, 32);
    if (is("too many threads")) stray("few", 1, 128);
    if (is("too much shared memory")) SAY(launch(w.twice, w.a, w.b, 0, w.compute, 1, 64, 100 << 10));
    if (is("double free")) {
        MUST(cuMemFreeAsync(w.a, w.compute));
        SAY(cuMemFreeAsync(w.a, w.compute));
    }
    if (is("double free by the host")) {
        MUST(cuMemFreeAsync(w.a, w.compute));
        SAY(cuMemFree_v2(w.a));
    }
    if (is("free of a middle")) SAY(cuMemFreeAsync(w.a + 16, w.compute));
    if (is("reads what nobody wrote")) {
        MUST(launch(w.twice, w.a, w.b, 0, w.compute));
        SAY(cuStreamSynchronize(w.compute));
    }
    if (is("takes home what nobody wrote")) {
        MUST(cuMemcpyDtoDAsync_v2(w.b, w.a, BYTES, w.compute));
        MUST(cuMemcpyDtoHAsync_v2(w.out.data(), w.b, BYTES, w.compute));
        SAY(cuStreamSynchronize(w.compute));
    }
    if (is("used before it is made")) {
        u64 x;
        MUST(cuMemAllocAsync(&x, BYTES, w.compute));
        MUST(cuMemsetD8Async(x, 0, BYTES, w.transfer));
        SAY(cuCtxSynchronize());
    }
    if (is("too large")) {
        u64 x, free, total;
        MUST(cuMemGetInfo_v2(&free, &total));
        SAY(cuMemAllocAsync(&x, free + 1, w.compute));
    }
    if (is("unknown call")) SAY(cuMemcpy3DAsync_v2(nullptr, w.compute));
    if (is("host asks for nothing")) SAY(cuEventQuery(w.event[5]));
    for (const char* kernel : {"moved", "by_call"})
        if (is(kernel)) {
            MUST(cuMemsetD8Async(w.a, 0, 60, w.compute));
            MUST(launch(function(w.module, kernel), w.a, w.b, 0, w.compute, 1, 32));
            SAY(cuStreamSynchronize(w.compute));
        }
    if (is("stuck") || is("stuck and waited for")) {
        MUST(cuMemsetD8Async(w.a, 0, BYTES, w.compute));
        if (is("stuck and waited for")) SAY(cuStreamSynchronize(w.compute));
        for (int i = 0; i < 1000; ++i)
            if (int code = cuStreamQuery(w.compute); code != 600) SAY(code);
        return true;
    }
    if (is("a kernel that does not end")) {
        f = function(w.module, "forever");
        MUST(cuMemsetD8Async(w.a, 0, BYTES, w.compute));
        MUST(launch(f, w.a, w.b, 0, w.compute, 1, 32));
        SAY(cuStreamSynchronize(w.compute));
    }
    if (is("host waits for nothing")) SAY(cuEventSynchronize(w.event[5]));
    if (is("an event destroyed twice")) {
        MUST(cuEventDestroy_v2(w.event[0]));
        SAY(cuEventDestroy_v2(w.event[0]));
    }
    if (is("a stream destroyed twice")) {
        MUST(cuStreamDestroy_v2(w.transfer));
        SAY(cuStreamDestroy_v2(w.transfer));
    }
    if (is("a kernel of an unloaded module")) {
        MUST(cuModuleUnload(w.module));
        SAY(launch(w.twice, w.a, w.b, 0, w.compute));
    }
    if (is("time")) {
        float x;
        void *e, *g;
        MUST(cuEventCreate(&e, 0));
        MUST(cuEventCreate(&g, 0));
        MUST(cuEventRecord(e, w.compute));
        MUST(cuEventRecord(g, w.compute));
        MUST(cuEventSynchronize(g));
        SAY(cuEventElapsedTime_v2(&x, e, g));
    }
    if (is("no context")) {
        MUST(cuCtxSetCurrent(nullptr));
        SAY(cuStreamSynchronize(w.compute));
    }
    if (is("an error that stays")) {
        MUST(launch(w.twice, w.a, w.b, 0, w.compute, BLOCKS + 1));
        cuStreamSynchronize(w.compute);
        u64 x;
        SAY(cuMemAllocAsync(&x, 16, w.compute));
    }
    // The host makes order too: by waiting for a stream, and by seeing that an event is done.
    if (is("host between")) {
        MUST(cuMemcpyHtoDAsync_v2(w.a, w.in.data(), BYTES, w.compute));
        MUST(launch(w.twice, w.a, w.b, 2, w.compute));
        MUST(cuStreamSynchronize(w.compute));
        MUST(cuMemcpyDtoDAsync_v2(w.c, w.b, BYTES, w.transfer));
        MUST(w.record(0, w.transfer));
        for (int code; (code = cuEventQuery(w.event[0]));)
            if (code != 600) MUST(code);
        MUST(launch(w.twice, w.c, w.d, 1, w.compute));
        MUST(cuMemcpyDtoHAsync_v2(w.out.data(), w.d, BYTES, w.compute));
        MUST(cuCtxSynchronize());
        w.check(2);
        return true;
    }
    // An event that is recorded again is waited for as it was when the wait was asked for.
    if (is("recorded again") || is("recorded again too late")) {
        MUST(cuMemsetD8Async(w.a, 1, BYTES, w.compute));
        MUST(w.record(0, w.compute));
        if (is("recorded again too late")) MUST(w.wait(w.transfer, 0));
        MUST(cuMemsetD8Async(w.b, 2, BYTES, w.compute));
        MUST(w.record(0, w.compute));
        if (is("recorded again")) MUST(w.wait(w.transfer, 0));
        MUST(cuMemcpyDtoDAsync_v2(w.c, w.b, BYTES, w.transfer));
        MUST(cuCtxSynchronize());
        return true;
    }
    // The default stream and one that heeds it wait for each other; one that does not is on its own.
    if (is("default stream") || is("beside the default stream")) {
        void* heeds;
        MUST(cuStreamCreateWithPriority(&heeds, is("default stream") ? 0 : 1, 0));
        MUST(cuMemcpyHtoDAsync_v2(w.a, w.in.data(), BYTES, nullptr));
        MUST(launch(w.twice, w.a, w.b, 3, heeds));
        MUST(launch(w.twice, w.b, w.d, 1, nullptr));
        MUST(cuMemcpyDtoHAsync_v2(w.out.data(), w.d, BYTES, heeds));
        MUST(cuStreamSynchronize(heeds));
        w.check(3);
        return true;
    }
    // Pinned memory, given up twice, or before the copy out of it is done.
    void* pinned;
    if (is("pinned")) {
        MUST(cuMemHostAlloc(&pinned, BYTES, 0));
        memcpy(pinned, w.in.data(), BYTES);
        MUST(cuMemcpyHtoDAsync_v2(w.a, pinned, BYTES, w.compute));
        MUST(cuStreamSynchronize(w.compute));
        MUST(cuMemFreeHost(pinned));
        return true;
    }
    if (is("pinned memory changed")) {
        MUST(cuMemHostAlloc(&pinned, BYTES, 0));
        MUST(cuMemcpyHtoDAsync_v2(w.a, pinned, BYTES, w.compute));
        memset(pinned, 1, BYTES);
        SAY(cuStreamSynchronize(w.compute));
    }
    if (is("pinned memory freed twice")) {
        MUST(cuMemHostAlloc(&pinned, BYTES, 0));
        MUST(cuMemFreeHost(pinned));
        SAY(cuMemFreeHost(pinned));
    }
    return false;
}

static bool in_graph() {
    for (const char* name : {"graph", "synchronise in a capture", "wait for the outside in a capture", "allocate in a capture",
                             "a stream that does not come back", "replay of freed memory", "replay beside its input", "replay of a destroyed graph"})
        if (is(name)) return true;
    // The same faults as eagerly, in a graph.
    return fault.compare(0, 7, "graph: ") == 0;
}

static void play() {
    const bool graph = in_graph();
    if (fault.compare(0, 7, "graph: ") == 0) fault = fault.substr(7);
    World w;
    if (!single(w)) graph ? graphs(w) : eager(w);
    if (!is("pinned"))
        for (u64 at : {w.a, w.b, w.c, w.d}) MUST(cuMemFreeAsync(at, w.compute));
    MUST(cuStreamDestroy_v2(w.transfer));
    MUST(cuStreamDestroy_v2(w.compute));
    MUST(cuDevicePrimaryCtxRelease_v2(0));
    printf("right\n");
}

int main(int count, char** given) {
    if (count != 3) return 2;
    setvbuf(stdout, nullptr, _IOLBF, 1 << 16);
    const int seeds = atoi(given[2]);
    for (int seed = 1; seed <= seeds; ++seed) {
        int said[2];
        if (pipe(said)) return 2;
        fflush(stdout);
        const pid_t child = fork();
        if (!child) {
            dup2(said[1], 1), dup2(said[1], 2);
            setenv("ANNULUS_STANDINS_SEED", std::to_string(seed).c_str(), 1);
            fault = given[1];
            setvbuf(stdout, nullptr, _IONBF, 0);
            play();
            fflush(nullptr);
            _exit(0);
        }
        close(said[1]);
        std::string all;
        char part[512];
        for (ssize_t n; (n = read(said[0], part, sizeof part)) > 0;) all.append(part, n);
        close(said[0]);
        int status;
        waitpid(child, &status, 0);
        for (char& c : all)
            if (c == '\n') c = '|';
        printf("seed %d: %s %d: %s\n", seed, WIFEXITED(status) ? "exit" : "signal", WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status),
               all.c_str());
    }
}
