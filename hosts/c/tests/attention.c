/* A host in C: compiles a causal attention over two ranks, allocates by the driver's calls, enqueues on a stream of its own, and
 * compares with attention written out here. Arguments: nothing. It ends with status 0 and "right" where all is well. */

#include "annulus.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The driver's calls, as far as they are used here. */
typedef unsigned long long CUdeviceptr;
int cuInit(unsigned flags);
int cuDeviceGet(int *device, int ordinal);
int cuDevicePrimaryCtxRetain(void **context, int device);
int cuDevicePrimaryCtxRelease_v2(int device);
int cuCtxSetCurrent(void *context);
int cuCtxGetCurrent(void **context);
int cuStreamCreate(void **stream, unsigned flags);
int cuStreamSynchronize(void *stream);
int cuStreamDestroy_v2(void *stream);
int cuMemAlloc_v2(CUdeviceptr *at, size_t bytes);
int cuMemFree_v2(CUdeviceptr at);
int cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, void *stream);
int cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, void *stream);

enum { RANKS = 2, HEADS = 2, ROWS = 13, DIM = 8, ARGUMENTS = 3 };

static const char *const graph =
    "graph \"c\" {\n"
    "  input %q: f32[1,2,13,8]\n"
    "  input %k: f32[1,1,13,8]\n"
    "  input %v: f32[1,1,13,8]\n"
    "  %o: f32[1,2,13,8] = attention %q, %k, %v {scores=[factor 0.5 | fill -inf unless causal(0)], acc=f32, empty=zero}\n"
    "  output \"o\" = %o\n"
    "}\n";

static void fail(const char *what, int line, const char *why) {
    printf("line %d: %s: %s\n", line, what, why);
    exit(1);
}
#define CHECK(CONDITION) ((CONDITION) ? (void)0 : fail(#CONDITION, __LINE__, annulus_last_error()))
#define OK(CALL) CHECK((CALL) == ANNULUS_OK)
#define CU(CALL) CHECK((CALL) == 0)

/* One of the whole tensors: q, k, v. */
static float whole[ARGUMENTS][HEADS][ROWS][DIM];
static const int heads_of[ARGUMENTS] = {HEADS, 1, 1};

static double wanted(int head, int row, int column) {
    double weights[ROWS], greatest = -INFINITY, sum = 0, value = 0;
    for (int k = 0; k <= row; ++k) {
        weights[k] = 0;
        for (int d = 0; d < DIM; ++d) weights[k] += 0.5 * whole[0][head][row][d] * whole[1][0][k][d];
        if (weights[k] > greatest) greatest = weights[k];
    }
    for (int k = 0; k <= row; ++k) sum += weights[k] = exp(weights[k] - greatest);
    for (int k = 0; k <= row; ++k) value += weights[k] / sum * whole[2][0][k][column];
    return value;
}

static void fill(unsigned seed) {
    float *all = &whole[0][0][0][0];
    for (size_t i = 0; i < sizeof whole / sizeof *all; ++i) {
        seed = seed * 1664525u + 1013904223u;
        all[i] = (float)(seed >> 8) / (float)(1 << 23) - 1.0f;
    }
}

/* What a rank has. */
typedef struct {
    size_t rows[ROWS], count; /* its rows, in order */
    AnnulusSizes sizes;
    size_t bytes[ARGUMENTS];
    CUdeviceptr at[ARGUMENTS], out, workspace;
    AnnulusPart *part;
    AnnulusCall call;
    void *context, *stream;
    AnnulusStatus told;
    float host[ARGUMENTS][HEADS * ROWS * DIM], result[HEADS * ROWS * DIM];
} Rank;
static Rank ranks[RANKS];

static void read_rows(const AnnulusProgram *program, size_t r) {
    AnnulusRows runs[ROWS];
    size_t count = 0, keys = 0;
    OK(annulus_program_rows(program, 0, r, ANNULUS_QUERIES, NULL, 0, &count));
    CHECK(count > 0 && count <= ROWS);
    OK(annulus_program_rows(program, 0, r, ANNULUS_QUERIES, runs, ROWS, &count));
    for (size_t i = 0; i < count; ++i)
        for (size_t n = 0; n < runs[i].len; ++n) ranks[r].rows[ranks[r].count++] = runs[i].start + n * runs[i].step;
    /* The queries' and the keys' rows are one sequence's. */
    OK(annulus_program_rows(program, 0, r, ANNULUS_KEYS, runs, ROWS, &keys));
    CHECK(keys == count);
}

/* The rank's rows of all arguments go to the device. */
static void upload(Rank *r, void *stream) {
    for (int a = 0; a < ARGUMENTS; ++a) {
        float *to = r->host[a];
        for (int h = 0; h < heads_of[a]; ++h)
            for (size_t i = 0; i < r->count; ++i, to += DIM) memcpy(to, whole[a][h][r->rows[i]], DIM * sizeof(float));
        CHECK((size_t)((char *)to - (char *)r->host[a]) == r->bytes[a]);
        CU(cuMemcpyHtoDAsync_v2(r->at[a], r->host[a], r->bytes[a], stream));
    }
}

