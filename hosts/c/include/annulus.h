/* annulus: attention split over the ranks of a group, enqueued on a stream that the host has.
 *
 * Made of hosts/c/src; do not edit it by hand. README.md has an example.
 *
 * Every function that can fail returns an AnnulusStatus; annulus_last_error says in words what went wrong last on the thread. What is
 * null where something must be is an error, and frees take null. A handle may be used by any thread, by one at a time.
 */

#ifndef ANNULUS_H
#define ANNULUS_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/*
 Every pointer of a call is a multiple of so many bytes.
 */
#define ANNULUS_ALIGNMENT 16

/*
 What a function returns.
 */
typedef enum AnnulusStatus {
  /*
   It did what it says.
   */
  ANNULUS_OK = 0,
  /*
   An argument is null, out of its range, or not what the program or part takes. Nothing was done.
   */
  ANNULUS_INVALID = 1,
  /*
   The graph is not well formed, or cannot be split as the options ask.
   */
  ANNULUS_REFUSED = 2,
  /*
   There are no kernels for an attention of the graph, or none for the GPU.
   */
  ANNULUS_UNSUPPORTED = 3,
  /*
   CUDA: a library is missing, a call failed, memory does not suffice.
   */
  ANNULUS_CUDA = 4,
  /*
   A rank did not come, or another one failed: the message names it.
   */
  ANNULUS_RANK = 5,
  /*
   A call before failed, and all parts must begin anew: annulus_parts_restart.
   */
  ANNULUS_GIVEN_UP = 6,
  /*
   A fault of annulus.
   */
  ANNULUS_INTERNAL = 7,
} AnnulusStatus;

/*
 Whose rows.
 */
typedef enum AnnulusSequence {
  /*
   Of queries, and of the result.
   */
  ANNULUS_QUERIES = 0,
  /*
   Of keys and values.
   */
  ANNULUS_KEYS = 1,
} AnnulusSequence;

/*
 One rank of an attention on a GPU. What a call needs is loaded, and its tables lie in the GPU's memory.
 */
typedef struct AnnulusPart AnnulusPart;

/*
 A compiled graph: its attentions are split over the ranks and proved. Any number of threads may read it at once.
 */
typedef struct AnnulusProgram AnnulusProgram;

/*
 What is asked of annulus_compile. All zero, but for the ranks, leaves everything to annulus.
 */
typedef struct AnnulusOptions {
  /*
   How many ranks, from 1 to 4096.
   */
  size_t ranks;
  /*
   On how many nodes they stand; 0: as the device says.
   */
  size_t nodes;
  /*
   "ring", "all-gather", "queries", "heads" ...; null: whatever takes the least time on the device.
   */
  const char *strategy;
  /*
   "contiguous", "zigzag", "stripe" ...; null: whatever takes the least time on the device.
   */
  const char *layout;
  /*
   The most bytes of arena that an attention may have on a rank; 0: any number.
   */
  size_t memory;
  /*
   The name of a bundled device, like "h200x8", or the text of a device file; null: the smallest bundled one that holds the ranks.
   */
  const char *device;
} AnnulusOptions;

/*
 A distinct attention of a program. The texts stay as long as the program.
 */
typedef struct AnnulusIsland {
  /*
   Its name.
   */
  const char *name;
  /*
   How keys and queries meet.
   */
  const char *strategy;
  /*
   How many attentions of the graph use it.
   */
  size_t uses;
} AnnulusIsland;

/*
 The rows start, start + step, ..., as many as len.
 */
typedef struct AnnulusRows {
  /*
   The first row.
   */
  size_t start;
  /*
   How many.
   */
  size_t len;
  /*
   From one to the next.
   */
  size_t step;
} AnnulusRows;

/*
 How many bytes a rank's calls take, each at an address of its own.
 */
typedef struct AnnulusSizes {
  /*
   Of workspace.
   */
  size_t workspace;
  /*
   Of the result.
   */
  size_t out;
  /*
   Of its log-sum-exp; 0: there is none.
   */
  size_t lse;
  /*
   How many arguments there are.
   */
  size_t arguments;
} AnnulusSizes;

/*
 How parts run. All zero is what is usual.
 */
typedef struct AnnulusRun {
  /*
   How many milliseconds a call waits for the other ranks' calls; 0: a minute.
   */
  uint32_t patience_ms;
  /*
   Whether no graphs of CUDA are made of calls with pointers that come again.
   */
  bool no_graphs;
  /*
   Whether compiled kernels are neither kept on disk nor taken from there.
   */
  bool no_cache;
} AnnulusRun;

/*
 Where one call of a rank finds its memory: addresses on the GPU (CUdeviceptr), each a multiple of ANNULUS_ALIGNMENT; 0 where there
 are no bytes. What is written (out, lse, workspace) shares bytes with nothing else of the call.
 */
typedef struct AnnulusCall {
  /*
   The rank's own rows of queries, keys and values, then what else the attention takes, dense.
   */
  const uint64_t *arguments;
  /*
   How many arguments.
   */
  size_t arguments_count;
  /*
   The rank's rows of the result.
   */
  uint64_t out;
  /*
   Of its log-sum-exp.
   */
  uint64_t lse;
  /*
   Memory that the call may use as it likes; nothing is kept there from one call to the next.
   */
  uint64_t workspace;
  /*
   How many bytes the workspace has.
   */
  size_t workspace_bytes;
} AnnulusCall;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 What the last function that failed on this thread said; empty if none has. The text stays until the next one fails here.
 */
const char *annulus_last_error(void);

/*
 The version of annulus, like "0.1.0".
 */
