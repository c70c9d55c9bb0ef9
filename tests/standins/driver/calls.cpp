// The functions of the driver's API that annulus calls, and those that a program with several streams and graphs needs. All
// others are in stubs.cpp: they name themselves and end the process.
//
// Every function takes the one lock, counts itself for failures on request, and returns the error of a failed launch or copy
// ever after, as a driver does.

#include <stdlib.h>
#include <string.h>

#include <mutex>
#include <set>

#include "machine.h"
#include "standin.h"

using namespace standin;

typedef int Result;


enum Needs { NOTHING, DRIVER, CONTEXT };
static bool started;
static int retained;
static int context_itself;  // its address is the context
static thread_local std::vector<void*> current;

namespace standin {
std::recursive_mutex& api_lock() {
    static auto* one = new std::recursive_mutex;
    return *one;
}

bool context_is_current() { return !current.empty() && current.back(); }
}  // namespace standin

// 0, or what the call returns at once.
static Result begins(const char* name, Needs needs) {
    if (int code = fails_now(name)) {
        // A wait fails because of what it waits for, and that is not mended by asking again.
        if (strstr(name, "Synchronize")) fail({code, std::string(name) + " fails on request"});
        return code;
    }
    if (needs == NOTHING) return 0;
    if (!started) return 3;
    if (needs == CONTEXT && (current.empty() || !current.back())) return 201;
    if (needs == CONTEXT && !retained) return 709;
    return sticky_error();
}

#define CALL(NAME, NEEDS)                                    \
    std::lock_guard<std::recursive_mutex> guard(api_lock());     \
    if (Result code = begins(NAME, NEEDS)) return code;      \
    if (left_out(NAME)) return 0;
// What would wait breaks a capture.
#define WAITS(NAME, NEEDS)                                   \
    CALL(NAME, NEEDS)                                        \
    if (anything_captures()) {                               \
        break_captures();                                    \
        return 900;                                          \
    }
#define STREAM(S, HANDLE)                                    \
    Stream* S = stream_of(HANDLE);                           \
    if (!S) return 400;

static std::set<const void*>& events() {
    static auto* all = new std::set<const void*>;
    return *all;
}
#define EVENT(E, HANDLE)                                     \
    if (!events().count(HANDLE)) return 400;                 \
    Event* E = (Event*)HANDLE;

struct Pinned {
    u64 bytes;
};
static std::map<u64, Pinned>& pinned() {
    static auto* all = new std::map<u64, Pinned>;
    return *all;
}