static void judge(Rank *r) {
    const float *got = r->result;
    for (int h = 0; h < HEADS; ++h)
        for (size_t i = 0; i < r->count; ++i)
            for (int d = 0; d < DIM; ++d, ++got) {
                double want = wanted(h, (int)r->rows[i], d);
                if (!(fabs(*got - want) <= 2e-5)) {
                    printf("head %d, row %zu, column %d: %g, and %g is wanted\n", h, r->rows[i], d, *got, want);
                    exit(1);
                }
            }
}

static void download(Rank *r, void *stream) {
    CU(cuMemcpyDtoHAsync_v2(r->result, r->out, r->sizes.out, stream));
}

static void *one_rank(void *argument) {
    Rank *r = argument;
    void *after = NULL;
    CU(cuCtxSetCurrent(r->context));
    upload(r, r->stream);
    r->told = annulus_part_enqueue(r->part, &r->call, r->stream);
    CU(cuCtxGetCurrent(&after));
    CHECK(after == r->context);
    if (r->told == ANNULUS_OK) {
        download(r, r->stream);
        CU(cuStreamSynchronize(r->stream));
    }
    return NULL;
}

static void each_in_a_thread(void) {
    pthread_t threads[RANKS];
    for (int r = 0; r < RANKS; ++r) CHECK(pthread_create(&threads[r], NULL, one_rank, &ranks[r]) == 0);
    for (int r = 0; r < RANKS; ++r) CHECK(pthread_join(threads[r], NULL) == 0);
}

static void is_refused(AnnulusStatus got, AnnulusStatus want, const char *why) {
    if (got != want || !strstr(annulus_last_error(), why)) {
        printf("status %d, and %d is wanted; `%s`, and `%s` is wanted\n", got, want, annulus_last_error(), why);
        exit(1);
    }
}

