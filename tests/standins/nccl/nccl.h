// The stand-in of NCCL: what its files share. See ../README.md for what it enforces.
//
// Ranks are processes. What is sent is an operation on a stream of the stand-in of the driver, which keeps its order, checks what it touches,
// and does it when its turn has come and its peers have come to theirs. Between processes go frames over sockets; a thread a socket
// reads them.
#pragma once

#include <atomic>
#include <mutex>
#include <set>

#include "standin.h"

namespace standin {

// ---- what it answers -------------------------------------------------------------------------------------------------------

enum : int { SUCCESS = 0, CUDA_ERROR, SYSTEM_ERROR, INTERNAL_ERROR, INVALID_ARGUMENT, INVALID_USAGE, REMOTE_ERROR, IN_PROGRESS };

// Remembers what is wrong, for ncclGetLastError, and returns the code.
int wrong(int code, const char* format, ...);

// ---- bootstrap.cpp: processes find each other ---------------------------------------------------------------------------------

constexpr size_t ID_BYTES = 128;
struct Id {
    char bytes[ID_BYTES];
};

// What a rank tells all others before it is one.
struct Place {
    int rank, size, device;
    u64 process;  // a number that no other process has
    char host[64];
    int port;
    int most;  // blocks of its kernels, as it asks for them
};

int make_id(Id& id);
// Joins: comes back with a socket for each other rank, and who they are; false with why it cannot. Blocks: a thread of its own calls it.
bool meet(const Id& id, const Place& own, std::vector<int>& sockets, std::vector<Place>& all, std::string& why);
u64 this_process();
bool send_all(int socket, const void* at, size_t bytes);
bool receive_all(int socket, void* at, size_t bytes);

// ---- communicators: comm.cpp ---------------------------------------------------------------------------------------------------

// What goes over a socket; bytes of the message follow.
struct Frame {
    enum What : u32 { MESSAGE = 1, TAKEN, BYE } what;
    int type;
    u64 sequence;  // of the messages from one rank to another in a communicator
    u64 place;     // of those from one process to another in all communicators
    u64 count, bytes;
};

struct Message {
    Frame frame;
    std::vector<u8> bytes;
};

struct Comm {
    u32 number;
    int rank, size;
    bool blocking;
    // Guards what the threads that read touch.
    std::mutex lock;
    std::vector<int> sockets;
    std::vector<Place> places;
    std::vector<std::map<u64, Message>> inbox;  // by rank, by sequence
    std::vector<std::set<u64>> taken;           // of what was sent
    std::vector<bool> gone, left;               // without a word, and with one
    bool joined = false;
    std::string failed;  // to join
    int error = SUCCESS;
    // Of the calls, which take turns by the one lock of the driver.
    u64 polls = 0;  // so many times the state is IN_PROGRESS
    bool given_up = false, ending = false;
    std::vector<u64> sent, received;  // counted when they are issued
    std::vector<std::function<void()>> deferred;  // issued when the state is a success again
    std::atomic<bool> in_call{false};
};

Comm* comm_of(void* handle);
// The state, without a poll.
int state_of(Comm& c);
// How many polls something takes.
u64 some_polls(const Comm& c);

// ---- operations.cpp ---------------------------------------------------------------------------------------------------------------

struct Part {
    bool sends;
    int peer;
    u64 at, count;
    int type;
    u64 bytes() const;
};

// Between the begin and the end of a group, on this thread.
bool in_group();
bool group_has_messages();
int group_adds(Comm* c, Stream* s, Part part);

}  // namespace standin
