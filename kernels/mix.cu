// Launchers of the weighted K-ary sum behind mix.h: which kernel, on how many blocks. No allocation, no synchronisation: what is launched
// depends on the arguments alone and may be captured in a CUDA graph.
#include "launch.cuh"
#include "mix.cuh"

#ifndef NAS_MIX_UNROLLED_K  // a macro because the tests under emulation make it smaller
#define NAS_MIX_UNROLLED_K 8  // kernels of their own up to this K
#endif
#define NAS_MIX_TEXT(...) #__VA_ARGS__
#define NAS_MIX_TEXT_OF(...) NAS_MIX_TEXT(__VA_ARGS__)

namespace nas_mix {
namespace {

constexpr int64_t kShortRun = 64;      // elements; shorter contiguous runs of a group are columns
constexpr int64_t kRowsPerThread = 8;  // at least, of a chunk of rows

int64_t greatest_common_divisor(int64_t a, int64_t b) { return b ? greatest_common_divisor(b, a % b) : a; }

struct Shape {
    int dtype, k;
    int64_t n, groups, inner;

    int64_t size() const { return dtype == NAS_MIX_FLOAT32 ? 4 : dtype == NAS_MIX_FLOAT64 ? 8 : 2; }
    int64_t accumulator_size() const { return dtype == NAS_MIX_FLOAT64 ? 8 : 4; }
    int64_t vector() const { return 16 / size(); }
};

int check(const Shape& s) {
    if (s.dtype < NAS_MIX_FLOAT32 || s.dtype > NAS_MIX_BFLOAT16) return NAS_MIX_BAD_DTYPE;
    if (s.k < 1 || s.k > NAS_MIX_MAX_K) return NAS_MIX_BAD_K;
    if (s.n < 0 || s.groups < 1 || s.inner < 1) return NAS_MIX_BAD_SIZE;
    if (s.groups > 1 && (s.n % s.groups || s.n / s.groups % s.inner)) return NAS_MIX_BAD_SIZE;
    return NAS_MIX_OK;
}

// How dw is summed: a matter of the shape alone.
struct Plan {
    bool by_columns = false;
    int64_t inner = 1;                                     // of the shape, or n where there is one group
    int64_t vectors = 0, rest = 0, tile = 1, tiles = 1;    // by tiles
    int64_t columns = 1, rows = 0, chunk = 1, chunks = 1;  // by columns
    int64_t lines = 1, run = 1;                            // the partial sums are [k][lines][groups][run]
};

Plan plan(const Shape& s) {
    Plan p;
    const int64_t vector = s.vector();
    p.inner = s.groups == 1 ? (s.n ? s.n : 1) : s.inner;
    const bool one_run = s.n / s.groups <= p.inner;  // a group is contiguous
    p.by_columns = s.n > 0 && s.groups > 1 && (p.inner == 1 || (!one_run && (p.inner < kShortRun || p.inner % vector)));
    if (!p.by_columns) {
        const int64_t length = s.n / s.groups;
        p.vectors = length / vector;
        p.rest = length % vector;
        const int64_t most = up(p.vectors, kWarp), wanted = up(NAS_MIX_TILES, s.groups);
        p.tile = most ? up(most, most < wanted ? most : wanted) * kWarp : kWarp;
        p.tiles = p.vectors ? up(p.vectors, p.tile) : 1;
        p.run = p.tiles;
        return p;
    }
    // Periods are folded until strips are full, where there are rows enough for that.
    const int64_t period = s.groups * p.inner, periods = s.n / period, width = kWarp * (s.size() == 8 ? 2 : 4), warps = kThreads / kWarp;
    const int64_t full = width / greatest_common_divisor(period, width), fold = periods >= full * warps * kRowsPerThread ? full : 1;
    p.columns = period * fold;
    p.rows = up(periods, fold);
    const int64_t most = up(p.rows, warps * kRowsPerThread), wanted = up(up(NAS_MIX_TILES, warps), up(p.columns, width));
    p.chunk = up(p.rows, most < wanted ? most : wanted);
    p.chunks = up(p.rows, p.chunk);
    p.lines = p.chunks * fold;
    p.run = p.inner;
    return p;
}

int64_t workspace(const Shape& s, const Plan& p) {
    return p.lines * p.run == 1 ? 0 : s.k * p.lines * s.groups * p.run * s.accumulator_size();
}

// ---- launching ----------------------------------------------------------------------------------------------------------------------

template <class T>
constexpr int kUnrolled = sizeof(T) == 8 && NAS_MIX_UNROLLED_K > kBatch ? kBatch : NAS_MIX_UNROLLED_K;  // more would spill

template <class T, int K>
void (*forward_kernel(int k))(ForwardArgs) {
    if constexpr (K == 0)
        return forward_uniform<T, 0>;
    else
        return k == K ? forward_uniform<T, K> : forward_kernel<T, K - 1>(k);
}

template <class T, int K>
void (*tiles_kernel(int k))(BackwardArgs) {
    if constexpr (K == 0)
        return backward_tiles<T, 0, true>;
    else
        return k == K ? backward_tiles<T, K, true> : tiles_kernel<T, K - 1>(k);
}

template <class T>
int forward(const Shape& s, const void* const* x, const void* w, void* y, void* stream) {
    ForwardArgs a = {};
    bool vector = aligned(y);
    for (int k = 0; k < s.k; ++k) vector = aligned(a.x[k] = x[k]) && vector;
    a.w = w;
    a.y = y;
    a.n = s.n;
    a.groups = w ? s.groups : 1;
    a.inner = a.groups == 1 ? s.n : s.inner;
    a.by_inner = divisor(a.inner);
    a.by_groups = divisor(a.groups);
    a.k = s.k;
    if (!vector) return launch(forward_scalar<T>, a, up(s.n, kThreads), kThreads, stream);
    const bool uniform = a.groups == 1 || a.inner % kVector<T> == 0;
    return launch(uniform ? forward_kernel<T, kUnrolled<T>>(s.k) : forward_mixed<T>, a, up(s.n, kVector<T> * kThreads), kThreads,
                  stream);
}

template <class T>
int backward(const Shape& s, const void* const* x, const void* w, const void* dy, void* const* dx, void* dw, void* workspace,
             void* stream) {
    const Plan p = plan(s);
    BackwardArgs a = {};
    bool vector = aligned(dy);
    for (int k = 0; k < s.k; ++k) {
        if (dw && s.n) vector = aligned(a.x[k] = x[k]) && vector;
        if (dx && s.n) vector = aligned(a.dx[k] = dx[k]) && vector;
    }
    a.w = w;
    a.dy = dy;
    const bool direct = p.lines * p.run == 1;
    a.partial = direct || !dw ? dw : workspace;
    a.n = s.n;
    a.groups = s.groups;
    a.inner = p.inner;
    a.k = s.k;
    a.by_inner = divisor(p.inner);
    a.by_groups = divisor(s.groups);
    int error;
    if (p.by_columns) {
        vector = vector && s.groups * p.inner % kColumns<T> == 0;
        a.columns = p.columns;
        a.chunk = p.chunk;
        a.chunks = p.chunks;
        a.strips = up(p.columns, kWarp * (vector ? kColumns<T> : 1));
        a.by_strips = divisor(a.strips);
        a.parts = static_cast<int>(up(s.k, kBatch));
        a.by_parts = divisor(a.parts);
        error = launch(vector ? backward_columns<T, kColumns<T>> : backward_columns<T, 1>, a, a.strips * a.chunks * a.parts, kThreads,
                       stream);
    } else {
        vector = vector && (s.groups == 1 || p.inner % kVector<T> == 0);
        a.vectors = p.vectors;
        a.rest = p.rest;
        a.tile = p.tile;
        a.tiles = p.tiles;
        a.by_tiles = divisor(p.tiles);
        const int64_t run = p.inner / kVector<T>;
        a.by_run = divisor(run ? run : 1);
        a.parts = vector && s.k <= kUnrolled<T> ? 1 : static_cast<int>(up(s.k, kBatch));
        a.by_parts = divisor(a.parts);
        error = launch(vector ? tiles_kernel<T, kUnrolled<T>>(s.k) : backward_tiles<T, 0, false>, a,
                       up(s.groups * p.tiles * a.parts, kThreads / kWarp), kThreads, stream);
    }
    if (error || !dw || direct) return error;
    ReduceArgs r = {};
    r.partial = workspace;
    r.dw = dw;
    r.outputs = s.k * s.groups;
    r.lines = p.lines;
    r.groups = s.groups;
    r.run = p.run;
    return launch_reduce<Acc<T>>(r, stream);
}

}  // namespace
}  // namespace nas_mix

