// Packs: 64 bytes of the accumulation type as one, two or four hardware vectors; loaded from and stored to all types of mix.h.
#ifndef NAS_MIX_PACK_H
#define NAS_MIX_PACK_H

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__SSE2__)
#define NAS_MIX_X86 1
#include <emmintrin.h>
#endif

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed between inlined functions only
#endif

#define NAS_INLINE inline __attribute__((always_inline))
#define NAS_UNROLL _Pragma("GCC unroll 8")

namespace nas_mix {

// ---- Types --------------------------------------------------------------------------------------------------------------------------

struct Half {
    uint16_t bits;
};
struct Bfloat {
    uint16_t bits;
};

template <typename T>
struct Accumulator {
    using type = float;
};
template <>
struct Accumulator<double> {
    using type = double;
};
template <typename T>
using Acc = typename Accumulator<T>::type;

constexpr int pack_bytes = 64;
template <typename T>
constexpr int num_lanes = pack_bytes / int(sizeof(Acc<T>));

template <typename A, int BYTES>
struct VectorOf {
    typedef A type __attribute__((vector_size(BYTES)));
};
template <typename A, int BYTES>
using Vector = typename VectorOf<A, BYTES>::type;

// 64 bytes of the accumulation type A, in hardware vectors of BYTES bytes.
template <typename A, int BYTES>
struct Pack {
    static constexpr int num_parts = pack_bytes / BYTES;
    Vector<A, BYTES> part[num_parts];
};

// ---- 16-bit floats: branch-free, on vectors of 32-bit words --------------------------------------------------------------------------

template <int BYTES>
NAS_INLINE void widen(const Bfloat*, const Vector<uint32_t, BYTES>& bits, Vector<float, BYTES>& value) {
    const Vector<uint32_t, BYTES> word = bits << 16;
    std::memcpy(&value, &word, BYTES);
}

template <int BYTES>
NAS_INLINE void narrow(const Bfloat*, const Vector<float, BYTES>& value, Vector<uint32_t, BYTES>& bits) {
    using Words = Vector<uint32_t, BYTES>;
    Words word;
    std::memcpy(&word, &value, BYTES);
    const Words rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
    const Words is_nan = (Words)(value != value);
    bits = (is_nan & 0x7fc0u) | (~is_nan & rounded);
}

// Exponents are shifted by a product with a power of two, subnormals made by a sum: no step has a subnormal float32 in it, so the result
// is the same where the processor flushes those to zero.
template <int BYTES>
NAS_INLINE void widen(const Half*, const Vector<uint32_t, BYTES>& bits, Vector<float, BYTES>& value) {
    using Words = Vector<uint32_t, BYTES>;
    using Floats = Vector<float, BYTES>;
    const Words sign = (bits & 0x8000u) << 16;
    const Words rest = bits & 0x7fffu;
    const Words shifted = (rest << 13) + 0x70000000u;  // exponent + 224: 31 becomes 255, so infinities and NaN stay what they are
    Floats normal;
    std::memcpy(&normal, &shifted, BYTES);
    normal *= 0x1p-112f;
    const Words magic = rest | 0x3f000000u;  // 0.5 + bits * 2^-24
    Floats subnormal;
    std::memcpy(&subnormal, &magic, BYTES);
    subnormal -= 0.5f;
    Words normal_bits, subnormal_bits;
    std::memcpy(&normal_bits, &normal, BYTES);
    std::memcpy(&subnormal_bits, &subnormal, BYTES);
    const Words is_small = (Words)(rest < 0x0400u);
    const Words word = sign | (is_small & subnormal_bits) | (~is_small & normal_bits);
    std::memcpy(&value, &word, BYTES);
}

template <int BYTES>
NAS_INLINE void narrow(const Half*, const Vector<float, BYTES>& value, Vector<uint32_t, BYTES>& bits) {
    using Words = Vector<uint32_t, BYTES>;
    using Floats = Vector<float, BYTES>;
    Words word;
    std::memcpy(&word, &value, BYTES);
    const Words magnitude = word & 0x7fffffffu;
    Floats scaled;
    std::memcpy(&scaled, &magnitude, BYTES);
    scaled = scaled * 0x1p112f * 0x1p-110f;  // what is too large becomes infinite
    const Words exponent = magnitude & 0x7f800000u;
    const Words is_small = (Words)(exponent < 0x38800000u);
    const Words bias = ((is_small & 0x38800000u) | (~is_small & exponent)) + 0x07800000u;
    Floats anchor;  // adding it rounds the mantissa at the right bit
    std::memcpy(&anchor, &bias, BYTES);
    scaled += anchor;
    Words sum;
    std::memcpy(&sum, &scaled, BYTES);
    const Words finite = ((sum >> 13) & 0x7c00u) + (sum & 0x0fffu);
    const Words is_nan = (Words)(magnitude > 0x7f800000u);
    bits = ((word & 0x80000000u) >> 16) | (is_nan & 0x7e00u) | (~is_nan & finite);
}

// ---- Loading and storing packs -------------------------------------------------------------------------------------------------------

template <typename T, int BYTES>
NAS_INLINE void load(const T* from, Pack<Acc<T>, BYTES>& pack) {
    constexpr int lanes = BYTES / int(sizeof(Acc<T>));
    NAS_UNROLL
    for (int p = 0; p < pack.num_parts; p++) {
        if constexpr (sizeof(T) == 2) {
            Vector<uint16_t, BYTES / 2> bits;
            std::memcpy(&bits, from + p * lanes, BYTES / 2);
            widen<BYTES>((const T*)nullptr, __builtin_convertvector(bits, Vector<uint32_t, BYTES>), pack.part[p]);
        } else {
            std::memcpy(&pack.part[p], from + p * lanes, BYTES);
        }
    }
}

// With `stream`, past the caches: a store that first reads the line it is about to overwrite costs twice the traffic.
template <int BYTES>
NAS_INLINE void write(void* to, const void* from, bool stream) {
#ifdef NAS_MIX_X86
    if constexpr (BYTES >= 16) {
        if (stream) {
            NAS_UNROLL
            for (int i = 0; i < BYTES; i += 16) {
                __m128i piece;
                std::memcpy(&piece, (const char*)from + i, 16);
                _mm_stream_si128((__m128i*)((char*)to + i), piece);
            }
            return;
        }
    }
#endif
    (void)stream;
    std::memcpy(to, from, BYTES);
}

template <typename T, int BYTES>
NAS_INLINE void store(const Pack<Acc<T>, BYTES>& pack, T* to, bool stream) {
    constexpr int lanes = BYTES / int(sizeof(Acc<T>));
    NAS_UNROLL
    for (int p = 0; p < pack.num_parts; p++) {
        if constexpr (sizeof(T) == 2) {
            Vector<uint32_t, BYTES> words;
            narrow<BYTES>((const T*)nullptr, pack.part[p], words);
            const Vector<uint16_t, BYTES / 2> bits = __builtin_convertvector(words, Vector<uint16_t, BYTES / 2>);
            write<BYTES / 2>(to + p * lanes, &bits, stream);
        } else {
            write<BYTES>(to + p * lanes, &pack.part[p], stream);
        }
    }
}

// One element.
template <typename T>
NAS_INLINE Acc<T> value_of(const T& element) {
    if constexpr (sizeof(T) == 2) {
        Vector<float, 4> value;
        widen<4>(&element, Vector<uint32_t, 4>{element.bits}, value);
        return value[0];
    } else {
        return element;
    }
}

template <typename T>
NAS_INLINE void set(T& element, Acc<T> value) {
    if constexpr (sizeof(T) == 2) {
        Vector<uint32_t, 4> bits;
        narrow<4>(&element, Vector<float, 4>{value}, bits);
        element.bits = uint16_t(bits[0]);
    } else {
        element = value;
    }
}

template <typename A, int BYTES>
NAS_INLINE A sum_lanes(const Pack<A, BYTES>& pack) {
    constexpr int count = pack_bytes / int(sizeof(A));
    A lanes[count];
    std::memcpy(lanes, pack.part, pack_bytes);
    for (int half = count / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}

}  // namespace nas_mix

#endif