extern "C" {

// ---- the driver, devices, contexts ----------------------------------------------------------------------------------------

Result cuInit(u32) {
    CALL("cuInit", NOTHING)
    memory_begins();
    started = true;
    return setting("DEVICES", 1) ? 0 : 100;
}

Result cuDriverGetVersion(int* version) {
    CALL("cuDriverGetVersion", NOTHING)
    *version = (int)setting("VERSION", 13000);
    return 0;
}

Result cuDeviceGetCount(int* count) {
    CALL("cuDeviceGetCount", DRIVER)
    *count = (int)setting("DEVICES", 1);
    return 0;
}

Result cuDeviceGet(int* device, int ordinal) {
    CALL("cuDeviceGet", DRIVER)
    if (ordinal < 0 || ordinal >= (int)setting("DEVICES", 1)) return 101;
    if (ordinal) finding("cuDeviceGet(%d): the stand-in has one device", ordinal);
    *device = ordinal;
    return 0;
}

Result cuDeviceGetName(char* name, int bytes, int) {
    CALL("cuDeviceGetName", DRIVER)
    snprintf(name, bytes, "stand-in of a GPU, %s", architecture().c_str());
    return 0;
}

Result cuDeviceGetUuid_v2(u8* uuid, int) {
    CALL("cuDeviceGetUuid_v2", DRIVER)
    memcpy(uuid, "annulus standin", 16);
    return 0;
}
Result cuDeviceGetUuid(u8* uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

Result cuDeviceTotalMem_v2(u64* bytes, int) {
    CALL("cuDeviceTotalMem_v2", DRIVER)
    *bytes = memory_total();
    return 0;
}

Result cuDeviceGetAttribute(int* value, int attribute, int) {
    CALL("cuDeviceGetAttribute", DRIVER)
    const std::string a = architecture();
    const int capability = atoi(a.c_str() + 3);
    switch (attribute) {
        case 1: *value = 1024; return 0;                              // threads of a block
        case 8: *value = 48 << 10; return 0;                          // shared memory of a block, unless more is asked for
        case 10: *value = 32; return 0;                               // of a warp
        case 16: *value = (int)setting("MULTIPROCESSORS", 3); return 0;
        case 39: *value = 2048; return 0;                             // threads of a multiprocessor
        case 40: *value = 3; return 0;                                // copy engines
        case 38: *value = 50 << 20; return 0;                         // the L2 cache
        case 31: case 41: case 83: *value = 1; return 0;              // concurrent kernels, unified addresses, managed memory
        case 75: *value = capability / 10; return 0;
        case 76: *value = capability % 10; return 0;
        case 78: *value = 1; return 0;                                // priorities of streams
        case 97: *value = standin::shared_limit(); return 0;
        case 115: *value = 1; return 0;                               // pools of memory
    }
    finding("cuDeviceGetAttribute: attribute %d is none that the stand-in knows", attribute);
}

Result cuDevicePrimaryCtxRetain(void** context, int) {
    CALL("cuDevicePrimaryCtxRetain", DRIVER)
    ++retained;
    *context = &context_itself;
    return 0;
}

Result cuDevicePrimaryCtxRelease_v2(int) {
    CALL("cuDevicePrimaryCtxRelease_v2", DRIVER)
    if (!retained) return 201;
    // What it holds is done before it goes.
    if (retained == 1 && !anything_stuck()) drain_all();
    --retained;
    const std::string left = retained || !setting("LEAKS") ? "" : live_allocations();
    if (!left.empty()) finding("the last context is given up, and nobody has freed %s", left.c_str());
    return 0;
}

Result cuCtxGetCurrent(void** context) {
    CALL("cuCtxGetCurrent", DRIVER)
    *context = current.empty() ? nullptr : current.back();
    return 0;
}

Result cuCtxSetCurrent(void* context) {
    CALL("cuCtxSetCurrent", DRIVER)
    if (context && context != &context_itself) return 201;
    if (current.empty()) current.push_back(nullptr);
    current.back() = context;
    return 0;
}

Result cuCtxPushCurrent_v2(void* context) {
    CALL("cuCtxPushCurrent_v2", DRIVER)
    if (context != &context_itself) return 201;
    current.push_back(context);
    return 0;
}

Result cuCtxPopCurrent_v2(void** context) {
    CALL("cuCtxPopCurrent_v2", DRIVER)
    if (current.empty()) return 201;
    if (context) *context = current.back();
    current.pop_back();
    return 0;
}

Result cuCtxGetDevice(int* device) {
    CALL("cuCtxGetDevice", CONTEXT)
    *device = 0;
    return 0;
}

Result cuCtxSynchronize() {
    WAITS("cuCtxSynchronize", CONTEXT)
    return drain_all();
}

Result cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    CALL("cuCtxGetStreamPriorityRange", CONTEXT)
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return 0;
}

// ---- streams and events ---------------------------------------------------------------------------------------------------

Result cuStreamCreateWithPriority(void** stream, u32 flags, int priority) {
    CALL("cuStreamCreateWithPriority", CONTEXT)
    if (flags > 1) return 1;
    *stream = create_stream(flags == 0, std::min(0, std::max(-5, priority)));
    return 0;
}

Result cuStreamCreate(void** stream, u32 flags) {
    CALL("cuStreamCreate", CONTEXT)
    if (flags > 1) return 1;
    *stream = create_stream(flags == 0, 0);
    return 0;
}

Result cuStreamGetPriority(void* stream, int* priority) {
    CALL("cuStreamGetPriority", CONTEXT)
    STREAM(s, stream)
    *priority = s->priority;
    return 0;
}

Result cuStreamGetFlags(void* stream, u32* flags) {
    CALL("cuStreamGetFlags", CONTEXT)
    STREAM(s, stream)
    *flags = !s->blocking;
    return 0;
}

Result cuStreamGetCtx(void* stream, void** context) {
    CALL("cuStreamGetCtx", CONTEXT)
    STREAM(s, stream)
    *context = &context_itself;
    return 0;
}

Result cuStreamDestroy_v2(void* stream) {
    CALL("cuStreamDestroy_v2", CONTEXT)
    if (!is_stream(stream)) finding("cuStreamDestroy of what is no stream, or was destroyed before");
    return destroy_stream((Stream*)stream);
}

Result cuStreamSynchronize(void* stream) {
    WAITS("cuStreamSynchronize", CONTEXT)
    STREAM(s, stream)
    return drain(s);
}

Result cuStreamQuery(void* stream) {
    CALL("cuStreamQuery", CONTEXT)
    STREAM(s, stream)
    if (capture_of(s)) {
        break_captures();
        return 900;
    }
    return query(s);
}

Result cuStreamWaitEvent(void* stream, void* event, u32 flags) {
    CALL("cuStreamWaitEvent", CONTEXT)
    STREAM(s, stream)
    EVENT(e, event)
    if (flags) finding("cuStreamWaitEvent with flags %u", flags);
    return wait_for(s, (Event*)another_event(e));
}

Result cuEventCreate(void** event, u32 flags) {
    static u32 count;
    CALL("cuEventCreate", CONTEXT)
    if (flags & ~3u) finding("cuEventCreate with flags %u", flags);
    *event = new Event{++count, !(flags & 2), (flags & 1) != 0, nullptr, nullptr, {}};
    events().insert(*event);
    return 0;
}

Result cuEventDestroy_v2(void* event) {
    CALL("cuEventDestroy_v2", CONTEXT)
    if (!events().erase(event)) finding("cuEventDestroy of what is no event, or was destroyed before");
    delete (Event*)event;
    return 0;
}

Result cuEventRecord(void* event, void* stream) {
    CALL("cuEventRecord", CONTEXT)
    STREAM(s, stream)
    EVENT(e, event)
    return record(s, (Event*)another_event(e, true));
}

// CUDA says of an event that nobody has recorded that it is done. One that lets sleep who waits for it may be such a one: cudarc makes
// one for pinned memory, and waits for it when the memory is dropped, whether or not a copy was asked for.
static void look_whether_recorded(const Event& e, const char* who) {
    if (!e.last && !e.sleeps) finding("deadlock: the host %s event %u, which nobody has recorded; CUDA would not wait at all", who, e.number);
}

Result cuEventQuery(void* event) {
    CALL("cuEventQuery", CONTEXT)
    EVENT(e, event)
    if (e->capture) return 907;
    look_whether_recorded(*e, "asks for");
    return query(e);
}

Result cuEventSynchronize(void* event) {
    WAITS("cuEventSynchronize", CONTEXT)
    EVENT(e, event)
    if (e->capture) return 907;
    look_whether_recorded(*e, "waits for");
    return await_event(e);
}

Result cuEventElapsedTime_v2(float* milliseconds, void* begin, void* end) {
    CALL("cuEventElapsedTime_v2", CONTEXT)
    EVENT(a, begin)
    EVENT(b, end)
    return elapsed(a, b, milliseconds);
}
Result cuEventElapsedTime(float* milliseconds, void* begin, void* end) { return cuEventElapsedTime_v2(milliseconds, begin, end); }

// ---- memory ---------------------------------------------------------------------------------------------------------------

static Result take(u64* at, u64 bytes, Stream* s) {
    if (!bytes) return 1;
    if (int code = fails_now("alloc")) return code;
    u64 which;
    if (planted("again", which)) {
        // A place that somebody has already.
        if (which >= taken_in_trial().size()) no_such_fault();
        *at = taken_in_trial()[which].at;
        return 0;
    }
    bytes = planted_bytes(bytes);
    Allocation* a = allocate(bytes, host_does(text("cuMemAlloc of %llu bytes", bytes)));
    if (!a) return 2;
    *at = a->begin;
    note_allocation({*at, bytes, s});
    if (!s) return 0;
    Work w{text("allocation %u of %llu bytes", a->number, bytes), [] {}};
    w.makes = a;
    return enqueue(s, std::move(w));
}

Result cuMemAlloc_v2(u64* at, u64 bytes) {
    CALL("cuMemAlloc_v2", CONTEXT)
    if (anything_captures()) {
        break_captures();
        return 900;
    }
    return take(at, bytes, nullptr);
}

Result cuMemAllocAsync(u64* at, u64 bytes, void* stream) {
    CALL("cuMemAllocAsync", CONTEXT)
    STREAM(s, stream)
    if (capture_of(s)) finding("cuMemAllocAsync in a capture: graphs that allocate are none that the stand-in knows");
    return take(at, bytes, s);
}

static Allocation* given_back(const char* call, u64 at) {
    Allocation* a = allocation_at(at);
    if (!a || a->begin != at) finding("%s of 0x%llx, where no allocation begins", call, at);
    if (a->given_back) finding("%s: double free of %s", call, a->name().c_str());
    a->given_back = true;
    return a;
}

Result cuMemFree_v2(u64 at) {
    CALL("cuMemFree_v2", CONTEXT)
    if (!at) return 0;
    Allocation* a = given_back("cuMemFree", at);
    // At once, whatever is under way: who frees too early is found by what comes before or after.
    const Doer host = host_does("cuMemFree of " + a->name());
    a->shadow->write({a->begin, a->begin + a->bytes}, host, host_clock(), "frees");
    release(*a, operation_name(host.operation));
    return 0;
}

Result cuMemFreeAsync(u64 at, void* stream) {
    CALL("cuMemFreeAsync", CONTEXT)
    STREAM(s, stream)
    if (capture_of(s)) finding("cuMemFreeAsync in a capture: graphs that free are none that the stand-in knows");
    Work w{"", [] {}};
    w.frees = given_back("cuMemFreeAsync", at);
    w.what = "free of " + w.frees->name();
    return enqueue(s, std::move(w));
}

// The fault of a host that gives an allocation up before what uses it was asked for.
static Result given_back_early() {
    u64 which;
    if (!planted("freed before", which)) return 0;
    if (which >= taken_in_trial().size()) no_such_fault();
    return cuMemFreeAsync(taken_in_trial()[which].at, taken_in_trial()[which].stream);
}

// The fault of a host whose buffer lies elsewhere since a graph was made: its copies go there, and the graph stays as it was.
static Result made_elsewhere() {
    u64 which, at;
    const bool keeps = planted("moved", which);
    if (!keeps && !planted("moved and freed", which)) return 0;
    if (which >= taken_in_trial().size()) no_such_fault();
    const Taken old = taken_in_trial()[which];
    if (Result code = cuMemAlloc_v2(&at, old.bytes)) return code;
    move_allocation(old.at, at);
    return keeps ? 0 : cuMemFreeAsync(old.at, old.stream);
}

Result cuMemGetInfo_v2(u64* free, u64* total) {
    CALL("cuMemGetInfo_v2", CONTEXT)
    *free = memory_free(), *total = memory_total();
    return 0;
}

Result cuMemHostAlloc(void** at, u64 bytes, u32) {
    CALL("cuMemHostAlloc", CONTEXT)
    if (!bytes) return 1;
    if (int code = fails_now("alloc")) return code;
    *at = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*at) return 2;
    memset(*at, 0xff, bytes);
    pinned()[(u64)*at] = {bytes};
    return 0;
}
Result cuMemAllocHost_v2(void** at, u64 bytes) { return cuMemHostAlloc(at, bytes, 0); }

