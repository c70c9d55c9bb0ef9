// Streams, events, and when what they hold is done: late, and in any order that streams and events allow.

#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <thread>

#include "standin.h"

namespace standin {

static std::vector<std::unique_ptr<Stream>>& streams() {
    static auto* all = new std::vector<std::unique_ptr<Stream>>;
    return *all;
}
static std::set<const void*> destroyed;
static int error;

struct Host {
    u32 who = new_component();
    Clock clock;
};
static Host& host() {
    static auto* h = new Host;
    return *h;
}

const Clock& host_clock() { return host().clock; }

static u32 tick(Clock& clock, u32 who) {
    if (clock.size() <= who) clock.resize(who + 1);
    return ++clock[who];
}

Doer host_does(const std::string& what) { return {host().who, tick(host().clock, host().who), name_operation("the host: " + what)}; }

int sticky_error() { return error; }

// ---- the host's memory ---------------------------------------------------------------------------------------------------

struct Delivery {
    Doer by;
    void* to;
    std::vector<u8> bytes;
};
static std::vector<Delivery> deliveries;
static std::vector<std::shared_ptr<Source>> sources;
static Doer at_work;
static const Clock* known_at_work;

static bool knows(const Clock& clock, const Doer& d) { return d.who < clock.size() && clock[d.who] >= d.time; }

void deliver(void* to, std::vector<u8> bytes) { deliveries.push_back({at_work, to, std::move(bytes)}); }

static void bring(const Clock& known) {
    for (size_t i = 0; i < deliveries.size();) {
        if (!knows(known, deliveries[i].by)) {
            ++i;
            continue;
        }
        memcpy(deliveries[i].to, deliveries[i].bytes.data(), deliveries[i].bytes.size());
        deliveries.erase(deliveries.begin() + i);
    }
}

void bring_what_is_known() { bring(*known_at_work); }

bool is_on_its_way(const void* to, u64 bytes) {
    for (const Delivery& d : deliveries)
        if ((u8*)d.to < (u8*)to + bytes && (u8*)to < (u8*)d.to + d.bytes.size()) return true;
    return false;
}

// Whatever the host holds there; its memory may be gone.
static bool host_holds(const void* at, u64 bytes, std::vector<u8>& out) {
    out.resize(bytes);
    iovec to{out.data(), bytes}, from{(void*)at, bytes};
    return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == (ssize_t)bytes;
}

std::shared_ptr<Source> watch(const void* at, u64 bytes, const std::string& what) {
    auto s = std::make_shared<Source>();
    s->at = at, s->what = what;
    if (!host_holds(at, bytes, s->bytes)) return nullptr;
    sources.push_back(s);
    return s;
}

void is_taken(Source& s) {
    s.done = true;
    s.by = at_work;
}

static void look(const Source& s) {
    std::vector<u8> now;
    if (!host_holds(s.at, s.bytes.size(), now)) finding("the %s: the host has given up its source before it knew that it was done", s.what.c_str());
    if (now != s.bytes) finding("the %s: the host has changed its source before it knew that it was done", s.what.c_str());
}

static bool one_of_them();

// The host knows what the clock says.
static void host_learns(const Clock& clock) {
    join(host().clock, clock);
    if (!finding_kept().empty()) {
        // There may be a race that tells more.
        while (one_of_them()) {
        }
        finding("%s", finding_kept().c_str());
    }
    for (size_t i = 0; i < sources.size();) {
        if (!sources[i]->done || !knows(host().clock, sources[i]->by)) {
            ++i;
            continue;
        }
        look(*sources[i]);
        sources.erase(sources.begin() + i);
    }
    bring(host().clock);
}

void fail(const Failure& f) {
    fprintf(stderr, "stand-in: error %d from here on: %s\n", f.code, f.why.c_str());
    if (!finding_kept().empty()) finding("%s", finding_kept().c_str());
    if (!error) error = f.code;
    deliveries.clear(), sources.clear();
    // The rest is never done.
    for (auto& s : streams()) s->queue.clear();
}

// ---- streams -------------------------------------------------------------------------------------------------------------

Stream* create_stream(bool blocking, int priority) {
    auto s = std::make_unique<Stream>();
    s->number = (u32)streams().size();
    s->who = new_component();
    s->blocking = blocking, s->priority = priority;
    streams().push_back(std::move(s));
    return streams().back().get();
}

static Stream* default_stream() {
    static Stream* one = create_stream(true, 0);
    return one;
}

bool is_stream(const void* handle) {
    for (auto& s : streams())
        if (s.get() == handle) return !destroyed.count(handle);
    return false;
}

Stream* stream_of(void* handle) {
    if (!handle || handle == (void*)1) return default_stream();
    return is_stream(handle) ? (Stream*)handle : nullptr;
}

bool anything_stuck() {
    return std::any_of(streams().begin(), streams().end(), [](auto& s) { return s->stuck; });
}

int destroy_stream(Stream* s) {
    // What was asked of it is done all the same.
    int code = anything_stuck() ? 0 : drain(s);
    forget_stream(s);
    destroyed.insert(s);
    return code;
}

// ---- work ----------------------------------------------------------------------------------------------------------------

static void do_work(const Work& w, Doer by, const Clock& seen) {
    noting_begins();
    at_work = by, known_at_work = &seen;
    if (int code = w.frees || w.makes ? 0 : fails_now("run")) throw Failure{code, w.what + " fails on request"};
    try {
        w.run();
    } catch (Failure& f) {
        f.why = operation_name(by.operation) + ": " + f.why;
        noting_begins();
        throw;
    }
    if (w.makes) w.makes->shadow->make(by, seen);
    for (auto& [a, t] : noting_ends()) {
        for (Range r : t.reads) a->shadow->read(r, by, seen, w.reads_written_only);
        for (Range r : t.writes) a->shadow->write(r, by, seen, "writes");
    }
    if (w.bytes) {
        Allocation &source = *allocation_at(w.from), &target = *allocation_at(w.to);
        for (Range r : source.shadow->unwritten({w.from, w.from + w.bytes})) target.shadow->unwrite({r.begin - w.from + w.to, r.end - w.from + w.to});
    }
    if (w.frees) {
        Allocation& a = *w.frees;
        a.shadow->write({a.begin, a.begin + a.bytes}, by, seen, "frees");
        release(a, operation_name(by.operation));
    }
}

static bool is_ready(Stream& s) {
    if (s.queue.empty() || s.stuck) return false;
    Operation& o = s.queue.front();
    if (o.kind == Operation::GRAPH) {
        if (!o.run && o.graph->running) return false;
        if (!o.run) join(s.seen, o.host), o.run = graph_begins(*o.graph, s.seen);
        return graph_is_able(*o.graph, *o.run, o.anew);
    }
    if (o.kind == Operation::WORK && o.work.elsewhere) return o.work.elsewhere();
    return o.kind != Operation::WAIT || o.record->done;
}

static bool anything_elsewhere() {
    return std::any_of(streams().begin(), streams().end(), [](auto& s) {
        if (s->stuck || s->queue.empty()) return false;
        const Operation& o = s->queue.front();
        return o.kind == Operation::GRAPH ? !o.anew.empty() : o.kind == Operation::WORK && o.work.elsewhere;
    });
}

static double now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static void step(Stream& s) {
    Operation o = std::move(s.queue.front());
    s.queue.pop_front();
    join(s.seen, o.host);
    try {
        switch (o.kind) {
            case Operation::WORK: {
                const u32 time = tick(s.seen, s.who);
                do_work(o.work, {s.who, time, o.work.number}, s.seen);
                break;
            }
            case Operation::RECORD:
                o.record->clock = s.seen;
                o.record->milliseconds = now();
                o.record->done = true;
                break;
            case Operation::WAIT: join(s.seen, o.record->clock); break;
            case Operation::GRAPH:
                if (!graph_goes_on(*o.graph, *o.run, o.anew, s.seen, do_work)) s.queue.push_front(std::move(o));
                break;
        }
    } catch (const Failure& f) {
        fail(f);
    }
}

// One operation of some stream; false where no stream has any that may be done.
static bool one_of_them() {
    std::vector<Stream*> ready;
    for (auto& s : streams())
        if (is_ready(*s)) ready.push_back(s.get());
    if (ready.empty()) return false;
    Stream& s = *ready[random_below(ready.size())];
    static const u64 stuck_at = setting("STUCK", 0);
    static u64 begun;
    if (s.queue.front().kind == Operation::WORK && ++begun == stuck_at) {
        s.stuck = true;
        return true;
    }
    const std::string what = s.queue.front().kind == Operation::WORK ? operation_name(s.queue.front().work.number) : "a graph";
    work_begins(what.c_str());
    step(s);
    work_ends();
    return true;
}

void wait_for_others() { std::this_thread::sleep_for(std::chrono::microseconds(200)); }

static void deadlock(const char* who) {
    std::string all;
    for (auto& s : streams())
        if (!s->queue.empty())
            all += text("; stream %u has %zu operations, the first %s", s->number, s->queue.size(),
                        s->stuck ? ("of which is stuck on request: " + operation_name(s->queue.front().work.number)).c_str() : "waits for an event");
    finding("deadlock: %s waits, and nothing can be done%s", who, all.c_str());
}

template <class F>
static int until(const char* who, F done) {
    while (!error && !done())
        if (!one_of_them()) {
            if (!anything_elsewhere()) deadlock(who);
            work_begins("what other processes take part in");
            while (!one_of_them()) wait_for_others();
            work_ends();
        }
    // Some of what may be done is done now and then.
    while (!error && random_below(4) == 0 && one_of_them()) {
    }
    close_all();
    return error;
}

int drain(Stream* s) {
    int code = until("the host", [&] { return s->queue.empty(); });
    if (!code) host_learns(s->seen);
    return code;
}

int drain_all() {
    int code = until("the host", [] {
        return std::all_of(streams().begin(), streams().end(), [](auto& s) { return s->queue.empty(); });
    });
    for (auto& s : streams()) host_learns(s->seen);
    return code;
}

int await_event(Event* e) {
    std::shared_ptr<Record> last = e->last;
    if (!last) return error;
    int code = until("the host", [&] { return last->done; });
    if (!code) host_learns(last->clock);
    return code;
}

// Who asks again and again is answered in the end: each time something is done, where something can be.
static void asked() {
    if (!error) one_of_them();
    close_all();
}

int query(Stream* s) {
    asked();
    if (error) return error;
    if (!s->queue.empty()) return 600;
    host_learns(s->seen);
    return 0;
}

int query(Event* e) {
    std::shared_ptr<Record> last = e->last;
    if (last && !last->done) asked();
    if (error) return error;
    if (!last) return 0;
    if (!last->done) return 600;
    host_learns(last->clock);
    return 0;
}

int elapsed(Event* a, Event* b, float* milliseconds) {
    if (!a->timing || !b->timing || !a->last || !b->last) return 400;
    if (!a->last->done || !b->last->done) return 600;
    // A stand-in has no time. Who only wants to see his program run to its end says so.
    if (!setting("TIME")) return 801;
    *milliseconds = (float)(b->last->milliseconds - a->last->milliseconds);
    return 0;
}

// By the seed: never, now and then, often, or at once.
void some_progress() {
    const u64 eager = seed() % 4;
    if (anything_captures() || error) return;
    u64 most = eager == 0 ? 0 : eager == 1 ? random_below(8) == 0 : eager == 2 ? random_below(3) : 1000000;
    while (most-- && !error && one_of_them()) {
    }
    close_all();
}

// ---- what is asked for ---------------------------------------------------------------------------------------------------

// The default stream and those that were made to heed it wait for each other.
static void heed_default(Stream* s) {
    if (!s->blocking) return;
    for (auto& other : streams()) {
        if (other.get() == s || !other->blocking || (s != default_stream() && other.get() != default_stream())) continue;
        auto done = std::make_shared<Record>();
        other->queue.push_back({Operation::RECORD, {}, {}, done, nullptr, {}, nullptr});
        s->queue.push_back({Operation::WAIT, {}, {}, done, nullptr, {}, nullptr});
    }
}

static std::string on(const std::string& what, Stream* s) { return what + text(" on stream %u", s->number); }

int enqueue(Stream* s, Work work) {
    if (auto c = capture_of(s)) return capture_work(*c, s, std::move(work));
    heed_default(s);
    work.number = name_operation(on(work.what, s));
    s->queue.push_back({Operation::WORK, host().clock, std::move(work), nullptr, nullptr, {}, nullptr});
    some_progress();
    return error;
}

int enqueue_graph(Stream* s, std::shared_ptr<Executable> graph) {
    heed_default(s);
    std::map<size_t, Work> anew;
    for (size_t i = 0; i < graph->nodes.size(); ++i)
        if (const Work& w = graph->nodes[i].work; w.anew) anew.emplace(i, w.anew()).first->second.number = w.number;
    s->queue.push_back({Operation::GRAPH, host().clock, {}, nullptr, std::move(graph), std::move(anew), nullptr});
    some_progress();
    return error;
}

int record(Stream* s, Event* e) {
    if (auto c = capture_of(s)) {
        e->capture = c;
        e->last = nullptr;
        e->nodes = c->ends[s];
        return c->broken ? 901 : 0;
    }
    e->capture = nullptr;
    e->last = std::make_shared<Record>();
    s->queue.push_back({Operation::RECORD, host().clock, {}, e->last, nullptr, {}, nullptr});
    some_progress();
    return error;
}

int wait_for(Stream* s, Event* e) {
    auto mine = capture_of(s);
    if (e->capture) {
        Capture& c = *e->capture;
        if (c.ended) finding("stream %u waits for event %u, which was recorded in a capture that has ended", s->number, e->number);
        if (mine && mine != e->capture) return 902;
        if (!mine && !s->queue.empty() && s == default_stream()) return 906;
        std::vector<int>& ends = c.ends[s];
        ends.insert(ends.end(), e->nodes.begin(), e->nodes.end());
        return 0;
    }
    if (mine) {
        if (!e->last) finding("deadlock: stream %u, which is captured, waits for event %u, which nobody has recorded", s->number, e->number);
        mine->broken = true;
        return 905;
    }
    if (!e->last)
        finding("deadlock: stream %u waits for event %u, which nobody has recorded; CUDA would not wait at all", s->number, e->number);
    s->queue.push_back({Operation::WAIT, host().clock, {}, e->last, nullptr, {}, nullptr});
    some_progress();
    return error;
}

}  // namespace standin
