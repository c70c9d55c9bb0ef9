// Messages: how they are put together to groups, issued to streams, and done.
//
// A message is done when both of its ends have had their turn on their streams: what is sent is kept nowhere. Within a group messages are
// independent, those of one pair of ranks in order; a group is done as a whole.

#include <string.h>

#include <algorithm>
#include <memory>

#include "nccl.h"

namespace standin {

static u64 size_of_type(int type) {
    static const u64 sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return type >= 0 && type < 12 ? sizes[type] : 0;
}

u64 Part::bytes() const { return count * size_of_type(type); }

static const char* type_name(int type) {
    static const char* const names[] = {"int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64", "bfloat16", "float8e4m3", "float8e5m2"};
    return type >= 0 && type < 12 ? names[type] : "of no type";
}

// ---- groups ----------------------------------------------------------------------------------------------------------------

struct Group {
    int depth = 0;
    struct One {
        Comm* comm;
        Stream* stream;
        Part part;
    };
    std::vector<One> all;
};
static thread_local Group group;

bool in_group() { return group.depth > 0; }
bool group_has_messages() { return !group.all.empty(); }

// How many messages have been issued from and to each process, over all communicators.
static std::map<u64, u64> to_process, from_process;

// A message that was issued.
struct Issued {
    Part part;
    u64 sequence, place;
    bool done = false;
    Message came;
};

// A group on its way.
struct Going {
    Comm* comm;
    std::string what;
    std::vector<Issued> parts;
    bool started = false;
};

static void number(Going& g) {
    for (Issued& i : g.parts) {
        const Place& other = g.comm->places[i.part.peer];
        i.sequence = i.part.sends ? g.comm->sent[i.part.peer]++ : g.comm->received[i.part.peer]++;
        i.place = i.part.sends ? to_process[other.process]++ : from_process[other.process]++;
    }
}

// The bytes of an allocation, which the work under way may touch.
static u8* bytes_at(u64 at, u64 bytes, Allocation*& a) {
    std::string why;
    a = whole_range(at, bytes, why);
    if (!a) throw Failure{700, why};
    open_for_work(*a);
    return (u8*)at;
}

static void fits(const Going& g, const Issued& mine, const Frame& theirs, int peer) {
    const char* here = g.what.c_str();
    if (theirs.type != mine.part.type || theirs.count != mine.part.count)
        finding("%s: rank %d sends %llu of %s, and rank %d receives %llu of %s", here, peer, theirs.count, type_name(theirs.type), g.comm->rank,
                mine.part.count, type_name(mine.part.type));
    if (theirs.place != mine.place)
        finding("%s: rank %d sends it as message %llu to that process, over all communicators, and rank %d receives it as message %llu: ranks use "
                "communicators in different orders", here, peer, theirs.place + 1, g.comm->rank, mine.place + 1);
}

// Whether all of it has come through; what can be done for that is done. It has its turn on its stream.
static bool comes_through(Going& g) {
    Comm& c = *g.comm;
    if (c.given_up) return true;
    if (!g.started) {
        g.started = true;
        for (Issued& i : g.parts) {
            if (!i.part.sends) continue;
            Allocation* a;
            Frame f{Frame::MESSAGE, i.part.type, i.sequence, i.place, i.part.count, i.part.bytes()};
            std::vector<u8> bytes;
            try {
                const u8* at = bytes_at(i.part.at, i.part.bytes(), a);
                bytes.assign(at, at + i.part.bytes());
            } catch (const Failure&) {
                return true;  // which the work then says
            }
            send_all(c.sockets[i.part.peer], &f, sizeof f) && send_all(c.sockets[i.part.peer], bytes.data(), bytes.size());
        }
    }
    bool all = true;
    std::lock_guard<std::mutex> guard(c.lock);
    for (Issued& i : g.parts) {
        if (i.done) continue;
        if (i.part.sends) {
            i.done = c.taken[i.part.peer].erase(i.sequence) > 0;
        } else if (auto at = c.inbox[i.part.peer].find(i.sequence); at != c.inbox[i.part.peer].end()) {
            fits(g, i, at->second.frame, i.part.peer);
            i.came = std::move(at->second);
            c.inbox[i.part.peer].erase(at);
            Frame f{};
            f.what = Frame::TAKEN, f.sequence = i.sequence;
            send_all(c.sockets[i.part.peer], &f, sizeof f);
            i.done = true;
        }
        all &= i.done;
    }
    return all;
}

static void is_through(Going& g) {
    Allocation* a;
    if (g.comm->given_up) {
        // What comes behind on the streams reads whatever lies there; its results are nobody's.
        for (Issued& i : g.parts)
            if (!i.part.sends) bytes_at(i.part.at, i.part.bytes(), a), note_written(*a, i.part.at, i.part.bytes());
        return;
    }
    for (Issued& i : g.parts) {
        u8* at = bytes_at(i.part.at, i.part.bytes(), a);
        if (i.part.sends) {
            note_read(*a, i.part.at, i.part.bytes());
        } else {
            memcpy(at, i.came.bytes.data(), i.came.bytes.size());
            note_written(*a, i.part.at, i.part.bytes());
        }
    }
}

static Work work_of(std::shared_ptr<Going> g) {
    Work w{g->what, [g] { is_through(*g); }};
    w.reads_written_only = true;
    w.elsewhere = [g] { return comes_through(*g); };
    // Each launch of a graph is another exchange.
    w.anew = [g] {
        auto next = std::make_shared<Going>(Going{g->comm, g->what, {}});
        for (const Issued& i : g->parts) next->parts.push_back({i.part, 0, 0});
        number(*next);
        return work_of(next);
    };
    return w;
}

// Puts the messages of a communicator on their streams.
static void issue(Comm* c, const std::vector<Group::One>& all) {
    std::vector<Stream*> streams;
    auto g = std::make_shared<Going>(Going{c, text("a group of communicator %u", c->number), {}});
    for (const Group::One& one : all) {
        if (std::find(streams.begin(), streams.end(), one.stream) == streams.end()) streams.push_back(one.stream);
        g->parts.push_back({one.part, 0, 0});
    }
    const bool captured = capture_of(streams[0]) != nullptr;
    if (!captured) number(*g);
    // Over several streams it is a barrier of all of them.
    std::vector<Event> marks(streams.size());
    for (size_t i = 1; i < streams.size(); ++i) record(streams[i], &marks[i]), wait_for(streams[0], &marks[i]);
    enqueue(streams[0], work_of(g));
    if (streams.size() > 1) record(streams[0], &marks[0]);
    for (size_t i = 1; i < streams.size(); ++i) wait_for(streams[i], &marks[0]);
}

static int group_ends() {
    std::vector<Group::One> all = std::move(group.all);
    group.all.clear();
    std::vector<Comm*> comms;
    for (auto& one : all)
        if (std::find(comms.begin(), comms.end(), one.comm) == comms.end()) comms.push_back(one.comm);
    int code = SUCCESS;
    for (Comm* c : comms) {
        std::vector<Group::One> own;
        for (auto& one : all)
            if (one.comm == c) own.push_back(one);
        // In capture as outside of it, the streams know nothing of it before the state is a success.
        c->polls = some_polls(*c);
        if (c->polls) {
            c->deferred.push_back([=] { issue(c, own); });
            code = IN_PROGRESS;
        } else {
            issue(c, own);
        }
    }
    return code;
}

int group_adds(Comm* c, Stream* s, Part part) {
    if (part.peer == c->rank) return wrong(INVALID_ARGUMENT, "rank %d is its own peer", c->rank);
    if (part.bytes()) group.all.push_back({c, s, part});
    return SUCCESS;
}

}  // namespace standin

