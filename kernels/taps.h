/* Depthwise convolution with few taps, what several dilated depthwise convolutions of one input are together; the same C ABI in the CPU
 * and in the CUDA library. Types, error codes and the ABI number are those of mix.h.
 *
 *     y[b][c][i][j]  = sum over t of w[c][t] * x[b][c][i + dy_t][j + dx_t]
 *     dx[b][c][i][j] = sum over t of w[c][t] * dy[b][c][i - dy_t][j - dx_t]
 *     dw[c][t]       = sum over b, i, j of dy[b][c][i][j] * x[b][c][i + dy_t][j + dx_t]
 *
 * What lies outside of the image counts as 0, stride is 1, and y is as large as x. A sequence is an image of height 1.
 *
 * Layout. x, y, dy and dx are contiguous (batch, channels, height, width), strides (C * H * W, H * W, W, 1) in elements. w and dw are
 * contiguous (channels, num_taps). `offsets` is a host array in both libraries: num_taps pairs (dy_t, dx_t), in elements, of any sign
 * and size; taps that never meet the image are 0, equal ones add up.
 *
 * Units. Sizes and offsets count elements and are 64 bits wide; any size may be 0. The workspace counts bytes.
 *
 * Types. x, y, dy and dx are of the type `dtype` says. w, dw and every accumulator are of the accumulation type: double where x is
 * float64, float otherwise. y and dx are rounded once, to nearest even.
 *
 * Alignment. Every pointer is aligned to its element type; nothing more is asked. The workspace is aligned to 16 bytes.
 *
 * Aliasing. Inputs may be the same memory; outputs and the workspace must overlap neither each other nor any input.
 *
 * Determinism. y and dx add the taps in their order. dw is summed in chunks that follow from the sizes, in two stages, without atomics:
 * the same bits come out for any number of threads.
 *
 * Errors. NAS_MIX_BAD_DTYPE; NAS_MIX_BAD_K: num_taps is not in 1 ... NAS_TAPS_MAX; NAS_MIX_BAD_SIZE: a size is negative, or there are
 * 2^62 elements or more; NAS_MIX_NULL: a pointer that is needed is null; NAS_MIX_DEVICE: a launch failed (CUDA only).
 */
#ifndef NAS_TAPS_H
#define NAS_TAPS_H

#include "mix.h"

#define NAS_TAPS_MAX 128

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of workspace that nas_taps_forward (wants_dw = 0, also enough for nas_taps_backward without dw) or nas_taps_backward with dw
 * needs for the same arguments; may be 0. On the CPU it grows with the distance between the outermost taps that meet the image: each
 * thread copies a tile of at most 4096 elements and what the taps reach around it. A negative number is the negative of an error code. */
int64_t nas_taps_workspace(int dtype, int64_t batch, int64_t channels, int64_t height, int64_t width, int num_taps,
                           const int64_t* offsets, int wants_dw, int num_threads);

/* y from x and w. `stream` is a cudaStream_t in the CUDA library and ignored on the CPU; `num_threads` is the most threads to use on the
 * CPU (below 1 means 1) and ignored on CUDA. `workspace` may be null where nas_taps_workspace says 0; its content need not be
 * initialised. */
int nas_taps_forward(int dtype, int64_t batch, int64_t channels, int64_t height, int64_t width, int num_taps, const int64_t* offsets,
                     const void* x, const void* w, void* y, void* workspace, int num_threads, void* stream);

/* dx and dw from x, w and dy, in one pass on the CPU. dx or dw may be null: that gradient is not wanted. x is read only where dw is
 * wanted and w only where dx is; they may be null otherwise. dw is written, not added to. */
int nas_taps_backward(int dtype, int64_t batch, int64_t channels, int64_t height, int64_t width, int num_taps, const int64_t* offsets,
                      const void* x, const void* w, const void* dy, void* dx, void* dw, void* workspace, int num_threads, void* stream);

#ifdef __cplusplus
}
#endif

#endif
