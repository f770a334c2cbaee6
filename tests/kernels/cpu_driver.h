// What the drivers of the CPU kernels share: numbers of each type, guarded memory, more than 2^31 elements, a hash of all results.
#ifndef NAS_CPU_DRIVER_H
#define NAS_CPU_DRIVER_H

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "mix.h"

namespace {

int failures = 0;
uint64_t hash = 1469598103934665603u;

void fail(const std::string& text) {
    if (failures++ < 10) std::fprintf(stderr, "%s\n", text.c_str());
}

void add_to_hash(const void* memory, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ ((const unsigned char*)memory)[i]) * 1099511628211u;
}

// ---- Numbers of each type, by arithmetic on doubles ----------------------------------------------------------------------------------

struct Format {
    int bytes, mantissa, lowest, highest;  // bits of the mantissa; least and greatest exponent
};
const Format formats[] = {{4, 23, -126, 127}, {8, 52, -1022, 1023}, {2, 10, -14, 15}, {2, 7, -126, 127}};

double rounded(double value, const Format& f) {
    if (value == 0 || !std::isfinite(value)) return value;
    int exponent;
    std::frexp(value, &exponent);
    const int unit = std::max(exponent - 1, f.lowest) - f.mantissa;
    const double result = std::ldexp(std::nearbyint(std::ldexp(value, -unit)), unit);
    return std::fabs(result) >= std::ldexp(1.0, f.highest) * 2 ? std::copysign(INFINITY, value) : result;
}

double get(int dtype, const char* at) {
    if (dtype == NAS_MIX_FLOAT32) {
        float value;
        std::memcpy(&value, at, 4);
        return value;
    }
    if (dtype == NAS_MIX_FLOAT64) {
        double value;
        std::memcpy(&value, at, 8);
        return value;
    }
    uint16_t bits;
    std::memcpy(&bits, at, 2);
    const Format& f = formats[dtype];
    const int exponent_bits = 15 - f.mantissa, exponent = (bits >> f.mantissa) & ((1 << exponent_bits) - 1);
    const double fraction = bits & ((1 << f.mantissa) - 1), sign = bits >> 15 ? -1 : 1;
    if (exponent == (1 << exponent_bits) - 1) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? std::ldexp(fraction + (1 << f.mantissa), exponent - 1 + f.lowest - f.mantissa)
                            : std::ldexp(fraction, f.lowest - f.mantissa));
}

void put(int dtype, char* at, double value) {
    if (dtype == NAS_MIX_FLOAT32) {
        const float narrow = float(value);
        std::memcpy(at, &narrow, 4);
    } else if (dtype == NAS_MIX_FLOAT64) {
        std::memcpy(at, &value, 8);
    } else {
        const Format& f = formats[dtype];
        const double r = rounded(std::fabs(value), f);
        uint16_t bits;
        if (!std::isfinite(r)) {
            bits = uint16_t(((1 << (15 - f.mantissa)) - 1) << f.mantissa);
        } else if (r < std::ldexp(1.0, f.lowest)) {
            bits = uint16_t(std::ldexp(r, f.mantissa - f.lowest));
        } else {
            int exponent;
            const double m = std::frexp(r, &exponent);
            bits = uint16_t(((exponent - f.lowest) << f.mantissa) + int(std::ldexp(m, f.mantissa + 1)) - (1 << f.mantissa));
        }
        if (std::signbit(value)) bits |= 0x8000;
        std::memcpy(at, &bits, 2);
    }
}

// ---- Memory with guards, on an address that is aligned to its element only ------------------------------------------------------------

struct Array {
    int dtype;
    int64_t size;
    std::vector<char> memory;
    char* at;

    Array(int dtype, int64_t size, int odd) : dtype(dtype), size(size), memory(size * formats[dtype].bytes + 192, char(0x5a)) {
        const uintptr_t begin = (uintptr_t(memory.data()) + 127) / 64 * 64;
        at = (char*)begin + odd * formats[dtype].bytes;
    }
    int64_t bytes() const { return size * formats[dtype].bytes; }
    double operator[](int64_t i) const { return get(dtype, at + i * formats[dtype].bytes); }
    void set(int64_t i, double value) { put(dtype, at + i * formats[dtype].bytes, value); }
    void check_guards(const std::string& where) const {
        for (const char* p = memory.data(); p < memory.data() + memory.size(); p++)
            if ((p < at || p >= at + bytes()) && *p != char(0x5a)) return fail(where + ": wrote beside its array");
    }
};

void compare(const std::string& where, double got, double expected, double room) {
    if (!(std::fabs(got - expected) <= room))
        fail(where + ": got " + std::to_string(got) + ", expected " + std::to_string(expected) + ", room " + std::to_string(room));
}

void expect(const char* what, int64_t got, int64_t expected) {
    if (got != expected) fail(std::string(what) + " returned " + std::to_string(got) + ", not " + std::to_string(expected));
}

// ---- More than 2^31 elements ------------------------------------------------------------------------------------------------------------
//
// An array of 4 GiB is one page range of 2 MiB mapped over and over, with a last range of its own. So every element lies at its true
// address, the last ones differ from all others, and an index that is cut to 32 bits reads or writes in the wrong range, or outside.

constexpr int64_t range_bytes = int64_t(1) << 21;
constexpr int64_t num_ranges = (int64_t(1) << 11) + 2;
constexpr int64_t huge_size = num_ranges * range_bytes / 2;  // 16-bit elements: 2^31 + 2^21

struct Repeated {
    char* at;

    Repeated() {
        const int file = memfd_create("ranges", 0);
        if (file < 0 || ftruncate(file, 2 * range_bytes)) std::exit(2);
        at = (char*)mmap(nullptr, size_t(num_ranges * range_bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        for (int64_t i = 0; i < num_ranges; i++) {
            const int64_t offset = i + 1 == num_ranges ? range_bytes : 0;
            void* const to = at + i * range_bytes;
            if (mmap(to, size_t(range_bytes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, offset) != to) std::exit(2);
        }
        close(file);
    }
    uint16_t* begin() const { return (uint16_t*)at; }
    uint16_t* last_range() const { return (uint16_t*)(at + (num_ranges - 1) * range_bytes); }
    void fill(uint16_t most, uint16_t last) {
        for (int64_t i = 0; i < range_bytes / 2; i++) begin()[i] = most, last_range()[i] = last;
    }
};

// Prints the hash; the exit code.
int report() {
    if (failures) std::fprintf(stderr, "%d failures\n", failures);
    std::printf("%016llx\n", (unsigned long long)hash);
    return failures ? 1 : 0;
}

// `check SEED COUNT` or `huge`.
template <typename Check, typename Huge>
int run_mode(int argc, char** argv, Check check, Huge huge) {
    const std::string mode = argc > 1 ? argv[1] : "";
    if (mode == "check" && argc == 4) {
        check(std::atoi(argv[2]), std::atoi(argv[3]));
    } else if (mode == "huge") {
        huge();
    } else {
        return 2;
    }
    return report();
}

}  // namespace

#endif
