// Launchers of the depthwise convolution with few taps behind taps.h: which kernel, on how many blocks.
#include "launch.cuh"
#include "taps.cuh"
#include "taps_shape.h"

#ifndef NAS_TAPS_BLOCKS  // macros because the tests under emulation make them smaller
#define NAS_TAPS_BLOCKS 2048  // of one launch for dw, about
#endif
#ifndef NAS_TAPS_CHUNK
#define NAS_TAPS_CHUNK 64  // tiles of one chunk of dw, at most: chains of 2048 sums in a lane
#endif

namespace nas_mix {
namespace {

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

int64_t vector_of(const TapsShape& s) { return s.dtype == NAS_MIX_FLOAT64 ? 2 : s.dtype == NAS_MIX_FLOAT32 ? 4 : 8; }

// Everything that follows from the shape and the offsets, which are turned for the gradient of the input. Whether there are tiles does
// not depend on alignment: windows are as large as vectors need.
struct TapsPlan {
    TapsArgs args = {};
    bool has_tiles;

    TapsPlan(const TapsShape& s, bool turned) {
        TapsArgs& a = args;
        a.channels = s.channels;
        a.height = s.height;
        a.width = s.width;
        a.num_taps = s.num_taps;
        int64_t low_y = 0, high_y = 0, low_x = 0, high_x = 0;
        for (int t = 0; t < s.num_taps; ++t) {
            const int64_t y = s.offsets[2 * t], x = s.offsets[2 * t + 1];
            if (y <= -s.height || y >= s.height || x <= -s.width || x >= s.width) {
                a.position[t] = -1;
                continue;
            }
            a.down[t] = turned ? -y : y;
            a.right[t] = turned ? -x : x;
            low_y = smaller(low_y, a.down[t]);
            high_y = larger(high_y, a.down[t]);
            low_x = smaller(low_x, a.right[t]);
            high_x = larger(high_x, a.right[t]);
        }
        const int64_t vector = vector_of(s), most = 1 << 20;  // more does not fit anyway, and the sizes below stay small
        low_x = -up(-low_x, vector) * vector;
        const int64_t span_y = smaller(high_y - low_y, most), span_x = smaller(high_x - low_x, most);
        // Of the widths whose window fits, the one with the least work: elements to copy, and products, also those beyond the image.
        has_tiles = false;
        double least = 0;
        for (int shift = vector == 2 ? 1 : vector == 4 ? 2 : 3; int64_t(1) << shift <= kTileOutputs; ++shift) {
            const int64_t columns = int64_t(1) << shift, rows = smaller(kTileOutputs >> shift, s.height);
            const int64_t stride = up(columns + span_x, vector) * vector, window = stride * (rows + span_y);
            if (window > NAS_TAPS_WINDOW_BYTES / s.accumulator_size()) continue;
            const double tiles = double(up(s.height, rows)) * double(up(s.width, columns));
            const double work = tiles * double(window + int64_t(s.num_taps) * kTileOutputs);
            if (has_tiles && work >= least) continue;
            has_tiles = true;
            least = work;
            a.shift = shift;
            a.rows = static_cast<int>(rows);
            a.stride = static_cast<int>(stride);
            a.window_rows = static_cast<int>(rows + span_y);
        }
        a.across = has_tiles ? up(s.width, int64_t(1) << a.shift) : 1;
        a.tiles = has_tiles ? up(s.height, a.rows) * a.across : 1;
        if (has_tiles) {
            a.low_y = low_y;
            a.low_x = static_cast<int>(low_x);
            for (int t = 0; t < s.num_taps; ++t)
                if (a.position[t] == 0) a.position[t] = static_cast<int>((a.down[t] - low_y) * a.stride + a.right[t] - low_x);
        }
        a.by_tiles = divisor(a.tiles);
        a.by_across = divisor(a.across);
        a.by_channels = divisor(s.channels);
        a.by_plane = divisor(s.height * s.width);
        a.by_width = divisor(s.width);
        // dw
        a.parts = has_tiles ? static_cast<int>(up(s.num_taps, kPartTaps)) : s.num_taps;
        a.per_channel = s.batch * (has_tiles ? a.tiles : s.height * s.width);
        const int64_t unit = has_tiles ? 1 : kTileOutputs, wanted = up(int64_t(NAS_TAPS_BLOCKS) * (has_tiles ? 1 : kWarps), s.channels * a.parts);
        a.chunk = smaller(up(up(a.per_channel, unit), wanted), NAS_TAPS_CHUNK) * unit;
        a.chunks = up(a.per_channel, a.chunk);
        a.by_chunks = divisor(a.chunks);
        a.by_parts = divisor(a.parts);
    }

