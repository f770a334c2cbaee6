/* The weighted K-ary sum behind a plain C ABI, the same in the CPU and in the CUDA library.
 *
 *     y[i]     = sum_k w[k][g(i)] * x[k][i]
 *     dx[k][i] = w[k][g(i)] * dy[i]
 *     dw[k][g] = sum of dy[i] * x[k][i] over the elements i of group g
 *     g(i)     = (i / inner) % groups
 *
 * Layout. x[k], y, dy and dx[k] hold n elements each, dense (no gaps, no overlap within one tensor) and all in the same memory order;
 * element i is the i-th in memory, whatever the shape. w and dw are contiguous [k][groups] with strides (groups, 1), in elements.
 *
 *     one weight per candidate (K)                    groups = 1, inner = max(n, 1)
 *     per sample (B, K), batch outermost in memory    groups = B, inner = n / B
 *     per channel (K, C), contiguous (B, C, H, W)     groups = C, inner = H * W
 *     per channel (K, C), channels_last               groups = C, inner = 1
 *
 * Units. n, groups and inner count elements and are 64 bits wide; the workspace counts bytes.
 *
 * Types. x, y, dy and dx are of the type `dtype` says. w, dw and every accumulator are of the accumulation type: double where x is
 * float64, float otherwise. y and dx are rounded once, to nearest even.
 *
 * Alignment. Every pointer is aligned to its element type, which any tensor is; nothing more is asked. The workspace is aligned to 16
 * bytes.
 *
 * Aliasing. Inputs may be the same memory (x[0] == x[1]); outputs must overlap neither each other nor any input.
 *
 * Determinism. dw is summed in fixed chunks and two stages, without atomics: the same bits come out for any number of threads.
 */
#ifndef NAS_MIX_H
#define NAS_MIX_H

#include <stdint.h>

#define NAS_MIX_ABI 2
#define NAS_MIX_MAX_K 64

enum nas_mix_dtype {
    NAS_MIX_FLOAT32 = 0,
    NAS_MIX_FLOAT64 = 1,
    NAS_MIX_FLOAT16 = 2,
    NAS_MIX_BFLOAT16 = 3
};

enum nas_mix_error {
    NAS_MIX_OK = 0,
    NAS_MIX_BAD_DTYPE = 1, /* not one of nas_mix_dtype */
    NAS_MIX_BAD_K = 2,     /* not in 1 ... NAS_MIX_MAX_K */
    NAS_MIX_BAD_SIZE = 3,  /* n < 0, groups < 1 or inner < 1, or n is not a multiple of groups * inner where groups > 1 */
    NAS_MIX_NULL = 4,      /* a pointer that is needed is null */
    NAS_MIX_DEVICE = 5     /* a launch failed (CUDA only) */
};

#ifdef __cplusplus
extern "C" {
#endif

/* The number of the ABI of this header and of taps.h, NAS_MIX_ABI of the header that the library was built from. */
int nas_mix_abi(void);

/* Compiler, options and targets the library was built with, for people. Static storage. */
const char* nas_mix_build(void);

/* Bytes of workspace that nas_mix_backward needs where dw is wanted; may be 0. A negative number is the negative of an error code. */
int64_t nas_mix_workspace(int dtype, int k, int64_t n, int64_t groups, int64_t inner);

/* y from x and w. w may be null: all weights are 1. `stream` is a cudaStream_t in the CUDA library and ignored on the CPU; `num_threads`
 * is the most threads to use on the CPU (below 1 means 1) and ignored on CUDA. x is a host array of k pointers in both. */
int nas_mix_forward(int dtype, int k, int64_t n, int64_t groups, int64_t inner, const void* const* x, const void* w, void* y,
                    int num_threads, void* stream);

/* dx and dw from x, w and dy, in one pass over memory. dx[k] may be null: no gradient wanted there; dx itself may be null: none at all.
 * dw may be null. x is read only where dw is wanted and may be null otherwise. w may be null (all weights are 1). `workspace` may be
 * null where nas_mix_workspace says 0 or dw is null; its content need not be initialised. dw is written, not added to. */
int nas_mix_backward(int dtype, int k, int64_t n, int64_t groups, int64_t inner, const void* const* x, const void* w, const void* dy,
                     void* const* dx, void* dw, void* workspace, int num_threads, void* stream);

#ifdef __cplusplus
}
#endif

#endif
