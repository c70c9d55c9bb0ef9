// Ranks that send each other messages, written against NCCL's API, with a fault planted on request.
//
//   messages NAME RANKS
//
// Each rank is a process. For every rank a line: how it ended, and what it or a stand-in said last. Without a fault it is `right`, and the
// numbers are checked.
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

typedef unsigned long long u64;
typedef unsigned u32;
struct Id {
    char bytes[128];
};
struct Config {
    size_t size;
    u32 magic, version;
    int blocking, cga, least, most;
    const char* net;
    int share;
};

extern "C" {
int cuInit(u32);
int cuDevicePrimaryCtxRetain(void**, int);
int cuCtxSetCurrent(void*);
int cuStreamCreateWithPriority(void**, u32, int);
int cuStreamSynchronize(void*);
int cuEventCreate(void**, u32);
int cuEventRecord(void*, void*);
int cuEventQuery(void*);
int cuStreamWaitEvent(void*, void*, u32);
int cuMemAllocAsync(u64*, u64, void*);
int cuMemcpyHtoDAsync_v2(u64, const void*, u64, void*);
int cuMemcpyDtoHAsync_v2(void*, u64, u64, void*);
int cuMemcpyDtoDAsync_v2(u64, u64, u64, void*);
int cuMemsetD8Async(u64, unsigned char, u64, void*);
int cuStreamBeginCapture_v2(void*, u32);
int cuStreamEndCapture(void*, void**);
int cuGraphInstantiateWithFlags(void**, void*, u64);
int cuGraphLaunch(void*, void*);
int ncclGetUniqueId(Id*);
int ncclCommInitRankConfig(void**, int, Id, int, Config*);
int ncclCommGetAsyncError(void*, int*);
int ncclCommAbort(void*);
int ncclCommFinalize(void*);
int ncclCommDestroy(void*);
int ncclGroupStart();
int ncclGroupEnd();
int ncclSend(const void*, size_t, int, int, void*, void*);
int ncclRecv(void*, size_t, int, int, void*, void*);
const char* ncclGetLastError(void*);
}

static const size_t N = 256;  // numbers of a message
static const int U32 = 3, F16 = 6, IN_PROGRESS = 7;
static std::string name;
static int rank, ranks;

[[noreturn]] static void ends(const char* what) {
    printf("%s\n", what);
    fflush(stdout);
    _exit(0);
}

static void ok(int code, const char* what) {
    if (code && code != IN_PROGRESS) {
        printf("%s returns %d: %s\n", what, code, ncclGetLastError(nullptr));
        fflush(stdout);
        _exit(1);
    }
}
#define OK(CALL) ok(CALL, #CALL)

static bool is(const char* one) { return name == one; }

static double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Asks until the state is a success.
static void ready(void* comm, double limit = 5) {
    const double begin = seconds();
    for (int state = IN_PROGRESS; state;) {
        OK(ncclCommGetAsyncError(comm, &state));
        if (state && state != IN_PROGRESS) {
            printf("state %d after %s a second: %s\n", state, seconds() - begin < 1 ? "less than" : "more than", ncclGetLastError(nullptr));
            fflush(stdout);
            _exit(1);
        }
        if (seconds() - begin > limit) ends("not ready in time");
    }
}

static void done(void* stream, void* comm, double limit = 3) {
    void* event;
    OK(cuEventCreate(&event, 2));
    OK(cuEventRecord(event, stream));
    const double begin = seconds();
    for (int code; (code = cuEventQuery(event)) == 600;) {
        int state = 0;
        OK(ncclCommGetAsyncError(comm, &state));
        if (state) {
            printf("state %d after %s a second: %s\n", state, seconds() - begin < 1 ? "less than" : "more than", ncclGetLastError(nullptr));
            fflush(stdout);
            _exit(1);
        }
        if (seconds() - begin > limit) ends("not done in time");
    }
}

static u64 memory(void* stream, bool written = true) {
    u64 at;
    OK(cuMemAllocAsync(&at, 4 * N, stream));
    if (written) {
        static std::vector<std::vector<u32>> kept;
        kept.emplace_back(N);
        for (size_t i = 0; i < N; ++i) kept.back()[i] = (u32)(1000 * rank + i);
        OK(cuMemcpyHtoDAsync_v2(at, kept.back().data(), 4 * N, stream));
    }
    return at;
}