    int64_t workspace(const TapsShape& s) const {
        return args.chunks == 1 ? 0 : s.channels * s.num_taps * args.chunks * s.accumulator_size();
    }
};

template <class T>
int taps_forward_of(const TapsShape& s, bool turned, const void* x, const void* w, void* y, void* stream) {
    TapsPlan p(s, turned);
    TapsArgs& a = p.args;
    a.x = x;
    a.w = w;
    a.y = y;
    if (!p.has_tiles) {
        a.items = s.count();
        return launch(taps_forward_direct<T>, a, up(a.items, kThreads), kThreads, stream);
    }
    a.items = s.batch * s.channels * a.tiles;
    const bool vector = aligned(x) && aligned(y) && s.width % kVector<T> == 0;
    return launch(vector ? taps_forward<T, true> : taps_forward<T, false>, a, a.items, kThreads, stream);
}

template <class T>
int taps_weight_of(const TapsShape& s, const void* x, const void* dy, void* dw, void* workspace, void* stream) {
    TapsPlan p(s, false);
    TapsArgs& a = p.args;
    a.x = x;
    a.dy = dy;
    a.partial = a.chunks == 1 ? dw : workspace;
    a.items = s.channels * a.parts * a.chunks;
    const bool vector = aligned(x) && aligned(dy) && s.width % kVector<T> == 0;
    const int error = p.has_tiles ? launch(vector ? taps_weight<T, true> : taps_weight<T, false>, a, a.items, kThreads, stream)
                                  : launch(taps_weight_direct<T>, a, up(a.items, kWarps), kThreads, stream);
    if (error || a.chunks == 1) return error;
    ReduceArgs r = {};
    r.partial = workspace;
    r.dw = dw;
    r.outputs = r.groups = s.channels * s.num_taps;
    r.lines = 1;
    r.run = a.chunks;
    return launch_reduce<Acc<T>>(r, stream);
}

template <class T>
int taps_backward_of(const TapsShape& s, const void* x, const void* w, const void* dy, void* dx, void* dw, void* workspace, void* stream) {
    const int error = dx ? taps_forward_of<T>(s, true, dy, w, dx, stream) : NAS_MIX_OK;
    return error || !dw ? error : taps_weight_of<T>(s, x, dy, dw, workspace, stream);
}

}  // namespace
}  // namespace nas_mix

NAS_EXPORT int64_t nas_taps_workspace(int dtype, int64_t batch, int64_t channels, int64_t height, int64_t width, int num_taps,
                                      const int64_t* offsets, int wants_dw, int) {
    const TapsShape s = {dtype, batch, channels, height, width, num_taps, offsets};
    if (const int error = check(s)) return -error;
    return wants_dw && s.count() ? nas_mix::TapsPlan(s, false).workspace(s) : 0;
}

NAS_EXPORT int nas_taps_forward(int dtype, int64_t batch, int64_t channels, int64_t height, int64_t width, int num_taps,
                                const int64_t* offsets, const void* x, const void* w, void* y, void*, int, void* stream) {
    using namespace nas_mix;
    const TapsShape s = {dtype, batch, channels, height, width, num_taps, offsets};
    const int error = check(s);
    if (error || s.count() == 0) return error;
    if (!x || !w || !y) return NAS_MIX_NULL;
    switch (dtype) {
        case NAS_MIX_FLOAT32: return taps_forward_of<float>(s, false, x, w, y, stream);
        case NAS_MIX_FLOAT64: return taps_forward_of<double>(s, false, x, w, y, stream);
        case NAS_MIX_FLOAT16: return taps_forward_of<Half>(s, false, x, w, y, stream);
        default: return taps_forward_of<BFloat16>(s, false, x, w, y, stream);
    }
}

NAS_EXPORT int nas_taps_backward(int dtype, int64_t batch, int64_t channels, int64_t height, int64_t width, int num_taps,
                                 const int64_t* offsets, const void* x, const void* w, const void* dy, void* dx, void* dw,
                                 void* workspace, int, void* stream) {
    using namespace nas_mix;
    const TapsShape s = {dtype, batch, channels, height, width, num_taps, offsets};
    if (const int error = check(s)) return error;
    if (!dx && !dw) return NAS_MIX_OK;
    if (s.count() == 0) {
        if (!dw || channels == 0) return NAS_MIX_OK;
        const size_t bytes = static_cast<size_t>(channels * num_taps * s.accumulator_size());
        return cudaMemsetAsync(dw, 0, bytes, static_cast<cudaStream_t>(stream)) == cudaSuccess ? NAS_MIX_OK : NAS_MIX_DEVICE;
    }
    if (!dy || (dw && !x) || (dx && !w)) return NAS_MIX_NULL;
    if (dw && !workspace && TapsPlan(s, false).workspace(s)) return NAS_MIX_NULL;
    switch (dtype) {
        case NAS_MIX_FLOAT32: return taps_backward_of<float>(s, x, w, dy, dx, dw, workspace, stream);
        case NAS_MIX_FLOAT64: return taps_backward_of<double>(s, x, w, dy, dx, dw, workspace, stream);
        case NAS_MIX_FLOAT16: return taps_backward_of<Half>(s, x, w, dy, dx, dw, workspace, stream);
        default: return taps_backward_of<BFloat16>(s, x, w, dy, dx, dw, workspace, stream);
    }
}