const char *annulus_version(void);

/*
 Compiles a graph in annulus's text form: finds its attentions, splits them over the ranks, schedules and proves them. The program
 is freed by annulus_program_free.

 # Safety
 `graph` ends with a null byte, and so do the texts of the options.
 */
enum AnnulusStatus annulus_compile(const char *graph,
                                   const struct AnnulusOptions *options,
                                   struct AnnulusProgram **program);

/*
 Frees a program. Parts that were opened of it stay.

 # Safety
 It is null, or a program that nobody uses any more.
 */
void annulus_program_free(struct AnnulusProgram *program);

/*
 How many ranks a program is for.

 # Safety
 The program lives.
 */
enum AnnulusStatus annulus_program_ranks(const struct AnnulusProgram *program, size_t *ranks);

/*
 How many distinct attentions a program has.

 # Safety
 The program lives.
 */
enum AnnulusStatus annulus_program_islands(const struct AnnulusProgram *program, size_t *islands);

/*
 One of the distinct attentions, in order of first use.

 # Safety
 The program lives.
 */
enum AnnulusStatus annulus_program_island(const struct AnnulusProgram *program,
                                          size_t island,
                                          struct AnnulusIsland *facts);

/*
 The graph that the host of a rank computes, as text: every attention and every gather is one `call`. Freed by annulus_text_free.

 # Safety
 The program lives.
 */
enum AnnulusStatus annulus_program_graph(const struct AnnulusProgram *program,
                                         size_t rank,
                                         char **graph);

/*
 Frees a text that was handed out.

 # Safety
 It is null, or of annulus_program_graph, and nobody uses it any more.
 */
void annulus_text_free(char *text);

/*
 The rows that a rank owns, in the order in which its memory holds them. There are `count`; as many as there is room for are written.

 `sequence` is an AnnulusSequence.

 # Safety
 The program lives, and `rows` has room for `capacity`.
 */
enum AnnulusStatus annulus_program_rows(const struct AnnulusProgram *program,
                                        size_t island,
                                        size_t rank,
                                        uint32_t sequence,
                                        struct AnnulusRows *rows,
                                        size_t capacity,
                                        size_t *count);

/*
 How much memory the calls of a rank take on GPUs of an architecture, like "sm_90a"; null: of the device whose context is current. Of
 the arguments' bytes as many are written as there is room for.

 # Safety
 The program lives, `arch` is null or ends with a null byte, and `argument_bytes` has room for `capacity`.
 */
enum AnnulusStatus annulus_program_sizes(const struct AnnulusProgram *program,
                                         size_t island,
                                         size_t rank,
                                         const char *arch,
                                         struct AnnulusSizes *sizes,
                                         size_t *argument_bytes,
                                         size_t capacity);

/*
 Opens all ranks of an attention on the GPU whose primary context is current: `parts` takes `count`, which is the number of ranks,
 rank 0 first. Kernels are compiled, or taken from the cache. Each part is freed by annulus_part_free.

 # Safety
 The program lives, and `parts` has room for `count`.
 */
enum AnnulusStatus annulus_parts_open(const struct AnnulusProgram *program,
                                      size_t island,
                                      const struct AnnulusRun *run,
                                      struct AnnulusPart **parts,
                                      size_t count);

/*
 How much memory the calls of a part take. Of the arguments' bytes as many are written as there is room for.

 # Safety
 The part lives, and `argument_bytes` has room for `capacity`.
 */
enum AnnulusStatus annulus_part_sizes(const struct AnnulusPart *part,
                                      struct AnnulusSizes *sizes,
                                      size_t *argument_bytes,
                                      size_t capacity);

/*
 Frees a part. What it was told before is done all the same; no graph of the host's that holds a call of it may be launched any more,
 and none of its calls may be under capture.

 # Safety
 It is null, or a part that nobody uses any more.
 */
void annulus_part_free(struct AnnulusPart *part);

/*
 Tells the device one rank's share of a call, behind what the stream was told and before what it is told next. Nothing waits for the
 device, and nothing is allocated there. The k-th calls of all ranks belong together: they are made from a thread each, and wait for
 each other on the host, as long as the patience of the parts.

 `stream` is a CUstream or cudaStream_t of the device's primary context; null is its default stream. Where it fails, the other ranks' calls fail as
 well and name this one, and all later ones are refused with ANNULUS_GIVEN_UP until annulus_parts_restart. A call with null in the place of the
 part, the call or its arguments is as if it had not been made.

 # Safety
 The part lives; the memory is the device's, as large as the part says, and neither moved nor used by anybody else until the stream
 has done the call.
 */
enum AnnulusStatus annulus_part_enqueue(struct AnnulusPart *part,
                                        const struct AnnulusCall *call,
                                        void *stream);

/*
 Tells the device all ranks' shares of a call from one thread: `calls[r]` is that of `parts[r]`, which are all ranks of one attention, rank 0
 first. The second call with the same pointers, and those behind it, are one launch of a graph. A stream under capture takes the call
 into the graph that the host makes.

 # Safety
 As annulus_part_enqueue, for each rank.
 */
enum AnnulusStatus annulus_parts_enqueue_all(struct AnnulusPart *const *parts,
                                             const struct AnnulusCall *calls,
                                             size_t count,
                                             void *stream);

/*
 Begins anew after a call failed, with all ranks of one attention, rank 0 first. What comes next runs behind everything that the device
 was told.

 # Safety
 The parts live.
 */
enum AnnulusStatus annulus_parts_restart(struct AnnulusPart *const *parts,
                                         size_t count);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ANNULUS_H */