NAS_EXPORT int nas_mix_abi(void) { return NAS_MIX_ABI; }

NAS_EXPORT const char* nas_mix_build(void) {
#ifdef __CUDACC__
    return "nvcc " NAS_MIX_TEXT_OF(__CUDACC_VER_MAJOR__) "." NAS_MIX_TEXT_OF(__CUDACC_VER_MINOR__) ", architectures " NAS_MIX_TEXT_OF(
        __CUDA_ARCH_LIST__);
#else
    return "emulation";
#endif
}

NAS_EXPORT int64_t nas_mix_workspace(int dtype, int k, int64_t n, int64_t groups, int64_t inner) {
    const nas_mix::Shape shape = {dtype, k, n, groups, inner};
    const int error = nas_mix::check(shape);
    return error ? -error : nas_mix::workspace(shape, nas_mix::plan(shape));
}

NAS_EXPORT int nas_mix_forward(int dtype, int k, int64_t n, int64_t groups, int64_t inner, const void* const* x, const void* w, void* y,
                               int, void* stream) {
    using namespace nas_mix;
    const Shape shape = {dtype, k, n, groups, inner};
    if (const int error = check(shape)) return error;
    if (n == 0) return NAS_MIX_OK;
    if (!x || !y) return NAS_MIX_NULL;
    for (int c = 0; c < k; ++c)
        if (!x[c]) return NAS_MIX_NULL;
    switch (dtype) {
        case NAS_MIX_FLOAT32: return forward<float>(shape, x, w, y, stream);
        case NAS_MIX_FLOAT64: return forward<double>(shape, x, w, y, stream);
        case NAS_MIX_FLOAT16: return forward<Half>(shape, x, w, y, stream);
        default: return forward<BFloat16>(shape, x, w, y, stream);
    }
}

