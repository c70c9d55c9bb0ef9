// The stand-in of CUDA's driver: what its files share. See ../README.md for what it enforces.
//
// Every call of the API takes one lock and is over when it returns; what it asks for waits in the queue of a stream. Work is
// done later, inside of calls that wait or ask, by the thread that calls: a stream with something to do is chosen by the seed.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "calls.h"

namespace standin {

// ---- findings.cpp ------------------------------------------------------------------------------------------------------

// What no driver would tell: names itself and ends the process.
[[noreturn]] void finding(const char* format, ...);
// The same, unless a race is found first that tells more: said when the host next learns that something is done.
void finding_in_the_end(const std::string& text);
const std::string& finding_kept();
std::string text(const char* format, ...);
// What the environment says of a name, or a number for it.
const char* setting(const char* name);
u64 setting(const char* name, u64 otherwise);
u64 random_below(u64 n);
u64 seed();
void seed_anew(u64 seed);
// Whether what is asked for is to fail now, and with which code: counted by kind ("alloc", "launch", "copy", "run") and by name.
int fails_now(const char* kind);
// Work is under way from here to `work_ends`: it must end before the limit.
void work_begins(const char* what);
void work_ends();

// ---- trials.cpp: faults planted in calls -------------------------------------------------------------------------------------

// What is to be planted cannot be: ends the trial with status 96.
[[noreturn]] void no_such_fault();
// A call is counted; whether it is to be left out.
bool left_out(const char* name);
// How many bytes the call that was counted last takes in place of so many.
u64 planted_bytes(u64 bytes);
// Whether it is to be done so: the number behind the word.
bool planted(const char* how, u64& number);
// The allocations since the trial began, in their order.
struct Taken {
    u64 at, bytes;
    void* stream;
};
void note_allocation(const Taken& taken);
const std::vector<Taken>& taken_in_trial();
// The event that is to be taken in place of this one: the one that was recorded before it.
const void* another_event(const void* event, bool records = false);
// Where what a buffer of the host was moved to lies now.
void move_allocation(u64 from, u64 to);
u64 moved(u64 at);

// ---- order.cpp: who comes after whom ------------------------------------------------------------------------------------

using Clock = std::vector<u32>;
void join(Clock& into, const Clock& other);
u32 new_component();  // of all clocks

struct Range {
    u64 begin, end;
};

// What an operation touched, in order and without overlaps.
struct Touched {
    std::vector<Range> reads, writes;
};

// Who did something, and when by its own count.
struct Doer {
    u32 who = 0, time = 0, operation = 0;
};

// The description of an operation, by number.
u32 name_operation(const std::string& what);
const std::string& operation_name(u32 operation);

// What each byte of an allocation was last written and read by.
class Shadow {
  public:
    Shadow(const std::string& name, Range all, Doer made);
    // Faults unless everything that it must come after is known to `seen`.
    void read(Range r, Doer by, const Clock& seen, bool must_be_written);
    void write(Range r, Doer by, const Clock& seen, const char* how);
    // All of it becomes new.
    void make(Doer by, const Clock& seen);
    // What of a range nobody has written.
    std::vector<Range> unwritten(Range r) const;
    // What was copied from there is no more written than it was there.
    void unwrite(Range r);