Result cuMemFreeHost(void* at) {
    CALL("cuMemFreeHost", CONTEXT)
    if (!pinned().erase((u64)at)) finding("cuMemFreeHost of what cuMemHostAlloc did not give, or of what was freed before");
    free(at);
    return 0;
}

Result cuMemGetAddressRange_v2(u64* base, u64* bytes, u64 at) {
    CALL("cuMemGetAddressRange_v2", CONTEXT)
    Allocation* a = allocation_at(at);
    if (!a || a->given_back) return 500;
    if (base) *base = a->begin;
    if (bytes) *bytes = a->bytes;
    return 0;
}

Result cuPointerGetAttribute(void* value, int attribute, u64 at) {
    CALL("cuPointerGetAttribute", CONTEXT)
    Allocation* a = allocation_at(at);
    if (!a || a->given_back) return 1;
    switch (attribute) {
        case 1: *(void**)value = &context_itself; return 0;
        case 2: *(u32*)value = 2; return 0;  // memory of the device
        case 3: *(u64*)value = at; return 0;
        case 8: *(u32*)value = 0; return 0;  // managed
        case 9: *(int*)value = 0; return 0;
        case 11: *(u64*)value = a->begin; return 0;
        case 12: *(u64*)value = a->bytes; return 0;
    }
    finding("cuPointerGetAttribute: attribute %d is none that the stand-in knows", attribute);
}

