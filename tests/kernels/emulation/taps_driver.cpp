// Runs the launchers and kernels of taps.cu in emulation over shapes, offsets, types and alignments, against float64.
//
//     g++ -std=c++20 -fno-strict-aliasing -pthread -Ikernels -Itests/kernels/emulation tests/kernels/emulation/taps_driver.cpp -o driver
//     ./driver [STEP [FIRST]]    every STEP-th case, by default each; with FIRST, from that on, and nothing but cases
//
// Most cases hold small integers, whose sums and products are exact, as in driver.cpp. Prints the first mismatch and exits with 1.
#include "taps.cu"
// after it
#include "driver.h"

namespace {

using Offsets = std::vector<int64_t>;

struct Case {
    int dtype;
    int64_t batch, channels, height, width;
    Offsets offsets;
    int shift;  // elements past a 16-byte boundary
    bool dx, dw, integers;
    bool infinite = false;  // x in the last column: no sum of dw that ends before it may notice

    int64_t count() const { return batch * channels * height * width; }
    int taps() const { return static_cast<int>(offsets.size() / 2); }
    int64_t workspace(bool wants_dw) const {
        return nas_taps_workspace(dtype, batch, channels, height, width, taps(), offsets.data(), wants_dw, 1);
    }
};

[[noreturn]] void fail(const Case& c, const char* what, int64_t i, double expected, double got) {
    using Long = long long;
    std::printf("%s, %lld x %lld x %lld x %lld, %d taps, shift=%d dx=%d dw=%d integers=%d: ", kName[c.dtype], Long(c.batch), Long(c.channels),
                Long(c.height), Long(c.width), c.taps(), c.shift, c.dx, c.dw, c.integers);
    std::printf("%s[%lld] is %.17g, expected %.17g\n", what, Long(i), got, expected);
    std::exit(1);
}

// ---- one case -----------------------------------------------------------------------------------------------------------------------

// The bits of dw.
std::string run(const Case& c) {
    const int acc = c.dtype == NAS_MIX_FLOAT64 ? NAS_MIX_FLOAT64 : NAS_MIX_FLOAT32, size = size_of(c.dtype), num = c.taps();
    const int64_t n = c.count(), plane = c.height * c.width, weights = c.channels * num;
    state = 1 + static_cast<uint64_t>(n) * 64 + num;
    Buffer x(n, size, c.shift), y(n, size, c.shift), dy(n, size, c.shift), dx(n, size, c.shift);
    Buffer w(weights, size_of(acc), 0), dw(weights, size_of(acc), 0);
    for (int64_t i = 0; i < n; ++i) set(x.data(), i, c.dtype, c.infinite && i % c.width == c.width - 1 ? INFINITY : draw(c.integers));
    for (int64_t i = 0; i < n; ++i) set(dy.data(), i, c.dtype, draw(c.integers));
    for (int64_t i = 0; i < weights; ++i) set(w.data(), i, acc, draw(c.integers));
    expect(c.workspace(false) == 0, "forward needs no workspace");
    const int64_t bytes = c.workspace(true);
    expect(bytes >= 0, "nas_taps_workspace");
    Buffer workspace(bytes, 1, 0);

    expect(nas_taps_forward(c.dtype, c.batch, c.channels, c.height, c.width, num, c.offsets.data(), x.data(), w.data(), y.data(), nullptr,
                            1, nullptr) == NAS_MIX_OK,
           "nas_taps_forward");
    expect(nas_taps_backward(c.dtype, c.batch, c.channels, c.height, c.width, num, c.offsets.data(), c.dw ? x.data() : nullptr,
                             c.dx ? w.data() : nullptr, dy.data(), c.dx ? dx.data() : nullptr, c.dw ? dw.data() : nullptr,
                             c.dw && bytes ? workspace.data() : nullptr, 1, nullptr) == NAS_MIX_OK,
           "nas_taps_backward");

    struct Sum {
        double value = 0, magnitude = 0;
        int64_t terms = 1;
        void add(double term) { value += term, magnitude += std::fabs(term), ++terms; }
    };
    std::vector<Sum> result(n), back(n), sums(weights);
    for (int64_t p = 0; p < c.batch * c.channels; ++p) {
        for (int t = 0; t < num; ++t) {
            const int64_t tap = p % c.channels * num + t, down = c.offsets[2 * t], right = c.offsets[2 * t + 1];
            if (down <= -c.height || down >= c.height || right <= -c.width || right >= c.width) continue;
            for (int64_t i = 0; i < plane; ++i) {
                const int64_t row = i / c.width + down, column = i % c.width + right;
                if (row < 0 || row >= c.height || column < 0 || column >= c.width) continue;
                const int64_t to = p * plane + i, of = p * plane + row * c.width + column;
                const double gradient = get(dy.data(), to, c.dtype), value = get(x.data(), of, c.dtype), weight = get(w.data(), tap, acc);
                result[to].add(weight * value);
                back[of].add(weight * gradient);
                sums[tap].add(gradient * value);
            }
        }
    }
    const auto compare = [&](const char* what, Buffer& buffer, int64_t i, int type, const Sum& sum, bool wanted) {
        const double got = get(buffer.data(), i, type);
        if (!wanted && !std::isnan(got)) fail(c, what, i, NAN, got);
        if (!wanted || !std::isfinite(sum.value)) return;
        if (!is_close(got, sum.value, sum.magnitude, static_cast<double>(sum.terms), type, c.integers)) fail(c, what, i, sum.value, got);
    };
    for (int64_t i = 0; i < n && !c.infinite; ++i) compare("y", y, i, c.dtype, result[i], true);
    for (int64_t i = 0; i < n; ++i) compare("dx", dx, i, c.dtype, back[i], c.dx);
    for (int64_t i = 0; i < weights; ++i) compare("dw", dw, i, acc, sums[i], c.dw);
    return {static_cast<const char*>(dw.data()), dw.bytes()};
}

// The taps of several dilated kernels of size 3, or 3 x 3.
Offsets dilated(int most, bool is_flat) {
    Offsets offsets = {0, 0};
    for (int d = 1; d <= most; ++d)
        for (int i = is_flat ? 0 : -1; i <= (is_flat ? 0 : 1); ++i)
            for (int j = -1; j <= 1; ++j)
                if (i || j) offsets.insert(offsets.end(), {i * d, j * d});
    return offsets;
}

std::vector<Case> cases() {
    struct Shape {
        int64_t batch, channels, height, width;
        Offsets offsets;
    };
    Offsets many;
    for (int t = 0; t < NAS_TAPS_MAX; ++t) many.insert(many.end(), {t % 11 - 5, t % 13 - 6});
    const std::vector<Shape> shapes = {
        {2, 3, 16, 16, dilated(2, false)},
        {1, 2, 1, 300, dilated(4, true)},                      // several tiles of one row
        {2, 1, 40, 24, {-3, 1, 0, 0, 2, -5}},                  // of several
        {3, 2, 7, 7, dilated(1, false)},
        {1, 1, 9, 40, {0, 8, 0, -8, 8, 39, -8, -39}},          // near the corners
        {5, 2, 5, 8, {1, 1, 1, 1, 0, 0}},                      // the same twice; several chunks
        {1, 1, 37, 33, {-36, 0, 36, 32, 5, -1, 0, 0}},         // far apart: no tiles
        {2, 2, 1, 500, {0, -400, 0, 499, 0, 3}},
        {1, 2, 12, 16, {0, 1, 12, 0, 0, -16, INT64_MAX, INT64_MIN}},  // that never meet the image
        {2, 2, 3, 5, {3, 5}},                                  // only such
        {1, 1, 10, 12, many},
        {1, 1, 1, 1, {0, 0}},
        {0, 2, 4, 4, {0, 0}}, {2, 0, 4, 4, {0, 0}}, {2, 2, 0, 4, {0, 0, 1, 1}},
        {11, 1, 3, 4, {0, -1, 0, 1}},
    };
    std::vector<Case> result;
    int turn = 0;
    for (int dtype = 0; dtype < 4; ++dtype) {
        for (const Shape& s : shapes) {
            for (const int variant : {0, 1}) {
                ++turn;
                Case c = {dtype, s.batch, s.channels, s.height, s.width, s.offsets, 0, true, true, true};
                if (variant == 1) c.shift = turn % 3, c.integers = turn % 4 < 2, c.dx = turn % 5 != 0, c.dw = turn % 7 != 0;
                result.push_back(c);
            }
        }
        result.push_back({dtype, 1, 1, 3, 19, {0, -3, 1, -1}, 0, false, true, true, true});
    }
    return result;
}

// ---- apart from cases ---------------------------------------------------------------------------------------------------------------

void determinism() {
    for (int dtype = 0; dtype < 4; ++dtype) {
        for (const auto& offsets : {dilated(2, false), Offsets{-23, 9, 0, 0, 23, -9}}) {
            Case c = {dtype, 5, 1, 24, 16, offsets, 0, false, true, false};
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

void errors() {
    float memory[4] = {}, w[4] = {};
    const int64_t offsets[2 * NAS_TAPS_MAX + 2] = {}, huge = int64_t(1) << 31;
    const auto forward = [&](int dtype, int64_t batch, int64_t channels, int64_t height, int64_t width, int num) {
        const int error = nas_taps_forward(dtype, batch, channels, height, width, num, offsets, memory, w, memory + 2, nullptr, 1, nullptr);
        expect(nas_taps_workspace(dtype, batch, channels, height, width, num, offsets, 1, 1) == -error, "workspace says so too");
        return error;
    };
    expect(forward(4, 1, 1, 1, 1, 1) == NAS_MIX_BAD_DTYPE && forward(-1, 1, 1, 1, 1, 1) == NAS_MIX_BAD_DTYPE, "dtype");
    expect(forward(0, 1, 1, 1, 1, 0) == NAS_MIX_BAD_K && forward(0, 1, 1, 1, 1, NAS_TAPS_MAX + 1) == NAS_MIX_BAD_K, "number of taps");
    expect(forward(0, -1, 1, 1, 1, 1) == NAS_MIX_BAD_SIZE && forward(0, 1, 1, 1, -1, 1) == NAS_MIX_BAD_SIZE, "sizes");
    expect(forward(0, huge, huge, 2, 0, 1) == NAS_MIX_BAD_SIZE, "the product");
    expect(forward(0, 1, 1, 1, 1, 1) == NAS_MIX_OK && forward(0, 0, 1, 1, 1, 1) == NAS_MIX_OK, "no error");
    const auto with = [&](const int64_t* o, const void* x, const void* weights, void* y) {
        return nas_taps_forward(0, 1, 1, 1, 1, 1, o, x, weights, y, nullptr, 1, nullptr);
    };
    expect(with(nullptr, memory, w, memory + 2) == NAS_MIX_NULL && with(offsets, nullptr, w, memory) == NAS_MIX_NULL, "null");
    expect(with(offsets, memory, nullptr, memory) == NAS_MIX_NULL && with(offsets, memory, w, nullptr) == NAS_MIX_NULL, "null");
    std::vector<float> x(2000), dy(2000), dw(2);
    const int64_t two[] = {0, 0, 0, 1};
    const auto backward = [&](const void* from, const void* grad, void* to, void* workspace) {
        return nas_taps_backward(0, 1, 1, 1, 2000, 2, two, from, w, grad, nullptr, to, workspace, 1, nullptr);
    };
    expect(backward(nullptr, nullptr, nullptr, nullptr) == NAS_MIX_OK, "no gradient wanted");
    std::vector<char> workspace(nas_taps_workspace(0, 1, 1, 1, 2000, 2, two, 1, 1));
    expect(!workspace.empty() && backward(x.data(), dy.data(), dw.data(), nullptr) == NAS_MIX_NULL, "the workspace is null");
    expect(backward(nullptr, dy.data(), dw.data(), workspace.data()) == NAS_MIX_NULL, "x is null");
    expect(backward(x.data(), nullptr, dw.data(), workspace.data()) == NAS_MIX_NULL, "dy is null");
    for (const int launch : {1, 2}) {
        simt::fail_launch = launch;
        expect(backward(x.data(), dy.data(), dw.data(), workspace.data()) == NAS_MIX_DEVICE, "a launch that fails is reported");
    }
    expect(simt::fail_launch == 0, "dw takes two kernels");
}

}  // namespace

int main(int argc, char** argv) {
    return run_cases(argc, argv, cases(), [] {
        errors();
        determinism();
    });
}
