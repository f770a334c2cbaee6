// The CPU side of taps.h: one loop for every instruction set, with the same bits, as in mix.cpp. Products are not contracted to fused
// multiply-adds, the taps are added in their order, and the lanes of dw in one fixed tree.
//
// y is cut into tiles, which threads share out. For dw a task is one channel and a chunk of its tiles, over all images; it has a slot of
// its own, and slots are added in their order, in double. dx is computed with it: dy is in the caches then.
#include "taps.h"

#include <cstdint>
#include <cstring>

#include "cpu.h"
#include "taps_shape.h"
#include "taps_tiles.h"

namespace nas_taps {
namespace {

template <typename T>
struct Job {
    const Taps& taps;
    const Tiles& tiles;
    int64_t channels;
    int num_taps;  // all of them, as w has
    const T* x;
    const Acc<T>* w;
    T* y;
    const T* dy;
    const T* dy_end;
    T* dx;
    Acc<T>* slots;    // [chunk][channels][num_taps]; null: no dw wanted
    Acc<T>* windows;  // one a thread

    Acc<T>* window(int64_t thread) const { return windows + thread * tiles.elements; }
};

// Where each tap starts in a window that begins `low` before its tile; with sign -1: of the gradient of x.
NAS_INLINE void place(const Taps& taps, const Tiles& tiles, int sign, int64_t* offset) {
    for (int t = 0; t < taps.count; t++)
        offset[t] = sign > 0 ? (taps.y[t] - taps.low_y) * tiles.stride + taps.x[t] - taps.low_x
                             : (taps.high_y - taps.y[t]) * tiles.stride + taps.high_x - taps.x[t];
}

template <typename T>
NAS_INLINE void pick(const Job<T>& job, const Acc<T>* w, Acc<T>* weight) {
    for (int t = 0; t < job.taps.count; t++) weight[t] = w[job.taps.number[t]];
}

// Tiles first ... last - 1 of all images, in memory order.
template <typename T, int BYTES>
NAS_INLINE void forward_tasks(const Job<T>& job, int64_t thread, int64_t first, int64_t last) {
    const Taps& taps = job.taps;
    const Tiles& tiles = job.tiles;
    int64_t offset[NAS_TAPS_MAX];
    Acc<T> weight[NAS_TAPS_MAX];
    place(taps, tiles, 1, offset);
    for (int64_t number = first; number < last; number++) {
        const int64_t plane = number / tiles.count();
        const Tile tile(tiles, number % tiles.count());
        const int64_t begin = plane * tiles.height * tiles.width, num_rows = tile.rows + taps.high_y - taps.low_y;
        pick(job, job.w + plane % job.channels * job.num_taps, weight);
        fill_window<T, BYTES>(tiles, job.x + begin, tile.top + taps.low_y, tile.left + taps.low_x, num_rows, job.window(thread));
        forward_tile<T, BYTES>(tiles, tile, job.window(thread), offset, weight, taps.count, job.y + begin);
    }
}

template <typename T, int BYTES>
NAS_INLINE void backward_tasks(const Job<T>& job, int64_t thread, int64_t first, int64_t last, int64_t batch) {
    const Taps& taps = job.taps;
    const Tiles& tiles = job.tiles;
    int64_t offset[NAS_TAPS_MAX], turned[NAS_TAPS_MAX];
    Acc<T> weight[NAS_TAPS_MAX];
    Pack<Acc<T>, BYTES> sums[NAS_TAPS_MAX];
    place(taps, tiles, 1, offset);
    place(taps, tiles, -1, turned);
    Acc<T>* const window = job.window(thread);
    for (int64_t task = first; task < last; task++) {
        const int64_t c = task % job.channels, chunk = task / job.channels;
        const int64_t end = smaller((chunk + 1) * tiles.step, batch * tiles.count());
        if (job.dx) pick(job, job.w + c * job.num_taps, weight);
        std::memset(sums, 0, size_t(taps.count) * pack_bytes);
        for (int64_t number = chunk * tiles.step; number < end; number++) {
            const int64_t plane = number / tiles.count() * job.channels + c;
            const Tile tile(tiles, number % tiles.count());
            const int64_t begin = plane * tiles.height * tiles.width, num_rows = tile.rows + taps.high_y - taps.low_y;
            if (job.dx) {
                fill_window<T, BYTES>(tiles, job.dy + begin, tile.top - taps.high_y, tile.left - taps.high_x, num_rows, window);
                forward_tile<T, BYTES>(tiles, tile, window, turned, weight, taps.count, job.dx + begin);
            }
            if (job.slots) {
                fill_window<T, BYTES>(tiles, job.x + begin, tile.top + taps.low_y, tile.left + taps.low_x, num_rows, window);
                weight_tile<T, BYTES>(tiles, tile, window, offset, taps.count, job.dy + begin, job.dy_end, sums);
            }
        }
        if (!job.slots) continue;
        Acc<T>* const slot = job.slots + task * job.num_taps;
        for (int t = 0; t < job.num_taps; t++) slot[t] = 0;
        for (int t = 0; t < taps.count; t++) slot[taps.number[t]] = sum_lanes<Acc<T>, BYTES>(sums[t]);
    }
}

// ---- One compilation for each instruction set ----------------------------------------------------------------------------------------

// batch: of a backward pass; 0: forward
template <typename T>
using Function = void (*)(const Job<T>&, int64_t, int64_t, int64_t, int64_t);

template <typename T, int BYTES>
NAS_INLINE void tasks(const Job<T>& job, int64_t thread, int64_t first, int64_t last, int64_t batch) {
    if (batch)
        backward_tasks<T, BYTES>(job, thread, first, last, batch);
    else
        forward_tasks<T, BYTES>(job, thread, first, last);
}

template <typename T>
void run_16(const Job<T>& job, int64_t thread, int64_t first, int64_t last, int64_t batch) {
    tasks<T, 16>(job, thread, first, last, batch);
}

#ifdef NAS_HAS_32
template <typename T>
NAS_TARGET_32 void run_32(const Job<T>& job, int64_t thread, int64_t first, int64_t last, int64_t batch) {
    tasks<T, 32>(job, thread, first, last, batch);
}
#endif

#ifdef NAS_HAS_64
template <typename T>
NAS_TARGET_64 void run_64(const Job<T>& job, int64_t thread, int64_t first, int64_t last, int64_t batch) {
    tasks<T, 64>(job, thread, first, last, batch);
}
#endif

template <typename T>
Function<T> for_processor() {
    switch (vector_bytes()) {
#ifdef NAS_HAS_64
        case 64: return run_64<T>;
#endif
#ifdef NAS_HAS_32
        case 32: return run_32<T>;
#endif
        default: return run_16<T>;
    }
}

// ---- The functions of taps.h ---------------------------------------------------------------------------------------------------------

struct Shape : TapsShape {
    Taps taps() const { return Taps(num_taps, offsets, height, width); }
    Tiles tiles(const Taps& taps) const { return Tiles(taps, batch, height, width, pack_bytes / accumulator_size()); }
    // with fewer products, one thread is faster than waking another
    int threads(int most) const { return most > 1 && count() >= (1 << 19) / num_taps ? most : 1; }
    int64_t slots(const Tiles& tiles) const { return tiles.num_chunks * channels * num_taps; }
};

template <typename T>
void run(const Shape& s, const void* x, const void* w, void* y, const void* dy, void* dx, void* dw, void* workspace, int num_threads) {
    const Taps taps = s.taps();
    const Tiles tiles = s.tiles(taps);
    Acc<T>* const slots = dw ? (Acc<T>*)workspace : nullptr;
    Acc<T>* const windows = (Acc<T>*)workspace + (dw ? s.slots(tiles) : 0);
    const T* const dy_end = dy ? (const T*)dy + s.count() : nullptr;
    const Job<T> job{taps,         tiles,  s.channels, s.num_taps, (const T*)x, (const Acc<T>*)w, (T*)y,
                     (const T*)dy, dy_end, (T*)dx,     slots,      windows};
    const int64_t batch = y ? 0 : s.batch, count = y ? s.batch * s.channels * tiles.count() : s.channels * tiles.num_chunks;
    const Function<T> function = for_processor<T>();
    run_threads(count, s.threads(num_threads),
                [&](int64_t thread, int64_t first, int64_t last) { function(job, thread, first, last, batch); });
    if (dw) add_slots(slots, tiles.num_chunks, s.channels * s.num_taps, (Acc<T>*)dw);
}

void run_type(const Shape& s, const void* x, const void* w, void* y, const void* dy, void* dx, void* dw, void* workspace, int threads) {
    switch (s.dtype) {
        case NAS_MIX_FLOAT32: run<float>(s, x, w, y, dy, dx, dw, workspace, threads); break;
        case NAS_MIX_FLOAT64: run<double>(s, x, w, y, dy, dx, dw, workspace, threads); break;
        case NAS_MIX_FLOAT16: run<Half>(s, x, w, y, dy, dx, dw, workspace, threads); break;
        case NAS_MIX_BFLOAT16: run<Bfloat>(s, x, w, y, dy, dx, dw, workspace, threads); break;
    }
}

}  // namespace
}  // namespace nas_taps

