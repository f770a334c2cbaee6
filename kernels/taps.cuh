// Device code of the depthwise convolution with few taps; taps.h says what is computed, taps.cu which kernel is launched when.
//
// A tile is what a block computes at once: kTileOutputs positions of one image, in rows whose length is a power of two. Its window is the
// tile and what the taps reach around it, in shared memory, in the accumulation type, with zeros where there is no image. Lanes of a warp
// read neighbours, so banks do not conflict where rows of a tile have 32 columns or more.
//
//     taps_forward          y, or dx from dy with turned offsets; by tiles
//     taps_forward_direct   the same where a window would not fit: taps that are far apart; every tap reads global memory
//     taps_weight           dw: a warp sums a few taps over all tiles of a chunk
//     taps_weight_direct    the same where a window would not fit: a warp sums one tap
//     reduce                second stage of dw, in a fixed order (reduce.cuh)
//
// Chunks follow from the shape and the offsets alone, so dw is the same bits on every device, for every grid and for every alignment.
#pragma once

#include "mix_types.cuh"
#include "reduce.cuh"
#include "taps.h"

#ifndef NAS_TAPS_WINDOW_BYTES
#define NAS_TAPS_WINDOW_BYTES 16384  // 42 x 42 of float32: taps up to 5 around 32 x 32
#endif

namespace nas_mix {

constexpr int kOutputs = 4;  // of a thread
constexpr int kTileOutputs = kThreads * kOutputs;
constexpr int kWarps = kThreads / kWarp;
constexpr int kWarpTaps = 8;                  // that a warp sums at once
constexpr int kPartTaps = kWarps * kWarpTaps;  // that a block does
template <class A>
constexpr int kWindow = NAS_TAPS_WINDOW_BYTES / static_cast<int>(sizeof(A));

struct TapsArgs {
    const void* x;
    const void* w;     // forward
    void* y;           // forward
    const void* dy;    // of dw
    void* partial;     // of dw: [channel][tap][chunk]
    int64_t channels, height, width;
    int64_t items;     // forward: tiles of all images; dw: (channel, part, chunk)
    int64_t per_channel, chunk, chunks;  // dw: tiles (or elements) of a channel over all images, of a chunk; and chunks of a channel
    int num_taps, parts;
    // tiles
    int shift, rows;         // 2^shift columns
    int stride, low_x;       // of the window; where it begins beside its tile, whole vectors away
    int window_rows;
    int64_t low_y;
    Divisor by_tiles, by_across, by_channels, by_chunks, by_parts;
    int64_t tiles, across;   // of an image; in one row of tiles
    int position[NAS_TAPS_MAX];  // of a tap in the window of its tile; negative: never meets the image
    // direct
    Divisor by_plane, by_width;
    int64_t down[NAS_TAPS_MAX], right[NAS_TAPS_MAX];
};

struct Tile {
    int64_t begin;      // of the image, in elements
    int64_t top, left;  // of the tile in the image
    int rows, columns;  // that are inside