// ---- copies ---------------------------------------------------------------------------------------------------------------

// A range that a copy is handed: an error at once where no memory was ever there, a failure in its turn where it is freed by then.
static Result looked_at(const char* call, u64 at, u64 bytes) {
    std::string why;
    Allocation* a = allocation_at(at);
    if ((a && a->gone) || whole_range(at, bytes, why)) return 0;
    fprintf(stderr, "stand-in: %s: %s\n", call, why.c_str());
    return 1;
}

static Allocation& reached(u64 at, u64 bytes) {
    std::string why;
    Allocation* a = whole_range(at, bytes, why);
    if (!a) throw Failure{700, why};
    open_for_work(*a);
    return *a;
}

static Result to_device(const char* call, u64 to, const void* from, u64 bytes, Stream* s) {
    if (!bytes) return 0;
    if (int code = fails_now("copy")) return code;
    to = moved(to), bytes = planted_bytes(bytes);
    if (is_device_memory((u64)from)) finding("%s: its source is device memory, not the host's", call);
    if (Result code = looked_at(call, to, bytes)) return code;
    // The source is the copy's until it is done: whether a driver takes it at once is not promised.
    const std::string what = text("copy of %llu bytes from the host to 0x%llx", bytes, to);
    std::shared_ptr<Source> source;
    if (!capture_of(s) && !is_on_its_way(from, bytes)) {
        source = watch(from, bytes, what);
        if (!source) return 1;
    }
    return enqueue(s, {what, [=] {
        Allocation& a = reached(to, bytes);
        if (source) {
            is_taken(*source);
            memcpy((void*)to, source->bytes.data(), bytes);
        } else {
            bring_what_is_known();
            memcpy((void*)to, from, bytes);
        }
        note_written(a, to, bytes);
    }});
}

