// Device code of the weighted K-ary sum; mix.h says what is computed, mix.cu which kernel is launched when.
//
// A vector is 16 bytes of elements. A tile is what one warp sums of dw before it writes partial sums; tiles follow from the shape alone,
// so dw is the same bits on every device, for every grid and for every alignment.
//
//     forward_uniform   one weight per candidate in a vector: groups == 1, or inner divisible by the vector
//     forward_mixed     the weight may change within a vector: channels_last, 7x7 maps per channel
//     forward_scalar    pointers that are not aligned to 16 bytes
//     backward_tiles    a group is long contiguous runs: a warp sums one group, by shuffles
//     backward_columns  runs are short: a thread owns columns of the matrix (n / period, period), a block sums its warps in shared memory
//     reduce            second stage of dw, in a fixed order (reduce.cuh)
//
// Needs no header but these, and compiles under nvcc, and under g++ with tests/kernels/emulation/simt.h.
#pragma once

#include "mix.h"
#include "mix_types.cuh"
#include "reduce.cuh"

namespace nas_mix {

constexpr int kBatch = 4;  // candidates at once where K is no template argument

// ---- forward ------------------------------------------------------------------------------------------------------------------------

struct ForwardArgs {
    const void* x[NAS_MIX_MAX_K];
    const void* w;
    void* y;
    int64_t n, groups, inner;
    Divisor by_inner, by_groups;
    int k;
};

__device__ __forceinline__ int64_t group_of(const ForwardArgs& a, int64_t i) {
    if (a.groups == 1) return 0;
    const int64_t run = a.by_inner.of(i);
    return run - a.by_groups.of(run) * a.groups;
}

// One element: what vectors leave over, and what is not aligned.
template <class T>
__device__ __forceinline__ void forward_element(const ForwardArgs& a, int64_t i) {
    using A = Acc<T>;
    const int64_t g = group_of(a, i);
    A sum = 0;
#pragma unroll 4
    for (int k = 0; k < a.k; ++k) sum = fused(weight_of<A>(a.w, k, a.groups, g), widen(static_cast<const T*>(a.x[k])[i]), sum);
    narrow(sum, static_cast<T*>(a.y)[i]);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1024 / kThreads) forward_scalar(const __grid_constant__ ForwardArgs a) {
    for (int64_t i = thread_index(); i < a.n; i += num_threads()) forward_element<T>(a, i);
}

template <class T, int K>  // K == 0: any number, in chunks
__global__ void __launch_bounds__(kThreads, 1024 / kThreads) forward_uniform(const __grid_constant__ ForwardArgs a) {
    using A = Acc<T>;
    constexpr int V = kVector<T>, C = K ? K : kBatch;
    const int64_t vectors = a.n / V;
    A weight[C] = {};
    int64_t loaded = -1;  // the group whose weights are in registers
    for (int64_t v = thread_index(); v < vectors; v += num_threads()) {
        const int64_t i = v * V, g = group_of(a, i);
        A y[V] = {};
        for (int first = 0; first < (K ? K : a.k); first += C) {
            Pack<T, V> pack[C];
#pragma unroll
            for (int c = 0; c < C; ++c)
                if (K || first + c < a.k) pack[c] = load<T, V>(a.x[first + c], i);
            if (!K || g != loaded) {
#pragma unroll
                for (int c = 0; c < C; ++c)
                    if (K || first + c < a.k) weight[c] = weight_of<A>(a.w, first + c, a.groups, g);
                loaded = g;
            }
#pragma unroll
            for (int c = 0; c < C; ++c) {
                if (K || first + c < a.k) {
                    A x[V];
                    unpack<T, V>(pack[c], x);
#pragma unroll
                    for (int e = 0; e < V; ++e) y[e] = fused(weight[c], x[e], y[e]);
                }
            }
        }
        store<T, V>(a.y, i, y);
    }
    const int64_t rest = vectors * V + thread_index();
    if (rest < a.n) forward_element<T>(a, rest);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1024 / kThreads) forward_mixed(const __grid_constant__ ForwardArgs a) {
    using A = Acc<T>;
    constexpr int V = kColumns<T>, C = kBatch;
    const int64_t vectors = a.n / V;
    for (int64_t v = thread_index(); v < vectors; v += num_threads()) {
        const int64_t i = v * V;
        int64_t g[V];
#pragma unroll
        for (int e = 0; e < V; ++e) g[e] = group_of(a, i + e);
        A y[V] = {};
        for (int first = 0; first < a.k; first += C) {
            Pack<T, V> pack[C];
#pragma unroll
            for (int c = 0; c < C; ++c)
                if (first + c < a.k) pack[c] = load<T, V>(a.x[first + c], i);
#pragma unroll
            for (int c = 0; c < C; ++c) {
                if (first + c < a.k) {
                    A x[V];
                    unpack<T, V>(pack[c], x);
#pragma unroll
                    for (int e = 0; e < V; ++e) y[e] = fused(weight_of<A>(a.w, first + c, a.groups, g[e]), x[e], y[e]);
                }
            }
        }
        store<T, V>(a.y, i, y);
    }
    const int64_t rest = vectors * V + thread_index();
    if (rest < a.n) forward_element<T>(a, rest);
}

// ---- backward -----------------------------------------------------------------------------------------------------------------------

struct BackwardArgs {
    const void* x[NAS_MIX_MAX_K];
    void* dx[NAS_MIX_MAX_K];
    const void* w;
    const void* dy;
    void* partial;  // null: no dw. Tiles: [k][group][tile]. Columns: [k][chunk][column].
    int64_t n, groups, inner;
    int k, parts;  // the candidates are shared out in parts, neighbours on the same elements: dy comes from cache for all but one
    // tiles
    int64_t vectors, rest;     // of a group: whole vectors, and elements left over
    int64_t tile, tiles;       // vectors of a tile, tiles of a group
    Divisor by_tiles, by_run;  // by_run: vectors of a contiguous run
    // columns
    int64_t columns;        // of the matrix
    int64_t chunk, chunks;  // rows of a chunk, and their number
    int64_t strips;         // of one warp's width, over the columns
    Divisor by_inner, by_groups, by_strips, by_parts;
};

// V elements of one group: dx = w dy for candidates first ... first + C - 1, and what the elements add to dw.
template <class T, int V, int C, bool All>
__device__ __forceinline__ void tile_step(const BackwardArgs& a, int first, int64_t i, const Acc<T> (&w)[C], Acc<T> (&sum)[C]) {
    using A = Acc<T>;
    constexpr int kMost = sizeof(T) == 4 ? 5 : 4, B = sizeof(T) == 8 || !All ? 2 : C <= kMost ? C : 3;  // at once; more would spill
    A dy[V];
    unpack<T, V>(load<T, V>(a.dy, i), dy);
#pragma unroll
    for (int batch = 0; batch < C; batch += B) {
        Pack<T, V> pack[B];
        if (a.partial) {
#pragma unroll
            for (int b = 0; b < B; ++b)
                if (batch + b < C && (All || first + batch + b < a.k)) pack[b] = load<T, V>(a.x[first + batch + b], i);
        }
#pragma unroll
        for (int b = 0; b < B; ++b) {
            const int c = batch + b;
            if (c >= C || !(All || first + c < a.k)) continue;
            if (a.partial) {
                A x[V];
                unpack<T, V>(pack[b], x);
#pragma unroll
                for (int e = 0; e < V; ++e) sum[c] = fused(dy[e], x[e], sum[c]);
            }
            if (a.dx[first + c]) {
                A dx[V];
#pragma unroll
                for (int e = 0; e < V; ++e) dx[e] = w[c] * dy[e];
                store<T, V>(a.dx[first + c], i, dx);
            }
        }
    }
}

template <class T, int K, bool Vector>  // K == 0: any number, in parts
__global__ void __launch_bounds__(kThreads, 1024 / kThreads) backward_tiles(const __grid_constant__ BackwardArgs a) {
    using A = Acc<T>;
    constexpr int V = kVector<T>, C = K ? K : kBatch;
    const int lane = threadIdx.x % kWarp;
    const int64_t items = a.groups * a.tiles * a.parts;
    for (int64_t item = thread_index() / kWarp; item < items; item += num_threads() / kWarp) {
        const int64_t t = K ? item : a.by_parts.of(item);
        const int first = K ? 0 : static_cast<int>(item - t * a.parts) * C;
        const int64_t g = a.by_tiles.of(t), tile = t - g * a.tiles, base = g * a.inner;
        const int64_t begin = tile * a.tile, end = begin + a.tile < a.vectors ? begin + a.tile : a.vectors;
        A sum[C] = {}, w[C];
#pragma unroll
        for (int c = 0; c < C; ++c) w[c] = K || first + c < a.k ? weight_of<A>(a.w, first + c, a.groups, g) : A(0);
        if (tile == a.tiles - 1 && lane < a.rest) tile_step<T, 1, C, K != 0>(a, first, base + a.vectors * V + lane, w, sum);
#pragma unroll 1
        for (int64_t v = begin + lane; v < end; v += kWarp) {
            const int64_t i = base + v * V + a.by_run.of(v) * (a.groups - 1) * a.inner;
            if constexpr (Vector) {
                tile_step<T, V, C, K != 0>(a, first, i, w, sum);
            } else {
#pragma unroll 1
                for (int e = 0; e < V; ++e) tile_step<T, 1, C, K != 0>(a, first, i + e, w, sum);
            }
        }
        if (!a.partial) continue;
#pragma unroll
        for (int c = 0; c < C; ++c) {
            if (K || first + c < a.k) {
                const A total = warp_sum(sum[c]);
                if (lane == 0) static_cast<A*>(a.partial)[(first + c) * a.groups * a.tiles + t] = total;
            }
        }
    }
}

template <class T, int V>  // V columns a thread
__global__ void __launch_bounds__(kThreads, 1024 / kThreads) backward_columns(const __grid_constant__ BackwardArgs a) {
    using A = Acc<T>;
    constexpr int C = kBatch, kWidth = kWarp * V, kWarps = kThreads / kWarp;
    __shared__ A sums[kWarps][kWidth], weights[C][kWidth];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    for (int64_t item = blockIdx.x; item < a.strips * a.chunks * a.parts; item += gridDim.x) {
        const int64_t t = a.by_parts.of(item), chunk = a.by_strips.of(t);
        const int first = static_cast<int>(item - t * a.parts) * C;
        const int64_t left = (t - chunk * a.strips) * kWidth, column = left + lane * V;
        int64_t limit = (chunk + 1) * a.chunk * a.columns < a.n ? (chunk + 1) * a.chunk * a.columns : a.n;
        if (column >= a.columns) limit = 0;  // right of the matrix
        __syncthreads();  // the weights before these have been read
        for (int j = threadIdx.x; j < C * kWidth; j += kThreads) {
            const int64_t run = a.by_inner.of(left + j % kWidth), k = first + j / kWidth;
            if (k < a.k) weights[j / kWidth][j % kWidth] = weight_of<A>(a.w, k, a.groups, run - a.by_groups.of(run) * a.groups);
        }
        __syncthreads();
        A sum[C][V] = {};
#pragma unroll 1
        for (int64_t i = (chunk * a.chunk + warp) * a.columns + column; i < limit; i += kWarps * a.columns) {
            A dy[V];
            unpack<T, V>(load<T, V>(a.dy, i), dy);
            Pack<T, V> pack[C];
            if (a.partial) {
#pragma unroll
                for (int c = 0; c < C; ++c)
                    if (first + c < a.k) pack[c] = load<T, V>(a.x[first + c], i);
            }
#pragma unroll
            for (int c = 0; c < C; ++c) {
                if (first + c >= a.k) continue;
                if (a.partial) {
                    A x[V];
                    unpack<T, V>(pack[c], x);
#pragma unroll
                    for (int e = 0; e < V; ++e) sum[c][e] = fused(dy[e], x[e], sum[c][e]);
                }
                if (a.dx[first + c]) {
                    A dx[V];
#pragma unroll
                    for (int e = 0; e < V; ++e) dx[e] = weights[c][lane * V + e] * dy[e];
                    store<T, V>(a.dx[first + c], i, dx);
                }
            }
        }
        if (!a.partial) continue;
#pragma unroll
        for (int c = 0; c < C; ++c) {
            if (first + c >= a.k) continue;
            __syncthreads();  // the sums before these have been read
#pragma unroll
            for (int e = 0; e < V; ++e) sums[warp][lane * V + e] = sum[c][e];
            __syncthreads();
            for (int j = threadIdx.x; j < kWidth && left + j < a.columns; j += kThreads) {
                A total = 0;
                for (int other = 0; other < kWarps; ++other) total += sums[other][j];
                static_cast<A*>(a.partial)[((first + c) * a.chunks + chunk) * a.columns + left + j] = total;
            }
        }
    }
}

}  // namespace nas_mix