  private:
    struct Part {
        u64 end;
        bool written;
        Doer writer;
        std::vector<Doer> readers;  // since, one for each who
    };
    std::string name;
    std::map<u64, Part> parts;
    std::map<u64, Part>::iterator split(u64 at);
};

// ---- memory.cpp --------------------------------------------------------------------------------------------------------

struct Page;

// Device memory. Its addresses are never given out again.
struct Allocation {
    u32 number;
    u64 begin, bytes;
    u64 mapped_begin, mapped_bytes;
    bool open = false;        // to the host's reach
    bool given_back = false;  // the host has asked to free it
    bool gone = false;        // it was freed, in the order of its stream
    std::string freed_by;
    std::unique_ptr<Shadow> shadow;
    std::vector<std::unique_ptr<Page>> pages;  // what the operation under way touches
    std::string name() const;
};

void memory_begins();  // takes the addresses
// Null if there is not so much.
Allocation* allocate(u64 bytes, Doer made);
void release(Allocation& a, const std::string& by);
u64 memory_total();
u64 memory_free();
// The allocation that holds the address, live or gone; null for none.
Allocation* allocation_at(u64 address);
// The allocation that holds the whole range, if it was not freed; else says why not.
Allocation* whole_range(u64 at, u64 bytes, std::string& why);
bool is_device_memory(u64 address);
std::string live_allocations();
void open_for_work(Allocation& a);
void close_all();

// What an operation touches is noted between these two.
void noting_begins();
void note_read(Allocation& a, u64 at, u64 bytes);
void note_written(Allocation& a, u64 at, u64 bytes);
std::vector<std::pair<Allocation*, Touched>> noting_ends();

// ---- work: streams.cpp ---------------------------------------------------------------------------------------------------

// The error that a launch or copy ended with; every call returns it from then on.
struct Failure {
    int code;
    std::string why;
};

// A piece of work; throws Failure.
struct Work {
    std::string what;
    std::function<void()> run;
    bool reads_written_only = false;  // whether it must not read what nobody wrote
    u64 from = 0, to = 0, bytes = 0;  // of a copy on the device
    Allocation* makes = nullptr;
    Allocation* frees = nullptr;
    u32 number = 0;  // of its name
    // Of what other processes take part in: has its turn come, whether it can be done; and the same for another launch of a graph.
    std::function<bool()> elsewhere;
    std::function<Work()> anew;
};

struct Record {
    bool done = false;
    Clock clock;
    double milliseconds = 0;
};

struct Capture;
struct Node;
struct Executable;
struct GraphRun;

struct Operation {
    enum Kind { WORK, RECORD, WAIT, GRAPH } kind;
    Clock host;  // what the host knew when it asked
    Work work;
    std::shared_ptr<Record> record;
    std::shared_ptr<Executable> graph;
    std::map<size_t, Work> anew;  // nodes that this launch of the graph has for itself
    std::shared_ptr<GraphRun> run;  // once it has begun
};

struct Stream {
    u32 number;
    u32 who;  // its component of the clocks
    bool blocking;
    int priority;
    bool stuck = false;  // nothing more is done, because the environment asks for that
    std::deque<Operation> queue;
    Clock seen;
};

struct Event {
    u32 number;
    bool timing;
    bool sleeps;  // who waits for it sleeps
    std::shared_ptr<Record> last;
    std::shared_ptr<Capture> capture;  // where it was last recorded in a capture
    std::vector<int> nodes;  // that it comes after
};

int sticky_error();
// Something waits for another process: gives it a moment, but not for ever.
void wait_for_others();
void fail(const Failure& f);

Stream* create_stream(bool blocking, int priority);
bool is_stream(const void* handle);
Stream* stream_of(void* handle);  // null and 1 are the default stream; null if there is none such
int destroy_stream(Stream* s);
bool anything_stuck();
Doer host_does(const std::string& what);  // something at once
const Clock& host_clock();

// Bytes for the host: they come when the host knows that they have, and not before. For the work under way.
void deliver(void* to, std::vector<u8> bytes);
// Memory of the host that a copy reads: it stays as it is until the host knows that the copy is done.
struct Source {
    const void* at;
    std::vector<u8> bytes;
    std::string what;
    bool done = false;
    Doer by;
};
std::shared_ptr<Source> watch(const void* at, u64 bytes, const std::string& what);  // null where there is no such memory
void is_taken(Source& source);  // by the work under way
// Brings what was on its way to the host and is known to the work under way.
void bring_what_is_known();
bool is_on_its_way(const void* to, u64 bytes);

int enqueue(Stream* s, Work work);
int enqueue_graph(Stream* s, std::shared_ptr<Executable> graph);
int record(Stream* s, Event* e);
int wait_for(Stream* s, Event* e);
// Wait until it is done: 0 or an error.
int drain(Stream* s);
int drain_all();
int await_event(Event* e);
int query(Stream* s);
int query(Event* e);
int elapsed(Event* a, Event* b, float* milliseconds);
void some_progress();

// ---- graphs.cpp ----------------------------------------------------------------------------------------------------------

struct Node {
    Work work;
    u32 lane;
    std::vector<int> after;
};

// What streams are asked for between the begin and the end of a capture.
struct Capture {
    u32 number;
    Stream* origin;
    bool broken = false, ended = false;
    std::vector<Node> nodes;
    // Per stream that takes part: the nodes that its next one comes after.
    std::map<Stream*, std::vector<int>> ends;
};

struct Graph {
    std::vector<Node> nodes;
    std::vector<u64> lanes;
};

struct Executable {
    u32 number;
    std::vector<Node> nodes;
    std::vector<u32> components;  // of the clocks, by lane
    Clock last;                   // the end of its last run
    bool running = false;
};

// A launch that is under way.
struct GraphRun {
    std::vector<Clock> ends;
    std::vector<size_t> left, ready;
    std::vector<std::vector<size_t>> next;
    Clock begin, all;
    size_t able = 0;  // of `ready`, by its place
};

int capture_begins(Stream* s, u32 mode);
int capture_ends(Stream* s, Graph** graph);
std::shared_ptr<Capture> capture_of(Stream* s);
bool anything_captures();
void break_captures();
void forget_stream(Stream* s);
int capture_work(Capture& c, Stream* s, Work work);
Graph* graph_of(void* handle);
int destroy_graph(void* handle);
int instantiate(Graph* g, void** executable);
std::shared_ptr<Executable> executable_of(void* handle);
int destroy_executable(void* handle);
std::shared_ptr<GraphRun> graph_begins(Executable& g, const Clock& clock);
// Whether one of its nodes can be done now: by the seed, which. What waits for other processes is left for later.
bool graph_is_able(const Executable& g, GraphRun& run, const std::map<size_t, Work>& anew);
// Does that one; true when it was the last, and the clock knows all of it. Throws Failure.
bool graph_goes_on(Executable& g, GraphRun& run, const std::map<size_t, Work>& anew, Clock& clock,
                   const std::function<void(const Work&, Doer, const Clock&)>& one);

// ---- calls.cpp ---------------------------------------------------------------------------------------------------------------

// The one that every call takes.
std::recursive_mutex& api_lock();
bool context_is_current();

// ---- modules.cpp ---------------------------------------------------------------------------------------------------------

struct Function;
int load_module(void** module, const void* image);
int unload_module(void* module);
int find_function(Function** function, void* module, const char* name);
int set_attribute(Function* f, int attribute, int value);
int get_attribute(Function* f, int attribute, int* value);
bool is_function(const void* handle);
int launch(Stream* s, Function* f, const u32 (&grid)[3], const u32 (&block)[3], u32 shared, void** arguments);
int encode_map(void* map, int type, u32 rank, u64 at, const u64* extents, const u64* strides, const u32* box, const u32* steps,
               int interleave, int swizzle, int fill);
std::string architecture();  // that the device has: sm_90a
int shared_limit();          // bytes of shared memory that a block may have

}  // namespace standin