static Result to_host(const char* call, void* to, u64 from, u64 bytes, Stream* s) {
    if (!bytes) return 0;
    if (int code = fails_now("copy")) return code;
    from = moved(from), bytes = planted_bytes(bytes);
    if (is_device_memory((u64)to)) finding("%s: its target is device memory, not the host's", call);
    if (Result code = looked_at(call, from, bytes)) return code;
    // Who reads it before it has come reads this.
    if (!capture_of(s)) memset(to, 0xa5, bytes);
    Work w{text("copy of %llu bytes from 0x%llx to the host", bytes, from), [=] {
        Allocation& a = reached(from, bytes);
        note_read(a, from, bytes);
        deliver(to, std::vector<u8>((u8*)from, (u8*)from + bytes));
    }};
    w.reads_written_only = !setting("UNWRITTEN");
    return enqueue(s, std::move(w));
}

static Result within(const char* call, u64 to, u64 from, u64 bytes, Stream* s) {
    if (!bytes) return 0;
    if (int code = fails_now("copy")) return code;
    bytes = planted_bytes(bytes);
    for (u64 at : {to, from})
        if (Result code = looked_at(call, at, bytes)) return code;
    const std::string what = text("copy of %llu bytes from 0x%llx to 0x%llx", bytes, from, to);
    if (to < from + bytes && from < to + bytes) finding("the %s overlaps itself", what.c_str());
    Work w{what, [=] {
        Allocation& source = reached(from, bytes);
        Allocation& target = reached(to, bytes);
        note_read(source, from, bytes);
        note_written(target, to, bytes);
        memcpy((void*)to, (void*)from, bytes);
    }};
    w.from = from, w.to = to, w.bytes = bytes;
    return enqueue(s, std::move(w));
}

// CUDA_MEMCPY2D of cuda.h: rows of bytes from one place to another.
struct Rows {
    u64 from_x, from_y;
    int from_kind;
    const void* from_host;
    u64 from;
    void* from_array;
    u64 from_pitch;
    u64 to_x, to_y;
    int to_kind;
    void* to_host;
    u64 to;
    void* to_array;
    u64 to_pitch;
    u64 bytes, rows;
};

