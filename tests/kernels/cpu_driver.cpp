// Compares the functions of mix.h with plain loops in double, on random sizes; linked with mix.cpp.
//
//   cpu_driver check THREADS CASES   all types, sizes, null pointers, odd addresses, guarded memory; prints a hash of all results
//   cpu_driver huge                  more than 2^31 elements, without the memory for them
//
// Exits with 1 where anything differs.
#include "cpu_driver.h"

namespace {

// ---- One case --------------------------------------------------------------------------------------------------------------------------

struct Case {
    int dtype, k;
    int64_t outer, groups, inner;
    int threads, odd;
    bool ones, wants_dw, wants_dx, some_dx;
};

void run(const Case& c, std::mt19937& random) {
    const int wide = c.dtype == NAS_MIX_FLOAT64 ? NAS_MIX_FLOAT64 : NAS_MIX_FLOAT32;
    const int64_t n = c.outer * c.groups * c.inner;
    char text[200];
    std::snprintf(text, sizeof text, "dtype %d, K %d, %lld x %lld x %lld, threads %d, odd %d, ones %d, dw %d, dx %d, some %d", c.dtype,
                  c.k, (long long)c.outer, (long long)c.groups, (long long)c.inner, c.threads, c.odd, c.ones, c.wants_dw, c.wants_dx,
                  c.some_dx);
    const std::string where = text;
    std::normal_distribution<double> normal;
    std::vector<Array> x, dx;
    for (int k = 0; k < c.k; k++) {
        x.emplace_back(c.dtype, n, (c.odd * (k + 1)) % 3);
        dx.emplace_back(c.dtype, n, (c.odd * (k + 2)) % 3);
    }
    Array y(c.dtype, n, c.odd), dy(c.dtype, n, c.odd), w(wide, c.k * c.groups, c.odd), dw(wide, c.k * c.groups, c.odd);
    for (Array& a : x)
        for (int64_t i = 0; i < n; i++) a.set(i, normal(random));
    for (int64_t i = 0; i < n; i++) dy.set(i, normal(random) + 0.25);
    for (int64_t i = 0; i < w.size; i++) w.set(i, c.ones ? 1 : normal(random));
    std::vector<const void*> in;
    std::vector<void*> out;
    for (int k = 0; k < c.k; k++) {
        in.push_back(x[k].at);
        out.push_back(c.some_dx && (random() & 1) ? nullptr : dx[k].at);
    }

    const void* const weights = c.ones ? nullptr : w.at;
    int error = nas_mix_forward(c.dtype, c.k, n, c.groups, c.inner, in.data(), weights, y.at, c.threads, nullptr);
    if (error) fail(where + ": forward returned " + std::to_string(error));
    const bool wants_dw = c.wants_dw && !c.ones;
    const int64_t bytes = nas_mix_workspace(c.dtype, c.k, n, c.groups, c.inner);
    if (bytes < 0) fail(where + ": no workspace");
    std::vector<char> workspace(size_t(bytes), char(0xff));  // NaN, were it read before it is written
    error = nas_mix_backward(c.dtype, c.k, n, c.groups, c.inner, wants_dw ? in.data() : nullptr, weights, dy.at,
                             c.wants_dx ? out.data() : nullptr, wants_dw ? dw.at : nullptr, bytes ? workspace.data() : nullptr,
                             c.threads, nullptr);
    if (error) fail(where + ": backward returned " + std::to_string(error));

    const double wide_unit = std::ldexp(1.0, -formats[wide].mantissa), unit = std::ldexp(1.0, -formats[c.dtype].mantissa - 1);
    const double smallest = std::ldexp(1.0, formats[c.dtype].lowest - formats[c.dtype].mantissa - 1);
    std::vector<double> sums(c.k * c.groups), sizes(c.k * c.groups);
    for (int64_t i = 0; i < n; i++) {
        const int64_t g = i / c.inner % c.groups;
        double total = 0, size = 0;
        for (int k = 0; k < c.k; k++) {
            const double term = w[k * c.groups + g] * x[k][i];
            total += term;
            size += std::fabs(term);
            sums[k * c.groups + g] += dy[i] * x[k][i];
            sizes[k * c.groups + g] += std::fabs(dy[i] * x[k][i]);
            if (c.wants_dx && out[k]) {
                const double exact = w[k * c.groups + g] * dy[i];
                compare(where + ": dx", dx[k][i], exact, std::fabs(exact) * (unit + wide_unit) + smallest);
            }
        }
        compare(where + ": y", y[i], total, std::fabs(total) * unit + size * wide_unit * c.k + smallest);
    }
    // chains of at most 256 + 32 sums in the accumulation type, and six of the tree; then double
    if (wants_dw)
        for (int64_t i = 0; i < dw.size; i++) compare(where + ": dw", dw[i], sums[i], sizes[i] * wide_unit * 150 + smallest);
    y.check_guards(where + ": y");
    dw.check_guards(where + ": dw");
    for (int k = 0; k < c.k; k++) {
        dx[k].check_guards(where + ": dx");
        if (c.wants_dx && out[k]) add_to_hash(dx[k].at, size_t(dx[k].bytes()));
    }
    add_to_hash(y.at, size_t(y.bytes()));
    if (wants_dw) add_to_hash(dw.at, size_t(dw.bytes()));
}

void random_cases(int threads, int count) {
    std::mt19937 random(7);
    auto upto = [&](int64_t most) { return int64_t(random() % uint64_t(most)) + 1; };
    for (int i = 0; i < count; i++) {
        Case c{};
        c.dtype = i % 4;
        c.k = i % 29 == 28 ? NAS_MIX_MAX_K : int(upto(12));
        switch (random() % 6) {
            case 0: c.outer = 1, c.groups = 1, c.inner = upto(300); break;
            case 1: c.outer = 1, c.groups = 1, c.inner = upto(30000); break;
            case 2: c.outer = 1, c.groups = upto(9), c.inner = upto(9000); break;             // per sample
            case 3: c.outer = upto(40), c.groups = upto(20), c.inner = upto(90); break;       // per channel
            case 4: c.outer = upto(600), c.groups = upto(70), c.inner = 1; break;             // per channel, channels_last
            case 5: c.outer = random() % 2, c.groups = upto(3), c.inner = upto(3); break;     // tiny or empty
        }
        while (c.k * c.outer * c.groups * c.inner > 200000)
            for (int64_t* size : {&c.outer, &c.groups, &c.inner}) *size = (*size + 1) / 2;
        c.threads = threads;
        c.odd = int(random() % 2);
        c.ones = random() % 8 == 0;
        c.wants_dw = random() % 4 != 0;
        c.wants_dx = random() % 4 != 0;
        c.some_dx = random() % 3 == 0;
        run(c, random);
    }
    // large enough for stores past the caches, and for more than one thread
    run({NAS_MIX_FLOAT32, 3, 1, 1, 70001, threads, 0, false, true, true, false}, random);
    run({NAS_MIX_FLOAT32, 9, 1, 7, 12000, threads, 0, false, true, true, true}, random);
    run({NAS_MIX_BFLOAT16, 5, 1, 1, 140003, threads, 0, false, true, true, false}, random);
    run({NAS_MIX_FLOAT16, 2, 1, 1, 300000, threads, 0, false, true, true, false}, random);
    run({NAS_MIX_FLOAT64, 4, 40, 16, 256, threads, 0, false, true, true, false}, random);
    run({NAS_MIX_FLOAT32, 2, 3000, 48, 1, threads, 0, false, true, true, false}, random);
}

// ---- All numbers of the 16-bit types ---------------------------------------------------------------------------------------------------

void all_halves(int dtype) {
    std::vector<uint16_t> bits(1 << 16), result(1 << 16);
    for (int i = 0; i < 1 << 16; i++) bits[i] = uint16_t(i);
    const void* x[] = {bits.data()};
    for (float w : {1.0f, 3.0f, 0.3333f, 1.0f / 65536, 1.5e-30f, 1e30f}) {
        if (nas_mix_forward(dtype, 1, 1 << 16, 1, 1 << 16, x, &w, result.data(), 1, nullptr)) fail("forward of all 16-bit numbers");
        for (int i = 0; i < 1 << 16; i++) {
            // exact in double, and rounded to float32 first, as the accumulator is
            const double value = get(dtype, (const char*)&bits[i]), product = double(float(value * double(w)));
            const double expected = rounded(product, formats[dtype]), got = get(dtype, (const char*)&result[i]);
            const bool same = std::isnan(expected) ? std::isnan(got) : got == expected && std::signbit(got) == std::signbit(expected);
            if (!same) fail("dtype " + std::to_string(dtype) + ": " + std::to_string(w) + " times bits " + std::to_string(i));
        }
    }
}

// ---- Errors ----------------------------------------------------------------------------------------------------------------------------

void errors() {
    float memory[4] = {}, w = 1;
    const void* x[] = {memory};
    const void* null[] = {nullptr};
    void* dx[] = {memory + 2};
    const int64_t huge = int64_t(1) << 62;
    expect("abi", nas_mix_abi(), NAS_MIX_ABI);
    expect("dtype 4", nas_mix_forward(4, 1, 1, 1, 1, x, &w, memory + 1, 1, nullptr), NAS_MIX_BAD_DTYPE);
    expect("dtype -1", nas_mix_workspace(-1, 1, 1, 1, 1), -NAS_MIX_BAD_DTYPE);
    expect("K 0", nas_mix_forward(0, 0, 1, 1, 1, x, &w, memory + 1, 1, nullptr), NAS_MIX_BAD_K);
    expect("K 65", nas_mix_workspace(0, 65, 1, 1, 1), -NAS_MIX_BAD_K);
    expect("n -1", nas_mix_forward(0, 1, -1, 1, 1, x, &w, memory + 1, 1, nullptr), NAS_MIX_BAD_SIZE);
    expect("groups 0", nas_mix_forward(0, 1, 1, 0, 1, x, &w, memory + 1, 1, nullptr), NAS_MIX_BAD_SIZE);
    expect("inner 0", nas_mix_forward(0, 1, 1, 1, 0, x, &w, memory + 1, 1, nullptr), NAS_MIX_BAD_SIZE);
    expect("n 3 of 2 x 1", nas_mix_forward(0, 1, 3, 2, 1, x, &w, memory + 1, 1, nullptr), NAS_MIX_BAD_SIZE);
    expect("product too large", nas_mix_workspace(0, 1, 0, huge, huge), -NAS_MIX_BAD_SIZE);
    expect("no x", nas_mix_forward(0, 1, 1, 1, 1, nullptr, &w, memory + 1, 1, nullptr), NAS_MIX_NULL);
    expect("x null", nas_mix_forward(0, 1, 1, 1, 1, null, &w, memory + 1, 1, nullptr), NAS_MIX_NULL);
    expect("no y", nas_mix_forward(0, 1, 1, 1, 1, x, &w, nullptr, 1, nullptr), NAS_MIX_NULL);
    expect("no dy", nas_mix_backward(0, 1, 1, 1, 1, x, &w, nullptr, dx, nullptr, nullptr, 1, nullptr), NAS_MIX_NULL);
    expect("dw without w", nas_mix_backward(0, 1, 1, 1, 1, x, nullptr, memory, dx, memory + 3, nullptr, 1, nullptr), NAS_MIX_NULL);
    expect("dw without x", nas_mix_backward(0, 1, 1, 1, 1, null, &w, memory, dx, memory + 3, nullptr, 1, nullptr), NAS_MIX_NULL);
    const int64_t n = int64_t(1) << 30;
    expect("no workspace", nas_mix_backward(0, 1, n, 1, n, x, &w, memory, dx, memory + 3, nullptr, 1, nullptr), NAS_MIX_NULL);
    expect("nothing wanted", nas_mix_backward(0, 1, 1, 1, 1, nullptr, &w, memory, nullptr, nullptr, nullptr, 1, nullptr), NAS_MIX_OK);
    // nothing to read: dw is zero all the same
    float dw[6] = {1, 1, 1, 1, 1, 1};
    expect("empty", nas_mix_backward(0, 2, 0, 3, 5, nullptr, &w, nullptr, nullptr, dw, nullptr, 1, nullptr), NAS_MIX_OK);
    for (float value : dw) expect("dw of nothing", value != 0, 0);
}

// ---- More than 2^31 elements ------------------------------------------------------------------------------------------------------------

void huge() {
    const uint16_t one = 0x3f80, two = 0x4000, four = 0x4080;  // bfloat16
    Repeated x, y, dx;
    x.fill(one, two);
    y.fill(0, 0);
    dx.fill(0, 0);
    const void* in[] = {x.at, x.at};
    void* out[] = {dx.at, nullptr};
    const float w[] = {1, 1};
    expect("huge forward", nas_mix_forward(NAS_MIX_BFLOAT16, 2, huge_size, 1, huge_size, in, w, y.at, 1, nullptr), NAS_MIX_OK);
    for (int64_t i = 0; i < range_bytes / 2; i++)
        if (y.begin()[i] != two || y.last_range()[i] != four) return fail("huge forward: wrong at " + std::to_string(i));
    const int64_t bytes = nas_mix_workspace(NAS_MIX_BFLOAT16, 2, huge_size, 1, huge_size);
    std::vector<char> workspace(size_t(bytes), char(0xff));
    float dw[2];
    expect("huge backward",
           nas_mix_backward(NAS_MIX_BFLOAT16, 2, huge_size, 1, huge_size, in, w, y.at, out, dw, workspace.data(), 1, nullptr), NAS_MIX_OK);
    for (int64_t i = 0; i < range_bytes / 2; i++)
        if (dx.begin()[i] != two || dx.last_range()[i] != four) return fail("huge backward: wrong at " + std::to_string(i));
    // dy * x is 2 in all ranges but the last, 8 there; every partial sum is a whole number below 2^24, so the sum is exact
    const double exact = double(huge_size - range_bytes / 2) * 2 + double(range_bytes / 2) * 8;
    for (float value : dw)
        if (value != float(exact)) fail("huge dw: " + std::to_string(value) + " instead of " + std::to_string(exact));
}

}  // namespace

int main(int argc, char** argv) {
    const auto check = [](int seed, int count) {
        random_cases(seed, count);
        all_halves(NAS_MIX_FLOAT16);
        all_halves(NAS_MIX_BFLOAT16);
        errors();
    };
    return run_mode(argc, argv, check, huge);
}
