// What the drivers share: the types in other ways than the kernels', guarded memory, numbers. Included after the launchers.
#pragma once
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

namespace {

constexpr double kUnit[] = {0x1p-24, 0x1p-53, 0x1p-11, 0x1p-8};  // of rounding, by dtype
constexpr const char* kName[] = {"float32", "float64", "float16", "bfloat16"};

void expect(bool condition, const char* what) {
    if (condition) return;
    std::printf("failed: %s\n", what);
    std::exit(1);
}

// ---- the types, in other ways than the kernels' -------------------------------------------------------------------------------------

double decode(uint16_t bits, int fraction_bits) {
    const int exponent_bits = 15 - fraction_bits, bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
    const double fraction = bits & ((1 << fraction_bits) - 1), sign = bits >> 15 ? -1 : 1;
    if (exponent == (1 << exponent_bits) - 1) return fraction ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
    return sign * std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
}

double rounded(double x, int dtype) {
    if (dtype == NAS_MIX_FLOAT64 || x == 0) return x;
    const int fraction_bits = dtype == NAS_MIX_FLOAT32 ? 23 : dtype == NAS_MIX_FLOAT16 ? 10 : 7;
    const int least = dtype == NAS_MIX_FLOAT16 ? -14 : -126;
    const double unit = std::ldexp(1.0, std::max(std::ilogb(x), least) - fraction_bits), result = std::nearbyint(x / unit) * unit;
    return dtype == NAS_MIX_FLOAT16 && std::fabs(result) > 65504 ? std::copysign(INFINITY, x) : result;
}

double get(const void* from, int64_t i, int dtype) {
    if (dtype == NAS_MIX_FLOAT32) return static_cast<const float*>(from)[i];
    if (dtype == NAS_MIX_FLOAT64) return static_cast<const double*>(from)[i];
    return decode(static_cast<const uint16_t*>(from)[i], dtype == NAS_MIX_FLOAT16 ? 10 : 7);
}

void set(void* to, int64_t i, int dtype, double x) {
    static std::map<double, uint16_t> patterns[2];
    if (dtype == NAS_MIX_FLOAT32) {
        static_cast<float*>(to)[i] = static_cast<float>(x);
    } else if (dtype == NAS_MIX_FLOAT64) {
        static_cast<double*>(to)[i] = x;
    } else {
        auto& pattern = patterns[dtype - NAS_MIX_FLOAT16];
        for (int bits = pattern.empty() ? 65535 : -1; bits >= 0; --bits) {
            const double value = decode(static_cast<uint16_t>(bits), dtype == NAS_MIX_FLOAT16 ? 10 : 7);
            if (!std::isnan(value)) pattern[value] = static_cast<uint16_t>(bits);
        }
        static_cast<uint16_t*>(to)[i] = pattern.at(rounded(x, dtype));
    }
}

int size_of(int dtype) { return dtype == NAS_MIX_FLOAT32 ? 4 : dtype == NAS_MIX_FLOAT64 ? 8 : 2; }

// ---- memory: not a byte longer than said, and guarded -------------------------------------------------------------------------------

class Buffer {
#ifdef __SANITIZE_ADDRESS__
    static constexpr size_t kGuard = 0;  // the sanitizer's own is better
#else
    static constexpr size_t kGuard = 64;
#endif
    size_t shift_, bytes_;
    char* memory_;

public:
    Buffer(int64_t elements, int size, int shift)
        : shift_(static_cast<size_t>(shift) * size), bytes_(static_cast<size_t>(elements) * size),
          memory_(static_cast<char*>(std::malloc(std::max<size_t>(shift_ + bytes_ + kGuard, 1)))) {
        std::memset(memory_, 0xff, shift_ + bytes_ + kGuard);  // NaN, of every type
    }
    Buffer(const Buffer&) = delete;
    ~Buffer() {
        for (size_t i = 0; i < kGuard; ++i) expect(memory_[shift_ + bytes_ + i] == '\xff', "nothing is written past the end");
        for (size_t i = 0; i < shift_; ++i) expect(memory_[i] == '\xff', "nothing is written before the start");
        std::free(memory_);
    }
    void* data() { return memory_ + shift_; }
    size_t bytes() const { return bytes_; }
};

uint64_t state;
double draw(bool integer) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const uint32_t high = static_cast<uint32_t>(state >> 32);
    return integer ? static_cast<double>(high % 9) - 4 : high * 0x1p-31 - 1;
}

// A result differs from the exact one by at most its own rounding and, of the sum of magnitudes, one rounding a term.
bool is_close(double got, double exact, double magnitude, double terms, int type, bool integers) {
    if (integers) return got == rounded(exact, type);
    const double acc_unit = kUnit[type == NAS_MIX_FLOAT64 ? NAS_MIX_FLOAT64 : NAS_MIX_FLOAT32];
    return std::fabs(got - exact) <= 1.01 * (kUnit[type] * std::fabs(exact) + terms * acc_unit * magnitude) + 0x1p-25;
}

// Every STEP-th case, by default each, from FIRST on; without FIRST also what `rest` does.
template <class C, class Rest>
int run_cases(int argc, char** argv, const std::vector<C>& all, Rest rest) {
    alarm(500);  // a barrier that not all reach
    const size_t step = argc > 1 ? std::max(1, std::atoi(argv[1])) : 1, first = argc > 2 ? std::atoi(argv[2]) : 0;
    size_t count = 0;
    for (size_t i = first; i < all.size(); i += step, ++count) run(all[i]);
    if (argc <= 2) rest();
    std::printf("%zu cases, %d launches\n", count, simt::num_launches);
    return 0;
}

}  // namespace