NAS_EXPORT int nas_mix_backward(int dtype, int k, int64_t n, int64_t groups, int64_t inner, const void* const* x, const void* w,
                                const void* dy, void* const* dx, void* dw, void* workspace, int, void* stream) {
    using namespace nas_mix;
    const Shape shape = {dtype, k, n, groups, inner};
    if (const int error = check(shape)) return error;
    bool any = dw != nullptr;
    for (int c = 0; c < k && dx && n; ++c) any = any || dx[c];
    if (!any) return NAS_MIX_OK;
    if (n && (!dy || (dw && !x))) return NAS_MIX_NULL;
    for (int c = 0; c < k && dw && n; ++c)
        if (!x[c]) return NAS_MIX_NULL;
    if (dw && !workspace && nas_mix_workspace(dtype, k, n, groups, inner)) return NAS_MIX_NULL;
    switch (dtype) {
        case NAS_MIX_FLOAT32: return backward<float>(shape, x, w, dy, dx, dw, workspace, stream);
        case NAS_MIX_FLOAT64: return backward<double>(shape, x, w, dy, dx, dw, workspace, stream);
        case NAS_MIX_FLOAT16: return backward<Half>(shape, x, w, dy, dx, dw, workspace, stream);
        default: return backward<BFloat16>(shape, x, w, dy, dx, dw, workspace, stream);
    }
}
