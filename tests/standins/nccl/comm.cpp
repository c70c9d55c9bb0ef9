// Communicators, and the calls about them. None blocks but those of a blocking one.

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <thread>

#include "nccl.h"

namespace standin {

// Of whoever fills in no number of a configuration.
constexpr int UNDEFINED = (int)0x80000000;

static std::string last_error;

int wrong(int code, const char* format, ...) {
    va_list list;
    va_start(list, format);
    char said[512];
    vsnprintf(said, sizeof said, format, list);
    va_end(list);
    last_error = said;
    fprintf(stderr, "stand-in of NCCL: error %d: %s\n", code, said);
    return code;
}

// They stay, so that one that was given up is known.
static std::vector<std::unique_ptr<Comm>>& comms() {
    static auto* all = new std::vector<std::unique_ptr<Comm>>;
    return *all;
}

Comm* comm_of(void* handle) {
    for (auto& c : comms())
        if (c.get() == handle) return c.get();
    return nullptr;
}

// Without the environment's word it takes a few.
u64 some_polls(const Comm& c) {
    const u64 most = setting("NCCL_POLLS", 4);
    return c.blocking || !most ? 0 : 1 + random_below(most);
}

int state_of(Comm& c) {
    std::lock_guard<std::mutex> guard(c.lock);
    if (c.error) return c.error;
    return c.joined && !c.polls ? SUCCESS : IN_PROGRESS;
}

// Reads what a peer sends, until it is gone.
static void listen_to(Comm& c, int peer, int socket) {
    for (;;) {
        Message m{};
        bool there = receive_all(socket, &m.frame, sizeof m.frame);
        if (there && m.frame.what == Frame::MESSAGE) {
            m.bytes.resize(m.frame.bytes);
            there = receive_all(socket, m.bytes.data(), m.bytes.size());
        }
        std::lock_guard<std::mutex> guard(c.lock);
        if (!there) {
            c.gone[peer] = true;
            if (!c.left[peer] && !c.ending && !c.given_up && !setting("NCCL_SILENT")) c.error = REMOTE_ERROR;
            return;
        }
        switch (m.frame.what) {
            case Frame::MESSAGE: c.inbox[peer][m.frame.sequence] = std::move(m); break;
            case Frame::TAKEN: c.taken[peer].insert(m.frame.sequence); break;
            case Frame::BYE: c.left[peer] = true; break;
        }
    }
}

static void join_in(Comm* c, Id id, Place place) {
    std::vector<int> sockets;
    std::vector<Place> all;
    std::string why;
    bool there = meet(id, place, sockets, all, why);
    std::lock_guard<std::mutex> guard(c->lock);
    if (!there) {
        c->error = INVALID_USAGE, c->failed = why;
        return;
    }
    const size_t n = all.size();
    c->sockets = sockets, c->places = all;
    c->inbox.resize(n), c->taken.resize(n), c->gone.resize(n), c->left.resize(n);
    c->sent.resize(n), c->received.resize(n);
    c->joined = true;
    for (int peer = 0; peer < (int)n; ++peer)
        if (peer != place.rank) std::thread([=] { listen_to(*c, peer, sockets[peer]); }).detach();
}

// One call at a time.
struct InCall {
    Comm& c;
    InCall(Comm& c, const char* name) : c(c) {
        if (c.in_call.exchange(true)) finding("%s: another thread is in a call about communicator %u", name, c.number);
    }
    ~InCall() { c.in_call = false; }
};

static int init(void** out, int size, const Id& id, int rank, bool blocking, int most, const char* name) {
    if (!out) return wrong(INVALID_ARGUMENT, "%s: no place for a communicator", name);
    *out = nullptr;
    if (rank < 0 || rank >= size) return wrong(INVALID_ARGUMENT, "%s: rank %d of %d", name, rank, size);
    if (group_has_messages()) finding("%s in a group with messages", name);
    if (!context_is_current()) return wrong(CUDA_ERROR, "%s: no context is current", name);
    auto made = std::make_unique<Comm>();
    Comm* c = made.get();
    c->number = (u32)comms().size() + 1, c->rank = rank, c->size = size, c->blocking = blocking;
    c->polls = some_polls(*c);
    comms().push_back(std::move(made));
    Place place{rank, size, 0, this_process(), {}, 0, most};
    const char* host = getenv("NCCL_HOSTID");
    snprintf(place.host, sizeof place.host, "%s", host ? host : "this host");
    *out = c;
    std::thread([=] { join_in(c, id, place); }).detach();
    if (!blocking) return IN_PROGRESS;
    for (int state; (state = state_of(*c)) != SUCCESS;) {
        if (state != IN_PROGRESS) return wrong(state, "%s: %s", name, c->failed.c_str());
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return SUCCESS;
}

// An operation of a communicator that is over is done, whatever it was.
static int end(Comm& c, bool in_order) {
    std::lock_guard<std::mutex> guard(c.lock);
    for (int peer = 0; c.joined && peer < c.size; ++peer)
        if (peer != c.rank && c.sockets[peer] >= 0) {
            Frame bye{};
            bye.what = Frame::BYE;
            if (in_order) send_all(c.sockets[peer], &bye, sizeof bye);
            shutdown(c.sockets[peer], SHUT_WR);
        }
    c.deferred.clear();
    return SUCCESS;
}

}  // namespace standin

using namespace standin;

// ncclConfig_t as 2.18 has it; later ones are longer.
struct Config {
    size_t size;
    u32 magic, version;
    int blocking, cga, least, most;
    const char* net;
    int share;
};

#define BEGINS(NAME)                                                                         \
    std::lock_guard<std::recursive_mutex> guard(api_lock());                                 \
    if (int code = fails_now(NAME)) return wrong(code == 999 ? SYSTEM_ERROR : code, "%s fails on request", NAME);
#define COMM(NAME)                                                                           \
    Comm* c = comm_of(handle);                                                               \
    if (!c) return wrong(INVALID_ARGUMENT, "%s: the communicator is none", NAME);            \
    if (c->given_up) finding("%s: communicator %u was given up, and is asked again", NAME, c->number); \
    InCall in_call(*c, NAME);                                                                \
    BEGINS(NAME)

extern "C" {

int ncclGetVersion(int* version) {
    BEGINS("ncclGetVersion")
    if (!version) return wrong(INVALID_ARGUMENT, "ncclGetVersion: no place for a version");
    *version = (int)setting("NCCL", 23203);
    return SUCCESS;
}

int ncclGetUniqueId(Id* id) {
    BEGINS("ncclGetUniqueId")
    return id ? make_id(*id) : wrong(INVALID_ARGUMENT, "ncclGetUniqueId: no place for an id");
}

int ncclCommInitRank(void** out, int size, Id id, int rank) {
    BEGINS("ncclCommInitRank")
    return init(out, size, id, rank, true, UNDEFINED, "ncclCommInitRank");
}

int ncclCommInitRankConfig(void** out, int size, Id id, int rank, const Config* config) {
    BEGINS("ncclCommInitRankConfig")
    if (!config) return init(out, size, id, rank, true, UNDEFINED, "ncclCommInitRankConfig");
    if (config->magic != 0xcafebeef || config->size < sizeof(Config) || config->size > 4096)
        return wrong(INVALID_ARGUMENT, "ncclCommInitRankConfig: the configuration is not as its header begins it");
    const int least = config->least == UNDEFINED ? 1 : config->least;
    if (least < 1 || (config->most != UNDEFINED && config->most < least))
        return wrong(INVALID_ARGUMENT, "ncclCommInitRankConfig: %d to %d blocks", config->least, config->most);
    // A number that is no power of two is rounded up for sends and receives: more than was asked for.
    if (config->most != UNDEFINED && (config->most & (config->most - 1)))
        finding("ncclCommInitRankConfig: at most %d blocks, which are no power of two", config->most);
    if (config->blocking != 0 && config->blocking != 1 && config->blocking != UNDEFINED)
        return wrong(INVALID_ARGUMENT, "ncclCommInitRankConfig: blocking is %d", config->blocking);
    return init(out, size, id, rank, config->blocking != 0, config->most, "ncclCommInitRankConfig");
}

int ncclCommGetAsyncError(void* handle, int* state) {
    COMM("ncclCommGetAsyncError")
    if (!state) return wrong(INVALID_ARGUMENT, "ncclCommGetAsyncError: no place for a state");
    some_progress();
    if (int code = fails_now("async")) {
        std::lock_guard<std::mutex> locked(c->lock);
        c->error = code == 999 ? SYSTEM_ERROR : code;
    }
    {
        std::lock_guard<std::mutex> locked(c->lock);
        if (c->joined && c->polls) --c->polls;
    }
    *state = state_of(*c);
    if (*state == SUCCESS && !c->deferred.empty()) {
        auto now = std::move(c->deferred);
        c->deferred.clear();
        for (auto& issue : now) issue();
    }
    if (*state != SUCCESS && *state != IN_PROGRESS) {
        std::lock_guard<std::mutex> locked(c->lock);
        wrong(*state, "%s", !c->failed.empty() ? c->failed.c_str() : "another rank is gone, or the library fails on request");
    }
    return SUCCESS;
}

int ncclCommAbort(void* handle) {
    COMM("ncclCommAbort")
    end(*c, false);
    c->given_up = true;
    return SUCCESS;
}

int ncclCommFinalize(void* handle) {
    COMM("ncclCommFinalize")
    if (state_of(*c) != SUCCESS) finding("ncclCommFinalize: the state of communicator %u is no success", c->number);
    c->ending = true;
    c->polls = some_polls(*c);
    return c->polls ? IN_PROGRESS : SUCCESS;
}

int ncclCommDestroy(void* handle) {
    COMM("ncclCommDestroy")
    if (state_of(*c) == IN_PROGRESS) finding("ncclCommDestroy: communicator %u is in progress", c->number);
    c->ending = true;
    end(*c, true);
    c->given_up = true;
    return SUCCESS;
}

#define ASKS(NAME, WHAT)                                                    \
    int NAME(void* handle, int* out) {                                      \
        COMM(#NAME)                                                         \
        if (!out) return wrong(INVALID_ARGUMENT, "%s: no place", #NAME);    \
        if (state_of(*c) == IN_PROGRESS) return wrong(INVALID_ARGUMENT, "%s: it is in progress", #NAME); \
        *out = WHAT;                                                        \
        return SUCCESS;                                                     \
    }
ASKS(ncclCommCount, c->size)
ASKS(ncclCommUserRank, c->rank)
ASKS(ncclCommCuDevice, 0)

const char* ncclGetErrorString(int code) {
    static const char* const names[] = {"no error", "unhandled cuda error", "unhandled system error", "internal error", "invalid argument",
                                        "invalid usage", "remote process exited or there was a network error", "NCCL operation in progress"};
    return code >= 0 && code <= IN_PROGRESS ? names[code] : "unknown result code";
}

const char* ncclGetLastError(void*) { return last_error.c_str(); }

}  // extern "C"