static Result rows_within(const Rows& r, Stream* s) {
    if (!r.bytes || !r.rows) return 0;
    if (int code = fails_now("copy")) return code;
    if (r.from_kind != 2 || r.to_kind != 2 || r.from_x || r.from_y || r.to_x || r.to_y)
        finding("cuMemcpy2DAsync of anything but device memory from its begin on");
    const u64 from = r.from, to = r.to, bytes = planted_bytes(r.bytes), rows = r.rows, from_pitch = r.from_pitch, to_pitch = r.to_pitch;
    for (u64 pitch : {from_pitch, to_pitch})
        if (pitch < bytes || pitch > 0x7fffffff) return 1;
    for (u64 row : {u64(0), rows - 1}) {
        if (Result code = looked_at("cuMemcpy2DAsync", from + row * from_pitch, bytes)) return code;
        if (Result code = looked_at("cuMemcpy2DAsync", to + row * to_pitch, bytes)) return code;
    }
    const u64 from_end = from + (rows - 1) * from_pitch + bytes, to_end = to + (rows - 1) * to_pitch + bytes;
    const std::string what = text("copy of %llu times %llu bytes from 0x%llx to 0x%llx", rows, bytes, from, to);
    // Rows of one tensor may lie between those of another; the same rows may not.
    if (to < from_end && from < to_end && from_pitch != to_pitch) finding("the %s overlaps itself", what.c_str());
    Work w{what, [=] {
        for (u64 row = 0; row < rows; row++) {
            const u64 there = from + row * from_pitch, here = to + row * to_pitch;
            Allocation& source = reached(there, bytes);
            Allocation& target = reached(here, bytes);
            note_read(source, there, bytes);
            note_written(target, here, bytes);
            memcpy((void*)here, (void*)there, bytes);
        }
    }};
    // What nobody wrote is told where it is read: it does not say which rows it brings.
    w.reads_written_only = !setting("UNWRITTEN");
    return enqueue(s, std::move(w));
}

static Result fill(u64 at, u8 value, u64 bytes, Stream* s) {
    if (!bytes) return 0;
    if (int code = fails_now("copy")) return code;
    bytes = planted_bytes(bytes);
    if (Result code = looked_at("cuMemsetD8Async", at, bytes)) return code;
    return enqueue(s, {text("fill of %llu bytes at 0x%llx", bytes, at), [=] {
        Allocation& a = reached(at, bytes);
        memset((void*)at, value, bytes);
        note_written(a, at, bytes);
    }});
}

#define ASYNC(NAME)          \
    CALL(NAME, CONTEXT)      \
    STREAM(s, stream)
#define AT_ONCE(NAME, ...)                        \
    WAITS(NAME, CONTEXT)                          \
    Stream* s = stream_of(nullptr);               \
    if (Result code = __VA_ARGS__) return code;   \
    return drain(s);

Result cuMemcpyHtoDAsync_v2(u64 to, const void* from, u64 bytes, void* stream) {
    ASYNC("cuMemcpyHtoDAsync_v2")
    if (Result code = made_elsewhere()) return code;
    return to_device("cuMemcpyHtoDAsync", to, from, bytes, s);
}
Result cuMemcpyDtoHAsync_v2(void* to, u64 from, u64 bytes, void* stream) {
    ASYNC("cuMemcpyDtoHAsync_v2")
    return to_host("cuMemcpyDtoHAsync", to, from, bytes, s);
}
Result cuMemcpyDtoDAsync_v2(u64 to, u64 from, u64 bytes, void* stream) {
    ASYNC("cuMemcpyDtoDAsync_v2")
    return within("cuMemcpyDtoDAsync", to, from, bytes, s);
}
Result cuMemcpy2DAsync_v2(const Rows* shape, void* stream) {
    ASYNC("cuMemcpy2DAsync_v2")
    return shape ? rows_within(*shape, s) : 1;
}
Result cuMemsetD8Async(u64 at, u8 value, u64 bytes, void* stream) {
    ASYNC("cuMemsetD8Async")
    return fill(at, value, bytes, s);
}
Result cuMemcpyHtoD_v2(u64 to, const void* from, u64 bytes) { AT_ONCE("cuMemcpyHtoD_v2", to_device("cuMemcpyHtoD", to, from, bytes, s)) }
Result cuMemcpyDtoH_v2(void* to, u64 from, u64 bytes) { AT_ONCE("cuMemcpyDtoH_v2", to_host("cuMemcpyDtoH", to, from, bytes, s)) }
Result cuMemcpyDtoD_v2(u64 to, u64 from, u64 bytes) { AT_ONCE("cuMemcpyDtoD_v2", within("cuMemcpyDtoD", to, from, bytes, s)) }
Result cuMemsetD8_v2(u64 at, u8 value, u64 bytes) { AT_ONCE("cuMemsetD8_v2", fill(at, value, bytes, s)) }