using namespace nas_taps;

NAS_EXPORT int64_t nas_taps_workspace(int dtype, int64_t batch, int64_t channels, int64_t height, int64_t width, int num_taps,
                                      const int64_t* offsets, int wants_dw, int num_threads) {
    const nas_taps::Shape s{{dtype, batch, channels, height, width, num_taps, offsets}};
    if (const int error = check(s)) return -error;
    if (s.count() == 0) return 0;
    const Tiles tiles = s.tiles(s.taps());
    return (tiles.elements * s.threads(num_threads) + (wants_dw ? s.slots(tiles) : 0)) * s.accumulator_size();
}

NAS_EXPORT int nas_taps_forward(int dtype, int64_t batch, int64_t channels, int64_t height, int64_t width, int num_taps,
                                const int64_t* offsets, const void* x, const void* w, void* y, void* workspace, int num_threads,
                                void* stream) {
    (void)stream;
    const nas_taps::Shape s{{dtype, batch, channels, height, width, num_taps, offsets}};
    const int error = check(s);
    if (error || s.count() == 0) return error;
    if (!x || !w || !y || !workspace) return NAS_MIX_NULL;
    run_type(s, x, w, y, nullptr, nullptr, nullptr, workspace, num_threads);
    return NAS_MIX_OK;
}

NAS_EXPORT int nas_taps_backward(int dtype, int64_t batch, int64_t channels, int64_t height, int64_t width, int num_taps,
                                 const int64_t* offsets, const void* x, const void* w, const void* dy, void* dx, void* dw,
                                 void* workspace, int num_threads, void* stream) {
    (void)stream;
    const nas_taps::Shape s{{dtype, batch, channels, height, width, num_taps, offsets}};
    const int error = check(s);
    if (error || (!dx && !dw)) return error;
    if (s.count() == 0) {
        if (dw) std::memset(dw, 0, size_t(channels * num_taps * s.accumulator_size()));
        return NAS_MIX_OK;
    }
    if (!dy || !workspace || (dw && !x) || (dx && !w)) return NAS_MIX_NULL;
    run_type(s, x, w, nullptr, dy, dx, dw, workspace, num_threads);
    return NAS_MIX_OK;
}
