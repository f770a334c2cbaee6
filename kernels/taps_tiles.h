// How an image is cut into tiles, and the loops over one tile: y from a window of x; dw from dy and a window of x.
//
// A window is a tile and what its taps reach around it, copied to memory of the thread's own, in the accumulation type and with zeros
// where there is no image. So the loops below know no borders, and all taps read from the first-level cache: memory is read once,
// whatever their number. Rows of a window are as long as whole packs need.
#ifndef NAS_TAPS_TILES_H
#define NAS_TAPS_TILES_H

#include <cstdint>
#include <cstring>

#include "mix_pack.h"
#include "mix_tasks.h"
#include "taps.h"

namespace nas_taps {

using namespace nas_mix;

constexpr int64_t tile_elements = 4096;
constexpr int64_t chunk_packs = 512;  // about, of one partial sum of dw: short chains, and slots that stay small beside x

// The taps that meet the image, and where they reach.
struct Taps {
    int count = 0;
    int number[NAS_TAPS_MAX];  // among all
    int64_t y[NAS_TAPS_MAX], x[NAS_TAPS_MAX];
    int64_t low_y = 0, high_y = 0, low_x = 0, high_x = 0;

    Taps(int num_taps, const int64_t* offsets, int64_t height, int64_t width) {
        for (int t = 0; t < num_taps; t++) {
            const int64_t dy = offsets[2 * t], dx = offsets[2 * t + 1];
            if (dy <= -height || dy >= height || dx <= -width || dx >= width) continue;
            low_y = count ? smaller(low_y, dy) : dy;
            high_y = count ? larger(high_y, dy) : dy;
            low_x = count ? smaller(low_x, dx) : dx;
            high_x = count ? larger(high_x, dx) : dx;
            number[count] = t;
            y[count] = dy;
            x[count++] = dx;
        }
    }
};

// By the sizes alone, so that sums come out the same for any number of threads.
struct Tiles {
    int64_t height, width;
    int64_t rows, columns;      // of a tile
    int64_t down, across;       // number of tiles
    int64_t stride, elements;   // of a window, in elements of the accumulation type
    int64_t step, num_chunks;   // tiles of one channel, over all images, that are summed at once; and the number of such chunks

    Tiles(const Taps& taps, int64_t batch, int64_t given_height, int64_t given_width, int64_t lanes) {
        height = given_height;
        width = given_width;
        columns = smaller(larger(width, 1), tile_elements);
        rows = smaller(larger(height, 1), larger(tile_elements / columns, 1));
        down = divided_up(height, rows);
        across = divided_up(width, columns);
        stride = divided_up(columns, lanes) * lanes + taps.high_x - taps.low_x;
        elements = stride * (rows + taps.high_y - taps.low_y);
        step = larger(chunk_packs / (rows * divided_up(columns, lanes)), 1);
        num_chunks = divided_up(batch * down * across, step);
    }
    int64_t count() const { return down * across; }
};

// One tile of one image.
struct Tile {
    int64_t top, left, rows, columns;