    __device__ __forceinline__ Tile(const TapsArgs& a, int64_t plane, int64_t number) {
        const int64_t line = a.by_across.of(number);
        begin = plane * a.height * a.width;
        top = line * a.rows;
        left = (number - line * a.across) << a.shift;
        rows = static_cast<int>(a.height - top < a.rows ? a.height - top : a.rows);
        columns = static_cast<int>(a.width - left < (1 << a.shift) ? a.width - left : 1 << a.shift);
    }
};

// V values to shared memory, 16 bytes at once; the address is aligned to that.
template <class A, int V>
__device__ __forceinline__ void put(A* to, const A (&value)[V]) {
    if constexpr (V * sizeof(A) % 16 == 0) {
        constexpr int kPiece = 16 / static_cast<int>(sizeof(A));
#pragma unroll
        for (int e = 0; e < V; e += kPiece) {
            Words<16> words;
            memcpy(&words, value + e, sizeof words);
            *reinterpret_cast<Words<16>*>(to + e) = words;
        }
    } else {
#pragma unroll
        for (int e = 0; e < V; ++e) to[e] = value[e];
    }
}

// V: elements at once; vectors are inside or outside of the image as a whole.
template <class T, int V>
__device__ __forceinline__ void fill_window(const TapsArgs& a, const Tile& tile, Acc<T>* window) {
    const T* image = static_cast<const T*>(a.x) + tile.begin;
    const unsigned line = a.stride / V, count = line * a.window_rows;
    for (unsigned v = threadIdx.x; v < count; v += kThreads) {
        const int64_t row = tile.top + a.low_y + v / line, column = tile.left + a.low_x + static_cast<int>(v % line) * V;
        Acc<T> value[V] = {};
        if (row >= 0 && row < a.height && column >= 0 && column < a.width) unpack<T, V>(load<T, V>(image, row * a.width + column), value);
        put<Acc<T>, V>(window + v * V, value);
    }
}

template <class T, bool Vector>
__global__ void __launch_bounds__(kThreads, 1024 / kThreads) taps_forward(const __grid_constant__ TapsArgs a) {
    using A = Acc<T>;
    constexpr int V = Vector ? kVector<T> : 1;
    alignas(16) __shared__ A window[kWindow<A>];
    __shared__ A weight[NAS_TAPS_MAX];
    int base[kOutputs];
    const int mask = (1 << a.shift) - 1;
#pragma unroll
    for (int e = 0; e < kOutputs; ++e) {
        const int q = threadIdx.x + e * kThreads;
        base[e] = q >> a.shift < a.rows ? (q >> a.shift) * a.stride + (q & mask) : 0;
    }
    for (int64_t item = blockIdx.x; item < a.items; item += gridDim.x) {
        const int64_t plane = a.by_tiles.of(item);
        const Tile tile(a, plane, item - plane * a.tiles);
        const A* w = static_cast<const A*>(a.w) + (plane - a.by_channels.of(plane) * a.channels) * a.num_taps;
        __syncthreads();  // the window before this one has been read
        fill_window<T, V>(a, tile, window);
        for (int t = threadIdx.x; t < a.num_taps; t += kThreads) weight[t] = w[t];
        __syncthreads();
        A sum[kOutputs] = {};
#pragma unroll 2
        for (int t = 0; t < a.num_taps; ++t) {
            const int position = a.position[t];
            if (position < 0) continue;
#pragma unroll
            for (int e = 0; e < kOutputs; ++e) sum[e] = fused(weight[t], window[base[e] + position], sum[e]);
        }
        if constexpr (Vector) {
            __syncthreads();  // the window has been read: it holds the tile of y now
#pragma unroll
            for (int e = 0; e < kOutputs; ++e) window[threadIdx.x + e * kThreads] = sum[e];
            __syncthreads();
            for (int q = threadIdx.x * V; q < kTileOutputs; q += kThreads * V) {
                const int row = q >> a.shift, column = q & mask;
                A value[V];
#pragma unroll
                for (int e = 0; e < V; ++e) value[e] = window[q + e];
                if (row < tile.rows && column < tile.columns)
                    store<T, V>(a.y, tile.begin + (tile.top + row) * a.width + tile.left + column, value);
            }
        } else {
#pragma unroll
            for (int e = 0; e < kOutputs; ++e) {
                const int q = threadIdx.x + e * kThreads, row = q >> a.shift, column = q & mask;
                if (row < tile.rows && column < tile.columns)
                    narrow(sum[e], static_cast<T*>(a.y)[tile.begin + (tile.top + row) * a.width + tile.left + column]);
            }
        }
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1024 / kThreads) taps_forward_direct(const __grid_constant__ TapsArgs a) {
    using A = Acc<T>;
    for (int64_t i = thread_index(); i < a.items; i += num_threads()) {
        const int64_t line = a.by_width.of(i), plane = a.by_plane.of(i), column = i - line * a.width, row = line - plane * a.height;
        const A* w = static_cast<const A*>(a.w) + (plane - a.by_channels.of(plane) * a.channels) * a.num_taps;
        A sum = 0;
        for (int t = 0; t < a.num_taps; ++t) {
            if (a.position[t] < 0) continue;
            const int64_t from = row + a.down[t], beside = column + a.right[t];
            if (from < 0 || from >= a.height || beside < 0 || beside >= a.width) continue;
            sum = fused(w[t], widen(static_cast<const T*>(a.x)[i + a.down[t] * a.width + a.right[t]]), sum);
        }
        narrow(sum, static_cast<T*>(a.y)[i]);
    }
}

template <class T, bool Vector>
__global__ void __launch_bounds__(kThreads, 1024 / kThreads) taps_weight(const __grid_constant__ TapsArgs a) {
    using A = Acc<T>;
    constexpr int V = Vector ? kVector<T> : 1;
    alignas(16) __shared__ A window[kWindow<A>], grad[kTileOutputs];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, mask = (1 << a.shift) - 1;
    for (int64_t item = blockIdx.x; item < a.items; item += gridDim.x) {
        const int64_t rest = a.by_chunks.of(item), chunk = item - rest * a.chunks, c = a.by_parts.of(rest);
        const int first = static_cast<int>(rest - c * a.parts) * kPartTaps + warp;  // taps of this warp: that, and each kWarps further
        const int64_t end = (chunk + 1) * a.chunk < a.per_channel ? (chunk + 1) * a.chunk : a.per_channel;
        A sum[kWarpTaps] = {};
        int position[kWarpTaps];
#pragma unroll
        for (int r = 0; r < kWarpTaps; ++r) position[r] = first + r * kWarps < a.num_taps ? a.position[first + r * kWarps] : -1;
        for (int64_t number = chunk * a.chunk; number < end; ++number) {
            const int64_t image = a.by_tiles.of(number);
            const Tile tile(a, image * a.channels + c, number - image * a.tiles);
            const T* dy = static_cast<const T*>(a.dy) + tile.begin + tile.top * a.width + tile.left;
            __syncthreads();  // the window before this one has been read
            fill_window<T, V>(a, tile, window);
            for (int q = threadIdx.x * V; q < kTileOutputs; q += kThreads * V) {
                const int row = q >> a.shift, column = q & mask;
                A value[V] = {};
                if (row < tile.rows && column < tile.columns) unpack<T, V>(load<T, V>(dy, row * a.width + column), value);
                put<A, V>(grad + q, value);
            }
            __syncthreads();
            for (int q = lane; q < tile.rows << a.shift; q += kWarp) {
                const int column = q & mask, base = (q >> a.shift) * a.stride + column;
                if (column >= tile.columns) continue;  // 0 times what is there could be NaN
#pragma unroll
                for (int r = 0; r < kWarpTaps; ++r)
                    if (position[r] >= 0) sum[r] = fused(grad[q], window[base + position[r]], sum[r]);
            }
        }
#pragma unroll
        for (int r = 0; r < kWarpTaps; ++r) {
            const A total = warp_sum(sum[r]);
            const int t = first + r * kWarps;
            if (lane == 0 && t < a.num_taps) static_cast<A*>(a.partial)[(c * a.num_taps + t) * a.chunks + chunk] = total;
        }
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1024 / kThreads) taps_weight_direct(const __grid_constant__ TapsArgs a) {
    using A = Acc<T>;
    const int lane = threadIdx.x % kWarp;
    for (int64_t item = thread_index() / kWarp; item < a.items; item += num_threads() / kWarp) {
        const int64_t rest = a.by_chunks.of(item), chunk = item - rest * a.chunks, c = a.by_parts.of(rest);
        const int t = static_cast<int>(rest - c * a.num_taps);
        const int64_t end = (chunk + 1) * a.chunk < a.per_channel ? (chunk + 1) * a.chunk : a.per_channel;
        A sum = 0;
        for (int64_t e = chunk * a.chunk + lane; e < end && a.position[t] >= 0; e += kWarp) {
            const int64_t line = a.by_width.of(e), image = a.by_plane.of(e), column = e - line * a.width, row = line - image * a.height;
            const int64_t from = row + a.down[t], beside = column + a.right[t];
            if (from < 0 || from >= a.height || beside < 0 || beside >= a.width) continue;
            const int64_t i = e + (image * (a.channels - 1) + c) * a.height * a.width;
            sum = fused(widen(static_cast<const T*>(a.dy)[i]), widen(static_cast<const T*>(a.x)[i + a.down[t] * a.width + a.right[t]]), sum);
        }
        sum = warp_sum(sum);
        if (lane == 0) static_cast<A*>(a.partial)[item] = sum;
    }
}

}  // namespace nas_mix