// ---- modules and launches -------------------------------------------------------------------------------------------------

Result cuModuleLoadData(void** module, const void* image) {
    WAITS("cuModuleLoadData", CONTEXT)
    return load_module(module, image);
}

Result cuModuleUnload(void* module) {
    CALL("cuModuleUnload", CONTEXT)
    return unload_module(module);
}

Result cuModuleGetFunction(Function** function, void* module, const char* name) {
    CALL("cuModuleGetFunction", CONTEXT)
    return find_function(function, module, name);
}

Result cuFuncSetAttribute(Function* f, int attribute, int value) {
    CALL("cuFuncSetAttribute", CONTEXT)
    if (!is_function(f)) return 400;
    return set_attribute(f, attribute, value);
}

Result cuFuncGetAttribute(int* value, int attribute, Function* f) {
    CALL("cuFuncGetAttribute", CONTEXT)
    if (!is_function(f)) return 400;
    return get_attribute(f, attribute, value);
}

Result cuLaunchKernel(Function* f, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32 shared, void* stream, void** arguments, void** extra) {
    CALL("cuLaunchKernel", CONTEXT)
    STREAM(s, stream)
    if (!is_function(f)) return 400;
    if (extra) finding("cuLaunchKernel with arguments packed by the caller");
    if (int code = fails_now("launch")) return code;
    if (Result code = given_back_early()) return code;
    return launch(s, f, {gx, gy, gz}, {bx, by, bz}, shared, arguments);
}

Result cuTensorMapEncodeTiled(void* map, int type, u32 rank, void* at, const u64* extents, const u64* strides, const u32* box, const u32* steps,
                              int interleave, int swizzle, int, int fill) {
    CALL("cuTensorMapEncodeTiled", NOTHING)
    return encode_map(map, type, rank, (u64)at, extents, strides, box, steps, interleave, swizzle, fill);
}

// ---- capture and graphs ---------------------------------------------------------------------------------------------------

Result cuStreamBeginCapture_v2(void* stream, u32 mode) {
    CALL("cuStreamBeginCapture_v2", CONTEXT)
    STREAM(s, stream)
    return capture_begins(s, mode);
}

Result cuStreamEndCapture(void* stream, Graph** graph) {
    CALL("cuStreamEndCapture", CONTEXT)
    STREAM(s, stream)
    return capture_ends(s, graph);
}

Result cuStreamIsCapturing(void* stream, int* status) {
    CALL("cuStreamIsCapturing", CONTEXT)
    STREAM(s, stream)
    auto c = capture_of(s);
    *status = !c ? 0 : c->broken ? 2 : 1;
    return 0;
}

Result cuGraphGetNodes(void* graph, void** nodes, u64* count) {
    CALL("cuGraphGetNodes", CONTEXT)
    Graph* g = graph_of(graph);
    if (!g) return 400;
    if (nodes) finding("cuGraphGetNodes: the stand-in counts nodes and hands out none");
    *count = g->nodes.size();
    return 0;
}

Result cuGraphInstantiateWithFlags(void** executable, void* graph, u64 flags) {
    CALL("cuGraphInstantiateWithFlags", CONTEXT)
    // To free what it allocates, to be uploaded, to heed the priorities of its nodes: none of which changes what is done.
    if (flags & ~11ull) finding("cuGraphInstantiateWithFlags with flags %llu", flags);
    Graph* g = graph_of(graph);
    return g ? instantiate(g, executable) : 400;
}

Result cuGraphLaunch(void* executable, void* stream) {
    CALL("cuGraphLaunch", CONTEXT)
    STREAM(s, stream)
    auto e = executable_of(executable);
    if (!e) return 400;
    if (int code = fails_now("graph")) return code;
    if (capture_of(s)) finding("cuGraphLaunch in a capture");
    if (Result code = given_back_early()) return code;
    return enqueue_graph(s, e);
}

Result cuGraphUpload(void* executable, void* stream) {
    CALL("cuGraphUpload", CONTEXT)
    STREAM(s, stream)
    return executable_of(executable) ? 0 : 400;
}

Result cuGraphExecDestroy(void* executable) {
    CALL("cuGraphExecDestroy", CONTEXT)
    return destroy_executable(executable);
}

Result cuGraphDestroy(void* graph) {
    CALL("cuGraphDestroy", CONTEXT)
    return destroy_graph(graph);
}

}  // extern "C"