int main(void) {
    AnnulusProgram *program = NULL;
    AnnulusOptions options;
    AnnulusIsland island;
    AnnulusPart *parts[RANKS] = {NULL, NULL}, *twice[RANKS];
    AnnulusCall calls[RANKS];
    AnnulusRun run = {1000, false, false};
    size_t count = 0;
    char *text = NULL;
    void *context, *stream;
    int device;

    memset(&options, 0, sizeof options);
    is_refused(annulus_compile(graph, &options, &program), ANNULUS_REFUSED, "ranks is 0");
    options.ranks = RANKS;
    is_refused(annulus_compile(NULL, &options, &program), ANNULUS_INVALID, "graph is null");
    is_refused(annulus_compile(graph, NULL, &program), ANNULUS_INVALID, "options is null");
    is_refused(annulus_compile(graph, &options, NULL), ANNULUS_INVALID, "program is null");
    is_refused(annulus_compile("graph", &options, &program), ANNULUS_REFUSED, "the end of the text");
    is_refused(annulus_compile("\xff", &options, &program), ANNULUS_INVALID, "graph is not UTF-8");
    options.strategy = "rings";
    is_refused(annulus_compile(graph, &options, &program), ANNULUS_INVALID, "there is no strategy rings");
    options.strategy = "ring", options.layout = "zigzag", options.device = "h100x9";
    is_refused(annulus_compile(graph, &options, &program), ANNULUS_INVALID, "there is no bundled device h100x9");
    options.device = "h100x8";
    CHECK(program == NULL);
    OK(annulus_compile(graph, &options, &program));

    OK(annulus_program_ranks(program, &count));
    CHECK(count == RANKS);
    OK(annulus_program_islands(program, &count));
    CHECK(count == 1);
    OK(annulus_program_island(program, 0, &island));
    CHECK(!strcmp(island.strategy, "ring") && island.uses == 1 && island.name[0]);
    is_refused(annulus_program_island(program, 1, &island), ANNULUS_INVALID, "there is no island 1 of 1");
    OK(annulus_program_graph(program, 1, &text));
    CHECK(strstr(text, "call"));
    annulus_text_free(text);
    for (size_t r = 0; r < RANKS; ++r) read_rows(program, r);
    CHECK(ranks[0].count + ranks[1].count == ROWS);
    is_refused(annulus_program_rows(program, 0, 2, ANNULUS_QUERIES, NULL, 0, &count), ANNULUS_INVALID, "there is no rank 2 of 2");
    is_refused(annulus_program_rows(program, 0, 0, 2, NULL, 0, &count), ANNULUS_INVALID, "there is no sequence 2");

    /* Of a device there is none before the host has made its context current. */
    is_refused(annulus_parts_open(program, 0, &run, parts, RANKS), ANNULUS_CUDA, "no context of CUDA is current");
    CU(cuInit(0));
    CU(cuDeviceGet(&device, 0));
    CU(cuDevicePrimaryCtxRetain(&context, device));
    CU(cuCtxSetCurrent(context));
    is_refused(annulus_parts_open(program, 0, &run, parts, 1), ANNULUS_INVALID, "1 parts for 2 ranks");
    OK(annulus_parts_open(program, 0, &run, parts, RANKS));

    CU(cuStreamCreate(&stream, 1));
    for (int i = 0; i < RANKS; ++i) {
        Rank *r = &ranks[i];
        AnnulusSizes of_device, of_part;
        size_t bytes[ARGUMENTS];
        OK(annulus_program_sizes(program, 0, i, "sm_90a", &r->sizes, r->bytes, ARGUMENTS));
        OK(annulus_program_sizes(program, 0, i, NULL, &of_device, bytes, ARGUMENTS));
        OK(annulus_part_sizes(parts[i], &of_part, NULL, 0));
        CHECK(!memcmp(&r->sizes, &of_device, sizeof of_device) && !memcmp(&r->sizes, &of_part, sizeof of_part));
        CHECK(!memcmp(bytes, r->bytes, sizeof bytes) && r->sizes.arguments == ARGUMENTS && r->sizes.lse == 0);
        for (int a = 0; a < ARGUMENTS; ++a) CU(cuMemAlloc_v2(&r->at[a], r->bytes[a]));
        CU(cuMemAlloc_v2(&r->out, r->sizes.out));
        CU(cuMemAlloc_v2(&r->workspace, r->sizes.workspace));
        r->part = parts[i], r->context = context;
        CU(cuStreamCreate(&r->stream, 1));
        r->call.arguments = (const uint64_t *)r->at, r->call.arguments_count = ARGUMENTS;
        r->call.out = r->out, r->call.lse = 0;
        r->call.workspace = r->workspace, r->call.workspace_bytes = r->sizes.workspace;
        calls[i] = r->call;
    }
    is_refused(annulus_program_sizes(program, 0, 0, "sm_1", &ranks[0].sizes, NULL, 0), ANNULUS_UNSUPPORTED, "no kernels");
    /* The program is of no use any more. */
    annulus_program_free(program);

    /* All ranks from this thread: eagerly, and twice as a graph. */
    for (unsigned turn = 0; turn < 3; ++turn) {
        fill(turn);
        for (int r = 0; r < RANKS; ++r) upload(&ranks[r], stream);
        OK(annulus_parts_enqueue_all(parts, calls, RANKS, stream));
        for (int r = 0; r < RANKS; ++r) download(&ranks[r], stream);
        CU(cuStreamSynchronize(stream));
        for (int r = 0; r < RANKS; ++r) judge(&ranks[r]);
    }
    /* A thread for each rank. */
    fill(7);
    each_in_a_thread();
    for (int r = 0; r < RANKS; ++r) OK(ranks[r].told), judge(&ranks[r]);

    /* What is wrong is told, also to the other rank; and then they begin anew. */
    is_refused(annulus_parts_enqueue_all(NULL, calls, RANKS, stream), ANNULUS_INVALID, "parts is null");
    is_refused(annulus_parts_enqueue_all(parts, NULL, RANKS, stream), ANNULUS_INVALID, "calls is null");
    is_refused(annulus_parts_enqueue_all(parts, calls, 1, stream), ANNULUS_INVALID, "wanted are all 2");
    twice[0] = twice[1] = parts[0];
    is_refused(annulus_parts_enqueue_all(twice, calls, RANKS, stream), ANNULUS_INVALID, "a part is used twice at once");
    is_refused(annulus_part_enqueue(NULL, calls, stream), ANNULUS_INVALID, "part is null");
    is_refused(annulus_part_enqueue(parts[0], NULL, stream), ANNULUS_INVALID, "call is null");
    is_refused(annulus_part_enqueue(parts[0], calls, stream), ANNULUS_RANK, "waits for rank 1 to reach the same group, for 1s");
    is_refused(annulus_part_enqueue(parts[1], calls + 1, stream), ANNULUS_GIVEN_UP, "rank 0");
    CU(cuStreamSynchronize(stream));
    is_refused(annulus_parts_restart(NULL, RANKS), ANNULUS_INVALID, "parts is null");
    OK(annulus_parts_restart(parts, RANKS));
    fill(8);
    each_in_a_thread();
    for (int r = 0; r < RANKS; ++r) OK(ranks[r].told), judge(&ranks[r]);

    for (int i = 0; i < RANKS; ++i) {
        annulus_part_free(parts[i]);
        for (int a = 0; a < ARGUMENTS; ++a) CU(cuMemFree_v2(ranks[i].at[a]));
        CU(cuMemFree_v2(ranks[i].out));
        CU(cuMemFree_v2(ranks[i].workspace));
        CU(cuStreamDestroy_v2(ranks[i].stream));
    }
    CU(cuStreamDestroy_v2(stream));
    annulus_part_free(NULL);
    annulus_program_free(NULL);
    annulus_text_free(NULL);
    CU(cuDevicePrimaryCtxRelease_v2(device));
    printf("right, by annulus %s\n", annulus_version());
    return 0;
}