static void right(u64 at, int from, void* stream) {
    std::vector<u32> got(N);
    OK(cuMemcpyDtoHAsync_v2(got.data(), at, 4 * N, stream));
    OK(cuStreamSynchronize(stream));
    for (size_t i = 0; i < N; ++i)
        if (got[i] != (u32)(1000 * from + i)) {
            printf("wrong: number %zu from rank %d is %u\n", i, from, got[i]);
            fflush(stdout);
            _exit(1);
        }
}

// One hop round the ring.
static void hop(void* comm, u64 out, u64 in, void* stream, void* to = nullptr) {
    OK(ncclGroupStart());
    OK(ncclSend((void*)out, N, U32, (rank + 1) % ranks, comm, stream));
    const bool odd = rank == 1;
    OK(ncclRecv((void*)in, odd && is("count") ? N / 2 : N, odd && is("type") ? 2 : U32, (rank + ranks - 1) % ranks, comm, to ? to : stream));
    OK(ncclGroupEnd());
}

[[noreturn]] static void leave(const std::vector<void*>& comms) {
    for (void* one : comms) {
        OK(ncclCommFinalize(one));
        ready(one);
        OK(ncclCommDestroy(one));
    }
    ends("right");
}

static void play(const std::vector<Id>& ids) {
    void *context, *stream, *other;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    OK(cuStreamCreateWithPriority(&stream, 1, -1));
    OK(cuStreamCreateWithPriority(&other, 1, -1));
    const u64 out = memory(stream, !is("unwritten")), in = memory(stream, false), more = memory(stream, false);
    OK(cuStreamSynchronize(stream));
    const int last = (rank + ranks - 1) % ranks;
    const int most = is("no blocks") ? 0 : is("three blocks") ? 3 : is("other blocks") && rank == 1 ? 8 : 4;
    Config config{sizeof(Config), is("config") ? 1u : 0xcafebeefu, 21800, 0, (int)0x80000000, (int)0x80000000, most, nullptr, (int)0x80000000};
    void *comm, *second;
    if (is("no context")) OK(cuCtxSetCurrent(nullptr));
    const int own = is("rank beyond") ? ranks : is("rank twice") ? 0 : rank;
    OK(ncclCommInitRankConfig(&comm, ranks, ids[0], own, &config));
    if (is("not joined")) hop(comm, out, in, stream);
    ready(comm);
    if (is("begun in a group")) {
        OK(ncclGroupStart());
        OK(ncclSend((void*)out, N, U32, (rank + 1) % ranks, comm, stream));
    }
    OK(ncclCommInitRankConfig(&second, ranks, ids[1], rank, &config));
    ready(second);
    if (is("host memory")) OK(ncclSend(&rank, 1, U32, last, comm, stream));
    if (is("own peer")) OK(ncclSend((void*)out, N, U32, rank, comm, stream));
    if (is("no such rank")) OK(ncclSend((void*)out, N, U32, ranks, comm, stream));
    if (is("no such type")) OK(ncclSend((void*)out, N, 77, last, comm, stream));
    if (is("no communicator")) OK(ncclSend((void*)out, N, U32, last, &name, stream));
    if (is("beyond")) {
        OK(ncclGroupStart());
        OK(ncclSend((void*)out, N + 1, U32, (rank + 1) % ranks, comm, stream));
        OK(ncclRecv((void*)in, N + 1, U32, last, comm, stream));
        OK(ncclGroupEnd());
        ready(comm);
        done(stream, comm);
    }
    if (is("two threads")) {
        std::thread beside([=] {
            int state;
            for (int i = 0; i < 200000; ++i) ncclCommGetAsyncError(comm, &state);
        });
        int state;
        for (int i = 0; i < 200000; ++i) ncclCommGetAsyncError(comm, &state);
        beside.join();
        ends("nobody minds");
    }
    if (is("orders")) {
        void* first = rank == 0 ? comm : second;
        void* then = rank == 0 ? second : comm;
        hop(first, out, in, stream), ready(first);
        hop(then, out, more, other), ready(then);
        done(stream, comm), done(other, comm);
        ends("nobody minds");
    }
    if (is("ungrouped")) {
        OK(ncclSend((void*)out, N, U32, (rank + 1) % ranks, comm, stream)), ready(comm);
        OK(ncclRecv((void*)in, N, U32, last, comm, stream)), ready(comm);
        done(stream, comm, 1);
    }
    if (is("dies") || is("dies in silence")) {
        if (rank == 1) raise(SIGKILL);
        hop(comm, out, in, stream), ready(comm);
        done(stream, comm, 1.5);
    }
    if (is("given up")) {
        OK(ncclCommAbort(comm));
        hop(comm, out, in, stream);
    }
    if (is("ending")) {
        OK(ncclCommFinalize(comm));
        ready(comm);
        hop(comm, out, in, stream);
    }
    if (is("graph")) {
        void *graph, *executable;
        OK(cuStreamBeginCapture_v2(stream, 1));
        hop(comm, out, in, stream), ready(comm);
        OK(cuMemcpyDtoDAsync_v2(more, in, 4 * N, stream));
        OK(cuStreamEndCapture(stream, &graph));
        OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
        for (int turn = 0; turn < 5; ++turn) {
            OK(cuMemsetD8Async(in, 0, 4 * N, stream));
            OK(cuGraphLaunch(executable, stream));
            done(stream, comm);
            right(more, last, stream);
        }
        leave({comm, second});
    }
    hop(comm, out, in, stream, is("two streams") ? other : nullptr);
    if (is("busy")) hop(comm, out, more, stream);
    if (is("early")) {
        // The stream is told of the group when the state is a success, which is not asked for here.
        OK(cuMemcpyDtoDAsync_v2(more, in, 4 * N, stream));
    }
    ready(comm);
    if (is("reused")) OK(cuMemsetD8Async(out, 0, 4 * N, other));
    if (is("read beside")) OK(cuMemcpyDtoDAsync_v2(more, in, 4 * N, other));
    // A group over two streams is a barrier of both: no event is wanted.
    if (is("two streams")) OK(cuMemcpyDtoDAsync_v2(more, in, 4 * N, stream)), OK(cuMemsetD8Async(out, 0, 4 * N, other));
    done(stream, comm), done(other, comm);
    right(is("two streams") || is("early") ? more : in, last, stream);
    // Round the ring.
    for (int turn = 2; turn < ranks; ++turn) {
        OK(cuMemcpyDtoDAsync_v2(out, in, 4 * N, stream));
        hop(second, out, in, stream), ready(second);
        done(stream, second);
        right(in, (rank + ranks - turn) % ranks, stream);
    }
    leave({comm, second});
}