    Tile(const Tiles& tiles, int64_t number) {
        top = number / tiles.across * tiles.rows;
        left = number % tiles.across * tiles.columns;
        rows = smaller(tiles.rows, tiles.height - top);
        columns = smaller(tiles.columns, tiles.width - left);
    }
};

template <typename T, int BYTES>
NAS_INLINE void widen_row(const T* from, int64_t count, Acc<T>* to) {
    if constexpr (sizeof(T) == sizeof(Acc<T>)) {
        std::memcpy(to, from, size_t(count) * sizeof(T));
    } else {
        int64_t i = 0;
        for (; i + num_lanes<T> <= count; i += num_lanes<T>) {
            Pack<Acc<T>, BYTES> pack;
            load<T, BYTES>(from + i, pack);
            store<Acc<T>, BYTES>(pack, to + i, false);
        }
        for (; i < count; i++) to[i] = value_of(from[i]);
    }
}

// Copies `num_rows` rows of an image from (top, left) on, which may lie outside of it.
template <typename T, int BYTES>
NAS_INLINE void fill_window(const Tiles& tiles, const T* image, int64_t top, int64_t left, int64_t num_rows, Acc<T>* window) {
    const int64_t begin = smaller(larger(-left, 0), tiles.stride), end = larger(smaller(tiles.width - left, tiles.stride), begin);
    for (int64_t r = 0; r < num_rows; r++, window += tiles.stride) {
        const bool is_inside = top + r >= 0 && top + r < tiles.height;
        const int64_t first = is_inside ? begin : 0, last = is_inside ? end : 0;
        std::memset(window, 0, size_t(first) * sizeof(Acc<T>));
        if (last > first) widen_row<T, BYTES>(image + (top + r) * tiles.width + left + first, last - first, window + first);
        std::memset(window + last, 0, size_t(tiles.stride - last) * sizeof(Acc<T>));
    }
}

// U packs of y, `down` apart in the window and `below` in y; of each, `count` elements are wanted.
template <typename T, int BYTES, int U>
NAS_INLINE void weigh(const Acc<T>* window, int64_t down, const int64_t* offset, const Acc<T>* w, int num_taps, T* y, int64_t below,
                      int64_t count) {
    using P = Pack<Acc<T>, BYTES>;
    P total[U];
    NAS_UNROLL
    for (int u = 0; u < U; u++) {
        NAS_UNROLL
        for (int p = 0; p < P::num_parts; p++) total[u].part[p] = Vector<Acc<T>, BYTES>{};
    }
    for (int t = 0; t < num_taps; t++) {
        const Acc<T> weight = w[t];
        const Acc<T>* const from = window + offset[t];
        NAS_UNROLL
        for (int u = 0; u < U; u++) {
            P value;
            load<Acc<T>, BYTES>(from + u * down, value);
            NAS_UNROLL
            for (int p = 0; p < P::num_parts; p++) total[u].part[p] += weight * value.part[p];
        }
    }
    NAS_UNROLL
    for (int u = 0; u < U; u++) {
        if (count == num_lanes<T>) {
            store<T, BYTES>(total[u], y + u * below, false);
        } else {
            T values[num_lanes<T>];
            store<T, BYTES>(total[u], values, false);
            std::memcpy(y + u * below, values, size_t(count) * sizeof(T));
        }
    }
}

// One tile of y; offset: where in the window each tap starts.
template <typename T, int BYTES>
NAS_INLINE void forward_tile(const Tiles& tiles, const Tile& tile, const Acc<T>* window, const int64_t* offset, const Acc<T>* w,
                             int num_taps, T* y) {
    constexpr int64_t lanes = num_lanes<T>, blocks = BYTES / 16;  // four vectors at once hide what an addition takes
    T* const to = y + tile.top * tiles.width + tile.left;
    int64_t i = 0;
    for (; i + blocks <= tile.rows; i += blocks)  // below each other
        for (int64_t j = 0; j < tile.columns; j += lanes)
            weigh<T, BYTES, int(blocks)>(window + i * tiles.stride + j, tiles.stride, offset, w, num_taps, to + i * tiles.width + j,
                                         tiles.width, smaller(lanes, tile.columns - j));
    for (; i < tile.rows; i++) {  // beside each other
        const Acc<T>* const line = window + i * tiles.stride;
        T* const result = to + i * tiles.width;
        int64_t j = 0;
        for (; j + blocks * lanes <= tile.columns; j += blocks * lanes)
            weigh<T, BYTES, int(blocks)>(line + j, lanes, offset, w, num_taps, result + j, lanes, lanes);
        for (; j < tile.columns; j += lanes)
            weigh<T, BYTES, 1>(line + j, 0, offset, w, num_taps, result + j, 0, smaller(lanes, tile.columns - j));
    }
}

// Adds one tile to the lanes of dw. `end`: of dy in memory.
template <typename T, int BYTES>
NAS_INLINE void weight_tile(const Tiles& tiles, const Tile& tile, const Acc<T>* window, const int64_t* offset, int num_taps, const T* dy,
                            const T* end, Pack<Acc<T>, BYTES>* sums) {
    using P = Pack<Acc<T>, BYTES>;
    using V = Vector<Acc<T>, BYTES>;
    constexpr int64_t lanes = num_lanes<T>, width = BYTES / int(sizeof(Acc<T>));
    constexpr int block = BYTES / 8;  // taps at once: eight vectors of sums
    const int64_t whole = tile.columns / lanes * lanes, rest = tile.columns - whole;
    decltype(V{} < V{}) kept[P::num_parts] = {};  // of the last pack; what is beside the row is in memory, not in the sum
    for (int64_t l = 0; l < rest; l++) kept[l / width][l % width] = -1;
    for (int first = 0; first < num_taps; first += block) {
        P sum[block];
        const Acc<T>* from[block];
        NAS_UNROLL
        for (int b = 0; b < block; b++) {
            const int t = first + b < num_taps ? first + b : first;  // beyond the last tap: any, for nothing
            from[b] = window + offset[t];
            sum[b] = sums[t];
        }
        for (int64_t i = 0; i < tile.rows; i++) {
            const T* const line = dy + (tile.top + i) * tiles.width + tile.left;
            const int64_t at = i * tiles.stride;
            P grad, value;
            for (int64_t j = 0; j < whole; j += lanes) {
                load<T, BYTES>(line + j, grad);
                NAS_UNROLL
                for (int b = 0; b < block; b++) {
                    load<Acc<T>, BYTES>(from[b] + at + j, value);
                    NAS_UNROLL
                    for (int p = 0; p < P::num_parts; p++) sum[b].part[p] += grad.part[p] * value.part[p];
                }
            }
            if (!rest) continue;
            if (end - line >= whole + lanes) {
                load<T, BYTES>(line + whole, grad);
            } else {
                T values[lanes] = {};
                std::memcpy(values, line + whole, size_t(rest) * sizeof(T));
                load<T, BYTES>(values, grad);
            }
            NAS_UNROLL
            for (int b = 0; b < block; b++) {
                load<Acc<T>, BYTES>(from[b] + at + whole, value);
                NAS_UNROLL
                for (int p = 0; p < P::num_parts; p++) sum[b].part[p] += kept[p] ? grad.part[p] * value.part[p] : V{};
            }
        }
        NAS_UNROLL
        for (int b = 0; b < block; b++)
            if (first + b < num_taps) sums[first + b] = sum[b];
    }
}

}  // namespace nas_taps

#endif
