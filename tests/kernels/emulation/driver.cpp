// Runs the launchers and kernels of mix.cu in emulation over shapes, K, types, groupings and alignments, against float64.
//
//     g++ -std=c++20 -fno-strict-aliasing -pthread -Ikernels -Itests/kernels/emulation tests/kernels/emulation/driver.cpp -o driver
//     ./driver [STEP [FIRST]]    every STEP-th case, by default each; with FIRST, from that on, and nothing but cases
//
// Most cases hold small integers, whose sums and products are exact: there every bit counts, and one element left out, counted twice or
// given to another group cannot hide in a tolerance. Prints the first mismatch and exits with 1.
#include "mix.cu"
// after it
#include "driver.h"

namespace {

struct Case {
    int dtype, k;
    int64_t n, groups, inner;
    int shift;        // elements past a 16-byte boundary
    bool weights, dw;
    int dx;           // 0: none wanted, 1: all, 2: every other
    bool integers;
};

[[noreturn]] void fail(const Case& c, const char* what, int64_t k, int64_t i, double expected, double got) {
    using Long = long long;
    std::printf("%s, k=%d n=%lld groups=%lld inner=%lld shift=%d weights=%d dw=%d dx=%d integers=%d: ", kName[c.dtype], c.k, Long(c.n),
                Long(c.groups), Long(c.inner), c.shift, c.weights, c.dw, c.dx, c.integers);
    std::printf("%s[%lld][%lld] is %.17g, expected %.17g\n", what, Long(k), Long(i), got, expected);
    std::exit(1);
}

// ---- one case -----------------------------------------------------------------------------------------------------------------------

// The bits of dw.
std::string run(const Case& c) {
    const int acc = c.dtype == NAS_MIX_FLOAT64 ? NAS_MIX_FLOAT64 : NAS_MIX_FLOAT32;
    const int size = size_of(c.dtype), acc_size = size_of(acc);
    state = 1 + static_cast<uint64_t>(c.n) * 64 + c.k;
    std::vector<std::unique_ptr<Buffer>> x, dx;
    std::vector<const void*> px;
    std::vector<void*> pdx;
    for (int k = 0; k < c.k; ++k) {
        x.push_back(std::make_unique<Buffer>(c.n, size, c.shift));
        dx.push_back(std::make_unique<Buffer>(c.n, size, c.shift));
        for (int64_t i = 0; i < c.n; ++i) set(x[k]->data(), i, c.dtype, draw(c.integers));
        px.push_back(x[k]->data());
        pdx.push_back(c.dx == 1 || (c.dx == 2 && k % 2) ? dx[k]->data() : nullptr);
    }
    Buffer w(c.k * c.groups, acc_size, 0), dw(c.k * c.groups, acc_size, 0), y(c.n, size, c.shift), dy(c.n, size, c.shift);
    for (int64_t i = 0; i < c.k * c.groups; ++i) set(w.data(), i, acc, draw(c.integers));
    for (int64_t i = 0; i < c.n; ++i) set(dy.data(), i, c.dtype, draw(c.integers));
    const void* pw = c.weights ? w.data() : nullptr;
    const int64_t bytes = nas_mix_workspace(c.dtype, c.k, c.n, c.groups, c.inner);
    expect(bytes >= 0, "nas_mix_workspace");
    Buffer workspace(bytes, 1, 0);

    expect(nas_mix_forward(c.dtype, c.k, c.n, c.groups, c.inner, px.data(), pw, y.data(), 1, nullptr) == NAS_MIX_OK, "nas_mix_forward");
    expect(nas_mix_backward(c.dtype, c.k, c.n, c.groups, c.inner, px.data(), pw, dy.data(), c.dx ? pdx.data() : nullptr,
                            c.dw ? dw.data() : nullptr, c.dw && bytes ? workspace.data() : nullptr, 1, nullptr) == NAS_MIX_OK,
           "nas_mix_backward");

    std::vector<double> sum(c.k * c.groups), magnitude(c.k * c.groups);
    for (int64_t i = 0; i < c.n; ++i) {
        const int64_t g = i / c.inner % c.groups;
        const double gradient = get(dy.data(), i, c.dtype);
        double exact = 0, total = 0;
        for (int k = 0; k < c.k; ++k) {
            const double weight = c.weights ? get(w.data(), k * c.groups + g, acc) : 1, value = get(px[k], i, c.dtype);
            exact += weight * value;
            total += std::fabs(weight * value);
            sum[k * c.groups + g] += gradient * value;
            magnitude[k * c.groups + g] += std::fabs(gradient * value);
            if (c.dx && pdx[k]) {
                const double got = get(pdx[k], i, c.dtype), product = weight * gradient;
                if (!is_close(got, product, std::fabs(product), 1, c.dtype, c.integers)) fail(c, "dx", k, i, product, got);
            }
        }
        const double got = get(y.data(), i, c.dtype);
        if (!is_close(got, exact, total, c.k + 1, c.dtype, c.integers)) fail(c, "y", 0, i, exact, got);
    }
    for (int k = 0; k < c.k; ++k) {
        for (int64_t i = 0; i < c.n && !(c.dx && pdx[k]); ++i)
            if (!std::isnan(get(dx[k]->data(), i, c.dtype))) fail(c, "dx that nobody asked for", k, i, NAN, get(dx[k]->data(), i, c.dtype));
        for (int64_t g = 0; g < c.groups && c.dw; ++g) {
            const int64_t at = k * c.groups + g;
            const double got = get(dw.data(), at, acc), terms = static_cast<double>(c.n / c.groups + 1);
            if (!is_close(got, sum[at], magnitude[at], terms, acc, c.integers)) fail(c, "dw", k, g, sum[at], got);
        }
    }
    return {static_cast<const char*>(dw.data()), dw.bytes()};
}

std::vector<Case> cases() {
    // n, groups, inner
    constexpr int64_t kShapes[][3] = {
        {0, 1, 1},       {1, 1, 1},      {3, 1, 3},      {7, 1, 7},       {64, 1, 64},    {257, 1, 257},  {1000, 1, 1000},
        {4099, 1, 4099},                                     // several vectors a lane, several tiles
        {0, 3, 1},       {0, 3, 16},
        {3 * 128, 3, 128}, {5 * 37, 5, 37}, {2 * 1031, 2, 1031}, {20 * 8, 20, 8},    // per sample
        {2 * 3 * 64, 3, 64}, {3 * 4 * 72, 4, 72}, {2 * 2 * 1024, 2, 1024},           // per channel, long runs
        {2 * 3 * 49, 3, 49}, {17 * 2 * 16, 2, 16}, {5 * 8 * 4, 8, 4},                // short runs
        {6 * 8, 8, 1},   {33 * 5, 5, 1}, {40 * 24, 24, 1}, {140 * 16, 16, 1}, {3 * 200, 200, 1},  // channels_last
        {2 * 40 * 2, 40, 2},                                                         // more outputs than a block sums one by one
        {21, 21, 1},     {26, 2, 13},                                                // a weight per element; columns cut short
    };
    constexpr int kK[] = {5, 2, 1, 8, 3, 9, 4, 7, 6, 13};
    std::vector<Case> result;
    int turn = 0;
    for (int dtype = 0; dtype < 4; ++dtype) {
        for (const auto& [n, groups, inner] : kShapes) {
            for (const int variant : {0, 1, 2}) {
                Case c = {dtype, kK[turn % 10], n, groups, inner, 0, true, true, 1, true};
                if (n > 2000 && c.k > 5) c.k = 5 - turn % 2;
                ++turn;
                if (variant == 1) c.integers = false, c.dx = 2, c.shift = turn % 3 == 0;
                if (variant == 2) c.shift = 1 + turn % 3, c.weights = turn % 4 != 0, c.dw = turn % 3 != 0, c.dx = turn % 5 != 0;
                result.push_back(c);
            }
        }
        result.push_back({dtype, NAS_MIX_MAX_K, 133, 1, 133, 0, true, true, 1, true});
        result.push_back({dtype, NAS_MIX_MAX_K - 1, 4 * 12, 12, 1, 0, true, true, 1, true});
        for (int k = 1; k <= 9; ++k) result.push_back({dtype, k, 41, 1, 41, 0, k != 4, k != 4, 1, true});
    }
    return result;
}

// ---- apart from cases ---------------------------------------------------------------------------------------------------------------

// The same bits of dw for every device, grid and alignment.
void determinism() {
    for (int dtype = 0; dtype < 4; ++dtype) {
        for (const auto& [n, groups, inner] : {std::array<int64_t, 3>{3001, 1, 3001}, {140 * 16, 16, 1}, {3 * 4 * 72, 4, 72}}) {
            Case c = {dtype, 3, n, groups, inner, 0, true, true, 1, false};
            simt::num_processors = 1;
            const std::string bits = run(c);
            simt::num_processors = 5;
            expect(run(c) == bits, "dw does not depend on the number of processors");
            c.shift = 1;
            expect(run(c) == bits, "dw does not depend on alignment");
            simt::num_processors = 1;
        }
    }
}

void divisors() {
    state = 7;
    for (int trial = 0; trial < 200000; ++trial) {
        draw(true);
        const int64_t d = trial < 5000 ? trial + 1 : static_cast<int64_t>(state >> (1 + trial % 62) | 1);
        draw(true);
        const int64_t x = static_cast<int64_t>(state >> (1 + trial / 62 % 62));
        const nas_mix::Divisor divisor = nas_mix::divisor(d);
        for (const int64_t value : {x, x / d * d, x / d * d - 1, INT64_MAX / d * d, INT64_MAX / d * d - 1, INT64_MAX})
            if (value >= 0) expect(divisor.of(value) == value / d, "Divisor");
    }
}

// All 65536 values through a copy (K = 1, no weights), and what rounding makes of halfway cases and their neighbours.
void conversions() {
    for (const int dtype : {NAS_MIX_FLOAT16, NAS_MIX_BFLOAT16}) {
        std::vector<uint16_t> in(65536), out(65536);
        for (int bits = 0; bits < 65536; ++bits) in[bits] = static_cast<uint16_t>(bits);
        const void* x = in.data();
        expect(nas_mix_forward(dtype, 1, 65536, 1, 65536, &x, nullptr, out.data(), 1, nullptr) == NAS_MIX_OK, "a copy");
        for (int bits = 0; bits < 65536; ++bits) {
            const double a = get(in.data(), bits, dtype), b = get(out.data(), bits, dtype);
            expect(a == 0 ? b == 0 : std::isnan(a) ? std::isnan(b) : in[bits] == out[bits], "a copy has the same bits");
        }
        for (const float w : {1 + 0x1p-8f, 1 + 0x1p-9f, 1 + 0x1p-11f, 1 + 0x1p-12f, 0x1.8p-1f, 0x1p-3f, 0x1p5f}) {
            expect(nas_mix_forward(dtype, 1, 65536, 1, 65536, &x, &w, out.data(), 1, nullptr) == NAS_MIX_OK, "a product");
            for (int bits = 0; bits < 65536; ++bits) {
                const double a = get(in.data(), bits, dtype), b = get(out.data(), bits, dtype);
                if (!std::isfinite(a)) continue;
                const double exact = rounded(rounded(a * w, NAS_MIX_FLOAT32), dtype);
                expect(std::fabs(exact) > 0x1.fep127 || b == exact, "a product is rounded once, to nearest even");
            }
        }
    }
}

void errors() {
    float value = 0;
    const void* x[NAS_MIX_MAX_K] = {&value};
    void* dx[NAS_MIX_MAX_K] = {};
    const auto forward = [&](int dtype, int k, int64_t n, int64_t groups, int64_t inner) {
        expect(nas_mix_workspace(dtype, k, n, groups, inner) <= 0, "workspace");
        return nas_mix_forward(dtype, k, n, groups, inner, x, nullptr, &value, 1, nullptr);
    };
    expect(nas_mix_abi() == NAS_MIX_ABI && nas_mix_build()[0], "about the library");
    expect(forward(4, 1, 1, 1, 1) == NAS_MIX_BAD_DTYPE && forward(-1, 1, 1, 1, 1) == NAS_MIX_BAD_DTYPE, "dtype");
    expect(forward(0, 0, 1, 1, 1) == NAS_MIX_BAD_K && forward(0, 65, 1, 1, 1) == NAS_MIX_BAD_K, "K");
    expect(forward(0, 1, -1, 1, 1) == NAS_MIX_BAD_SIZE && forward(0, 1, 1, 0, 1) == NAS_MIX_BAD_SIZE, "sizes");
    expect(forward(0, 1, 1, 1, 0) == NAS_MIX_BAD_SIZE && forward(0, 1, 7, 2, 1) == NAS_MIX_BAD_SIZE, "sizes");
    expect(forward(0, 1, 6, 2, 2) == NAS_MIX_BAD_SIZE, "n is whole periods");
    expect(nas_mix_workspace(0, 65, 1, 1, 1) == -NAS_MIX_BAD_K, "workspace says so too");
    expect(forward(0, 2, 1, 1, 1) == NAS_MIX_NULL, "x[1] is null");
    expect(nas_mix_forward(0, 1, 1, 1, 1, x, nullptr, nullptr, 1, nullptr) == NAS_MIX_NULL, "y is null");
    expect(nas_mix_forward(0, 1, 0, 1, 1, nullptr, nullptr, nullptr, 1, nullptr) == NAS_MIX_OK, "nothing to do");
    const auto backward = [&](const void* const* from, const void* dy, void* const* to, void* dw) {
        return nas_mix_backward(0, 1, 1, 1, 1, from, nullptr, dy, to, dw, nullptr, 1, nullptr);
    };
    expect(backward(nullptr, nullptr, nullptr, nullptr) == NAS_MIX_OK, "no gradient wanted");
    expect(backward(x, &value, dx, nullptr) == NAS_MIX_OK, "no gradient wanted");
    expect(backward(nullptr, &value, nullptr, &value) == NAS_MIX_NULL, "x is null");
    expect(backward(x, nullptr, nullptr, &value) == NAS_MIX_NULL, "dy is null");
    std::vector<float> many(1000), sums(2);
    const void* two[] = {many.data(), many.data()};
    const auto needs_workspace = [&](void* workspace) {
        return nas_mix_backward(0, 2, 1000, 1, 1000, two, nullptr, many.data(), nullptr, sums.data(), workspace, 1, nullptr);
    };
    expect(needs_workspace(nullptr) == NAS_MIX_NULL, "the workspace is null");
    std::vector<char> workspace(nas_mix_workspace(0, 2, 1000, 1, 1000));
    expect(!workspace.empty() && needs_workspace(workspace.data()) == NAS_MIX_OK, "the workspace");
    for (const int launch : {1, 2}) {
        simt::fail_launch = launch;
        expect(needs_workspace(workspace.data()) == NAS_MIX_DEVICE, "a launch that fails is reported");
    }
    expect(simt::fail_launch == 0, "backward launches two kernels");
}

}  // namespace

int main(int argc, char** argv) {
    return run_cases(argc, argv, cases(), [] {
        errors();
        divisors();
        determinism();
        conversions();
    });
}