int main(int count, char** words) {
    if (count != 3) return 2;
    name = words[1], ranks = atoi(words[2]);
    // Ids go from rank 0 to the others through pipes.
    std::vector<int> ways(2 * ranks), said(2 * ranks);
    std::vector<pid_t> children;
    for (rank = 0; rank < ranks; ++rank)
        if (pipe(&ways[2 * rank]) || pipe(&said[2 * rank])) return 2;
    for (rank = 0; rank < ranks; ++rank) {
        const pid_t child = fork();
        if (child < 0) return 2;
        if (child) {
            children.push_back(child);
            continue;
        }
        dup2(said[2 * rank + 1], 1), dup2(said[2 * rank + 1], 2);
        std::vector<Id> ids(2);
        if (rank == 0) {
            for (Id& id : ids) OK(ncclGetUniqueId(&id));
            for (int to = 1; to < ranks; ++to) (void)!write(ways[2 * to + 1], ids.data(), 2 * sizeof(Id));
        } else if (read(ways[2 * rank], ids.data(), 2 * sizeof(Id)) != 2 * sizeof(Id)) {
            _exit(2);
        }
        play(ids);
    }
    for (rank = 0; rank < ranks; ++rank) {
        close(said[2 * rank + 1]);
        std::string all;
        char piece[4096];
        for (ssize_t n; (n = read(said[2 * rank], piece, sizeof piece)) > 0;) all.append(piece, (size_t)n);
        int status;
        waitpid(children[rank], &status, 0);
        while (!all.empty() && all.back() == '\n') all.pop_back();
        const size_t begin = all.rfind('\n');
        const std::string last = begin == std::string::npos ? all : all.substr(begin + 1);
        printf("rank %d %s %d: %s\n", rank, WIFEXITED(status) ? "exit" : "signal", WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), last.c_str());
    }
}
