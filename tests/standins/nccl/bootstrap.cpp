// How processes find each other: the process that makes an id listens, everyone tells it where it listens itself, and learns that of all.

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "nccl.h"

namespace standin {

// What an id holds.
struct Root {
    u64 nonce;
    int port;
};

static u64 random_number() {
    u64 n = 0;
    if (getrandom(&n, sizeof n, 0) != sizeof n) finding("the system gives no random number");
    return n;
}

u64 this_process() {
    static const u64 one = random_number();
    return one;
}

bool send_all(int socket, const void* at, size_t bytes) {
    for (auto p = (const char*)at; bytes;) {
        ssize_t n = send(socket, p, bytes, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        p += n, bytes -= (size_t)n;
    }
    return true;
}

bool receive_all(int socket, void* at, size_t bytes) {
    for (auto p = (char*)at; bytes;) {
        ssize_t n = recv(socket, p, bytes, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        p += n, bytes -= (size_t)n;
    }
    return true;
}

static int listening(int& port) {
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof at;
    if (s < 0 || bind(s, (sockaddr*)&at, sizeof at) || listen(s, 128) || getsockname(s, (sockaddr*)&at, &length)) {
        if (s >= 0) close(s);
        return -1;
    }
    port = ntohs(at.sin_port);
    return s;
}

static int connected(int port) {
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    at.sin_port = htons((uint16_t)port);
    if (s < 0 || connect(s, (sockaddr*)&at, sizeof at)) {
        if (s >= 0) close(s);
        return -1;
    }
    int yes = 1;
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return s;
}

// What is wrong with the ranks that came; empty if nothing is.
static std::string looked_at(const std::vector<Place>& all) {
    for (size_t a = 0; a < all.size(); ++a)
        for (size_t b = a + 1; b < all.size(); ++b) {
            if (all[a].rank == all[b].rank) return text("rank %d came twice", all[a].rank);
            // NCCL takes the fewest: whoever asks for other numbers has another communicator in mind.
            if (all[a].most != all[b].most)
                return text("rank %d asks for at most %d blocks, and rank %d for %d", all[a].rank, all[a].most, all[b].rank, all[b].most);
            const char* several = getenv("NCCL_MULTI_RANK_GPU_ENABLE");
            if (!strcmp(all[a].host, all[b].host) && all[a].device == all[b].device && (!several || strcmp(several, "1")))
                return text("Duplicate GPU detected : rank %d and rank %d both on CUDA device %d; NCCL_MULTI_RANK_GPU_ENABLE=1 allows it", all[a].rank,
                            all[b].rank, all[a].device);
        }
    return "";
}

// The thread behind an id: as many ranks come as the first one says.
static void serve(int listener, u64 nonce) {
    std::vector<int> sockets;
    std::vector<Place> all;
    while (all.empty() || (int)all.size() < all[0].size) {
        int s = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
        if (s < 0) continue;
        u64 said = 0;
        Place place{};
        if (!receive_all(s, &said, sizeof said) || said != nonce || !receive_all(s, &place, sizeof place)) {
            close(s);
            continue;
        }
        sockets.push_back(s), all.push_back(place);
    }
    close(listener);
    std::sort(all.begin(), all.end(), [](auto& a, auto& b) { return a.rank < b.rank; });
    std::string why = looked_at(all);
    for (const Place& p : all)
        if (p.size != all[0].size) why = text("rank %d says that there are %d ranks, and rank %d that there are %d", p.rank, p.size, all[0].rank, all[0].size);
    for (int s : sockets) {
        u64 length = why.size();
        send_all(s, &length, sizeof length);
        if (length)
            send_all(s, why.data(), length);
        else
            send_all(s, all.data(), all.size() * sizeof(Place));
        close(s);
    }
}

int make_id(Id& id) {
    Root root{random_number(), 0};
    int s = listening(root.port);
    if (s < 0) return wrong(SYSTEM_ERROR, "no socket listens");
    memset(&id, 0, sizeof id);
    memcpy(&id, &root, sizeof root);
    std::thread([=] { serve(s, root.nonce); }).detach();
    return SUCCESS;
}

bool meet(const Id& id, const Place& own, std::vector<int>& sockets, std::vector<Place>& all, std::string& why) {
    Root root;
    memcpy(&root, &id, sizeof root);
    Place place = own;
    int listener = listening(place.port), s = connected(root.port);
    u64 length = 0;
    why = "the process that made the id is gone";
    if (listener < 0 || s < 0 || !send_all(s, &root.nonce, sizeof root.nonce) || !send_all(s, &place, sizeof place) ||
        !receive_all(s, &length, sizeof length)) {
        if (s >= 0) close(s);
        if (listener >= 0) close(listener);
        return false;
    }
    if (length) {
        why.assign(length, 0);
        receive_all(s, &why[0], length);
        close(s), close(listener);
        return false;
    }
    all.assign((size_t)place.size, {});
    bool there = receive_all(s, all.data(), all.size() * sizeof(Place));
    close(s);
    sockets.assign(all.size(), -1);
    why = "another rank is gone";
    // Each connects to those before it.
    for (int rank = 0; there && rank < place.rank; ++rank) {
        sockets[rank] = connected(all[rank].port);
        there = sockets[rank] >= 0 && send_all(sockets[rank], &place.rank, sizeof place.rank);
    }
    for (int left = place.size - 1 - place.rank; there && left > 0; --left) {
        int from = -1, one = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
        there = one >= 0 && receive_all(one, &from, sizeof from) && from > place.rank && from < place.size;
        if (there) sockets[from] = one;
    }
    close(listener);
    return there;
}

}  // namespace standin
