// Compares the functions of taps.h with plain loops in double, on random sizes and offsets; linked with taps.cpp.
//
//   taps_driver check THREADS CASES   all types, sizes, null pointers, odd addresses, guarded memory; prints a hash of all results
//   taps_driver huge                  more than 2^31 elements, without the memory for them
//
// Exits with 1 where anything differs.
#include "taps.h"

#include "cpu_driver.h"

namespace {

struct Case {
    int dtype;
    int64_t batch, channels, height, width;
    std::vector<int64_t> offsets;
    int threads, odd;
    bool wants_dw, wants_dx;
    bool infinite = false;  // x in the last column: no tap of dw that ends before it may notice
};

void run(const Case& c, std::mt19937& random) {
    const int wide = c.dtype == NAS_MIX_FLOAT64 ? NAS_MIX_FLOAT64 : NAS_MIX_FLOAT32;
    const int num = int(c.offsets.size() / 2);
    const int64_t n = c.batch * c.channels * c.height * c.width;
    char text[200];
    std::snprintf(text, sizeof text, "dtype %d, %lld x %lld x %lld x %lld, %d taps, threads %d, odd %d, dw %d, dx %d", c.dtype,
                  (long long)c.batch, (long long)c.channels, (long long)c.height, (long long)c.width, num, c.threads, c.odd, c.wants_dw,
                  c.wants_dx);
    const std::string where = text;
    std::normal_distribution<double> normal;
    Array x(c.dtype, n, c.odd), y(c.dtype, n, c.odd * 2), dy(c.dtype, n, c.odd), dx(c.dtype, n, c.odd * 2);
    Array w(wide, c.channels * num, c.odd), dw(wide, c.channels * num, c.odd);
    for (int64_t i = 0; i < n; i++) x.set(i, c.infinite && i % c.width == c.width - 1 ? INFINITY : normal(random));
    for (int64_t i = 0; i < n; i++) dy.set(i, normal(random) + 0.25);
    for (int64_t i = 0; i < w.size; i++) w.set(i, normal(random));

    const auto workspace_for = [&](int wants_dw) {
        const int64_t bytes =
            nas_taps_workspace(c.dtype, c.batch, c.channels, c.height, c.width, num, c.offsets.data(), wants_dw, c.threads);
        if (bytes < 0) fail(where + ": no workspace");
        return std::vector<char>(size_t(bytes), char(0xff));  // NaN, were it read before it is written
    };
    std::vector<char> workspace = workspace_for(0);
    int error = nas_taps_forward(c.dtype, c.batch, c.channels, c.height, c.width, num, c.offsets.data(), x.at, w.at, y.at,
                                 workspace.data(), c.threads, nullptr);
    if (error) fail(where + ": forward returned " + std::to_string(error));
    workspace = workspace_for(c.wants_dw);
    error = nas_taps_backward(c.dtype, c.batch, c.channels, c.height, c.width, num, c.offsets.data(), c.wants_dw ? x.at : nullptr,
                              c.wants_dx ? w.at : nullptr, dy.at, c.wants_dx ? dx.at : nullptr, c.wants_dw ? dw.at : nullptr,
                              workspace.data(), c.threads, nullptr);
    if (error) fail(where + ": backward returned " + std::to_string(error));

    const int64_t plane = c.height * c.width;
    std::vector<double> result(n), sizes(n), back(n), back_sizes(n), sum(w.size), sum_sizes(w.size);
    for (int64_t p = 0; p < c.batch * c.channels; p++) {
        for (int t = 0; t < num; t++) {
            const int64_t tap = p % c.channels * num + t, down = c.offsets[2 * t], right = c.offsets[2 * t + 1];
            for (int64_t i = 0; i < c.height; i++) {
                for (int64_t j = 0; j < c.width; j++) {
                    // |offset| may be next to the largest number: no sum before it is known to be small
                    if (down <= -c.height || down >= c.height || right <= -c.width || right >= c.width) continue;
                    if (i + down < 0 || i + down >= c.height || j + right < 0 || j + right >= c.width) continue;
                    const int64_t to = p * plane + i * c.width + j, of = to + down * c.width + right;
                    const double term = w[tap] * x[of], turned = w[tap] * dy[to], product = dy[to] * x[of];
                    result[to] += term, sizes[to] += std::fabs(term);
                    back[of] += turned, back_sizes[of] += std::fabs(turned);
                    sum[tap] += product, sum_sizes[tap] += std::fabs(product);
                }
            }
        }
    }
    const double wide_unit = std::ldexp(1.0, -formats[wide].mantissa), unit = std::ldexp(1.0, -formats[c.dtype].mantissa - 1);
    const double smallest = std::ldexp(1.0, formats[c.dtype].lowest - formats[c.dtype].mantissa - 1);
    const auto room = [&](double value, double size) { return std::fabs(value) * unit + size * wide_unit * num + smallest; };
    for (int64_t i = 0; i < n && !c.infinite; i++) {
        compare(where + ": y", y[i], result[i], room(result[i], sizes[i]));
        if (c.wants_dx) compare(where + ": dx", dx[i], back[i], room(back[i], back_sizes[i]));
    }
    // chains of at most 512 sums in the accumulation type and four of the tree, then double
    for (int64_t i = 0; i < dw.size && c.wants_dw; i++)
        if (std::isfinite(sum[i])) compare(where + ": dw", dw[i], sum[i], sum_sizes[i] * wide_unit * 300 + smallest);
    for (const Array* array : {&y, &dx, &dw}) array->check_guards(where);
    add_to_hash(y.at, size_t(y.bytes()));
    if (c.wants_dx) add_to_hash(dx.at, size_t(dx.bytes()));
    if (c.wants_dw) add_to_hash(dw.at, size_t(dw.bytes()));
}

// Several dilated 3 x 3 (or 3) kernels at once, each tap once.
std::vector<int64_t> dilated(int most, bool is_flat) {
    std::vector<int64_t> offsets = {0, 0};
    for (int64_t d = 1; d <= most; d++)
        for (int64_t i = is_flat ? 0 : -1; i <= (is_flat ? 0 : 1); i++)
            for (int64_t j = -1; j <= 1; j++)
                if (i || j) offsets.insert(offsets.end(), {i * d, j * d});
    return offsets;
}

void random_cases(int threads, int count) {
    std::mt19937 random(7);
    auto upto = [&](int64_t most) { return int64_t(random() % uint64_t(most)) + 1; };
    for (int i = 0; i < count; i++) {
        Case c{};
        c.dtype = i % 4;
        c.batch = upto(3);
        c.channels = upto(4);
        switch (random() % 5) {
            case 0: c.height = 1, c.width = upto(300); break;
            case 1: c.height = 1, c.width = upto(9000), c.channels = 1; break;  // several tiles of one row
            case 2: c.height = upto(12), c.width = upto(40); break;
            case 3: c.height = upto(150), c.width = upto(70), c.batch = c.channels = 1; break;  // several tiles of rows
            case 4: c.height = random() % 3, c.width = random() % 4; break;     // tiny or empty
        }
        const int num = i % 31 == 30 ? NAS_TAPS_MAX : int(upto(random() % 3 ? 7 : 20));
        const int64_t most[] = {random() % 2 ? 4 : c.height + 1, random() % 2 ? 6 : c.width + 1};
        for (int t = 0; t < num; t++)
            for (const int64_t m : most) c.offsets.push_back(int64_t(random() % uint64_t(2 * m + 1)) - m);
        if (i % 13 == 5) c.offsets[0] = INT64_MIN, c.offsets[num] = INT64_MAX;
        c.threads = threads;
        c.odd = int(random() % 2);
        c.wants_dw = random() % 4 != 0;
        c.wants_dx = random() % 4 != 0;
        run(c, random);
    }
    // large enough for more than one thread, and for several chunks of dw
    run({NAS_MIX_FLOAT32, 3, 5, 32, 32, dilated(5, false), threads, 0, true, true}, random);
    run({NAS_MIX_BFLOAT16, 9, 2, 47, 45, dilated(2, false), threads, 0, true, true}, random);
    run({NAS_MIX_FLOAT16, 2, 3, 1, 20011, dilated(5, true), threads, 0, true, true}, random);
    run({NAS_MIX_FLOAT64, 2, 1, 1, 70001, {0, -5000, 0, 1, 0, 9000}, threads, 0, true, true}, random);
    run({NAS_MIX_FLOAT32, 40, 3, 30, 16, {-1, 0, 5, 5}, threads, 1, true, true}, random);
    run({NAS_MIX_FLOAT32, 1, 1, 3, 19, {0, -3, 1, -1}, threads, 0, true, false, true}, random);
}

void errors() {
    float memory[4] = {}, w[2] = {1, 1};
    char workspace[1 << 10];
    const int64_t offsets[2 * NAS_TAPS_MAX + 2] = {}, huge = int64_t(1) << 31;
    const auto forward = [&](int dtype, int64_t b, int64_t c, int64_t h, int64_t width, int num) {
        const int64_t bytes = nas_taps_workspace(dtype, b, c, h, width, num, offsets, 1, 1);
        const int error = nas_taps_forward(dtype, b, c, h, width, num, offsets, memory, w, memory + 2, workspace, 1, nullptr);
        if (error && bytes != -error) fail("workspace and forward disagree");
        return error;
    };
    expect("dtype 4", forward(4, 1, 1, 1, 1, 1), NAS_MIX_BAD_DTYPE);
    expect("dtype -1", forward(-1, 1, 1, 1, 1, 1), NAS_MIX_BAD_DTYPE);
    expect("no taps", forward(0, 1, 1, 1, 1, 0), NAS_MIX_BAD_K);
    expect("129 taps", forward(0, 1, 1, 1, 1, NAS_TAPS_MAX + 1), NAS_MIX_BAD_K);
    expect("batch -1", forward(0, -1, 1, 1, 1, 1), NAS_MIX_BAD_SIZE);
    expect("channels -1", forward(0, 1, -1, 1, 1, 1), NAS_MIX_BAD_SIZE);
    expect("height -1", forward(0, 1, 1, -1, 1, 1), NAS_MIX_BAD_SIZE);
    expect("width -1", forward(0, 1, 1, 1, -1, 1), NAS_MIX_BAD_SIZE);
    expect("product too large", forward(0, huge, huge, 2, 0, 1), NAS_MIX_BAD_SIZE);
    expect("empty", forward(0, 0, 1, 5, 5, 1), NAS_MIX_OK);
    expect("fine", forward(0, 1, 1, 1, 1, 1), NAS_MIX_OK);
    const auto with = [&](const void* x, const void* weights, void* y, void* space) {
        return nas_taps_forward(0, 1, 1, 1, 1, 1, offsets, x, weights, y, space, 1, nullptr);
    };
    expect("no x", with(nullptr, w, memory, workspace), NAS_MIX_NULL);
    expect("no w", with(memory, nullptr, memory, workspace), NAS_MIX_NULL);
    expect("no y", with(memory, w, nullptr, workspace), NAS_MIX_NULL);
    expect("no workspace", with(memory, w, memory + 2, nullptr), NAS_MIX_NULL);
    expect("no offsets", nas_taps_forward(0, 1, 1, 1, 1, 1, nullptr, memory, w, memory + 2, workspace, 1, nullptr), NAS_MIX_NULL);
    const auto backward = [&](const void* x, const void* weights, const void* dy, void* dx, void* dw, void* space) {
        return nas_taps_backward(0, 1, 1, 1, 1, 1, offsets, x, weights, dy, dx, dw, space, 1, nullptr);
    };
    expect("nothing wanted", backward(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr), NAS_MIX_OK);
    expect("no dy", backward(memory, w, nullptr, memory + 2, nullptr, workspace), NAS_MIX_NULL);
    expect("dx without w", backward(memory, nullptr, memory, memory + 2, nullptr, workspace), NAS_MIX_NULL);
    expect("dw without x", backward(nullptr, w, memory, nullptr, memory + 2, workspace), NAS_MIX_NULL);
    expect("dw without workspace", backward(memory, w, memory, nullptr, memory + 2, nullptr), NAS_MIX_NULL);
    // nothing to read: dw is zero all the same
    float dw[6] = {1, 1, 1, 1, 1, 1};
    expect("empty", nas_taps_backward(0, 0, 3, 4, 4, 2, offsets, nullptr, nullptr, nullptr, nullptr, dw, nullptr, 1, nullptr), NAS_MIX_OK);
    for (float value : dw) expect("dw of nothing", value != 0, 0);
}

void huge() {
    const uint16_t one = 0x3f80, two = 0x4000;  // bfloat16
    Repeated x, y, dx;
    x.fill(one, two);
    const int64_t width = 1 << 20, height = huge_size / width, offsets[] = {0, 0, 1, 0};
    const auto at = [&](const Repeated& array, int64_t i) { return get(NAS_MIX_BFLOAT16, (const char*)(array.begin() + i)); };
    // an image whose rows are the ranges; all but the last are one memory, which the row before the last writes last
    const float w[] = {1, 2};
    std::vector<char> workspace(size_t(nas_taps_workspace(NAS_MIX_BFLOAT16, 1, 1, height, width, 2, offsets, 1, 1)));
    expect("huge forward",
           nas_taps_forward(NAS_MIX_BFLOAT16, 1, 1, height, width, 2, offsets, x.at, w, y.at, workspace.data(), 1, nullptr), NAS_MIX_OK);
    expect("huge: the last row", int64_t(at(y, huge_size - 1)), 2);
    expect("huge: the row before", int64_t(at(y, huge_size - 1 - width)), 5);
    float dw[2];
    expect("huge backward", nas_taps_backward(NAS_MIX_BFLOAT16, 1, 1, height, width, 2, offsets, x.at, w, x.at, dx.at, dw, workspace.data(), 1,
                                              nullptr), NAS_MIX_OK);
    const double last = double(range_bytes / 2);  // elements of the last range, which is one row
    expect("huge dw", int64_t(dw[0]), int64_t(float(double(huge_size) - last + 4 * last)));
    expect("huge dw of the tap below", int64_t(dw[1]), int64_t(float(double(huge_size - width) - 2 * last + 2 * last + last)));
    expect("huge dx: the last row", int64_t(at(dx, huge_size - 1)), 4);
}

}  // namespace

int main(int argc, char** argv) {
    const auto check = [](int seed, int count) {
        random_cases(seed, count);
        errors();
    };
    return run_mode(argc, argv, check, huge);
}