using namespace standin;

#define BEGINS(NAME)                                                                         \
    std::lock_guard<std::recursive_mutex> guard(api_lock());                                 \
    if (int code = fails_now(NAME)) return wrong(code == 999 ? SYSTEM_ERROR : code, "%s fails on request", NAME);

// What every message wants.
static int begins(const char* name, void* handle, void* stream, int type, Comm*& c, Stream*& s) {
    c = comm_of(handle);
    if (!c) return wrong(INVALID_ARGUMENT, "%s: the communicator is none", name);
    if (c->given_up) finding("%s: communicator %u was given up, and is asked again", name, c->number);
    if (c->ending) finding("%s: communicator %u is ending", name, c->number);
    if (int state = state_of(*c)) {
        if (state == IN_PROGRESS) finding("%s: communicator %u is in progress, and is asked for more", name, c->number);
        return wrong(state, "%s: communicator %u has failed", name, c->number);
    }
    if (!size_of_type(type)) return wrong(INVALID_ARGUMENT, "%s: type %d", name, type);
    if (!context_is_current()) return wrong(CUDA_ERROR, "%s: no context is current", name);
    s = stream_of(stream);
    return s ? SUCCESS : wrong(INVALID_ARGUMENT, "%s: the stream is none", name);
}

static int one(const char* name, bool sends, u64 at, size_t count, int type, int peer, void* handle, void* stream) {
    Comm* c;
    Stream* s;
    if (int code = begins(name, handle, stream, type, c, s)) return code;
    if (peer < 0 || peer >= c->size) return wrong(INVALID_ARGUMENT, "%s: rank %d of %d", name, peer, c->size);
    if (!at && count) return wrong(INVALID_ARGUMENT, "%s: no memory", name);
    Part part{sends, peer, at, count, type};
    if (part.bytes() && !is_device_memory(at)) return wrong(INVALID_ARGUMENT, "%s: %#llx is no device memory", name, at);
    if (int code = group_adds(c, s, part)) return code;
    return in_group() ? SUCCESS : group_ends();
}

extern "C" {

int ncclGroupStart() {
    BEGINS("ncclGroupStart")
    ++group.depth;
    return SUCCESS;
}

int ncclGroupEnd() {
    BEGINS("ncclGroupEnd")
    if (!group.depth || --group.depth) return SUCCESS;
    return group_ends();
}

int ncclSend(const void* at, size_t count, int type, int peer, void* handle, void* stream) {
    BEGINS("ncclSend")
    return one("ncclSend", true, (u64)at, count, type, peer, handle, stream);
}

int ncclRecv(void* at, size_t count, int type, int peer, void* handle, void* stream) {
    BEGINS("ncclRecv")
    return one("ncclRecv", false, (u64)at, count, type, peer, handle, stream);
}

}  // extern "C"
