// What the kernels of mix.cuh and taps.cuh are made of: element types, vectors of 16 bytes, division, the sum over a warp.
#pragma once

#include <stdint.h>
#include <string.h>

#ifndef NAS_MIX_THREADS  // a macro because the tests under emulation make it smaller, as all of these
#define NAS_MIX_THREADS 256
#endif

namespace nas_mix {

constexpr int kWarp = 32;
constexpr int kThreads = NAS_MIX_THREADS;

// ---- element types ------------------------------------------------------------------------------------------------------------------

struct Half {
    uint16_t bits;
};
struct BFloat16 {
    uint16_t bits;
};

template <class T>
struct AccumulationType {
    using type = float;
};
template <>
struct AccumulationType<double> {
    using type = double;
};
template <class T>
using Acc = typename AccumulationType<T>::type;

template <class T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));
template <class T>
constexpr int kColumns = sizeof(T) == 8 ? 2 : 4;  // that a thread owns: 8 bytes of halves, for registers

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }

__device__ __forceinline__ float widen(Half x) {
#ifdef __CUDACC__
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
#else
    return simt::half_to_float(x.bits);
#endif
}

__device__ __forceinline__ float widen(BFloat16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

__device__ __forceinline__ void narrow(float x, float& out) { out = x; }
__device__ __forceinline__ void narrow(double x, double& out) { out = x; }

__device__ __forceinline__ void narrow(float x, Half& out) {
#ifdef __CUDACC__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
    out.bits = simt::float_to_half(x);
#endif
}

__device__ __forceinline__ void narrow(float x, BFloat16& out) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    bits += 0x7fffu + ((bits >> 16) & 1u);  // to nearest, ties to even
    out.bits = static_cast<uint16_t>(nan ? 0x7fffu : bits >> 16);
#endif
}

// ---- loads and stores ---------------------------------------------------------------------------------------------------------------

template <int Bytes>
struct alignas(Bytes) Words {
    uint32_t word[Bytes / 4];
};
template <>
struct Words<2> {
    uint16_t word;
};
template <class T, int V>
using Pack = Words<V * static_cast<int>(sizeof(T))>;

// nvcc takes a 16-byte load as written, but splits stores that stand in a branch.
template <int Bytes>
__device__ __forceinline__ void write(Words<Bytes>* to, const Words<Bytes>& pack) {
#ifdef __CUDACC__
    if constexpr (Bytes == 16) {
        const auto& x = pack.word;
        asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]) : "memory");
        return;
    } else if constexpr (Bytes == 8) {
        asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(pack.word[0]), "r"(pack.word[1]) : "memory");
        return;
    }
#endif
    *to = pack;
}

// V elements from index i on, at once; the address is aligned to V elements.
template <class T, int V>
__device__ __forceinline__ Pack<T, V> load(const void* from, int64_t i) {
    return *reinterpret_cast<const Pack<T, V>*>(static_cast<const T*>(from) + i);
}

template <class T, int V>
__device__ __forceinline__ void unpack(const Pack<T, V>& pack, Acc<T> (&value)[V]) {
    T element[V];
    memcpy(element, &pack, sizeof pack);
#pragma unroll
    for (int e = 0; e < V; ++e) value[e] = widen(element[e]);
}

template <class T, int V>
__device__ __forceinline__ void store(void* to, int64_t i, const Acc<T> (&value)[V]) {
    T element[V];
#pragma unroll
    for (int e = 0; e < V; ++e) narrow(value[e], element[e]);
    Pack<T, V> pack;
    memcpy(&pack, element, sizeof pack);
    write(reinterpret_cast<Pack<T, V>*>(static_cast<T*>(to) + i), pack);
}

__device__ __forceinline__ float fused(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double fused(double a, double b, double c) { return fma(a, b, c); }

// ---- indices ------------------------------------------------------------------------------------------------------------------------

// x / d for 0 <= x < 2^63, by a multiplication: factor = ceil(2^(63 + shift) / d), shift = ceil(log2 d).
struct Divisor {
    uint64_t factor;
    int shift;

    __device__ __forceinline__ int64_t of(int64_t x) const {
        return static_cast<int64_t>(__umul64hi(static_cast<uint64_t>(x) << 1, factor) >> shift);
    }
};

__device__ __forceinline__ int64_t thread_index() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t num_threads() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

template <class A>
__device__ __forceinline__ A warp_sum(A x) {
#pragma unroll
    for (int distance = kWarp / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

template <class A>
__device__ __forceinline__ A weight_of(const void* w, int64_t k, int64_t groups, int64_t g) {
    return w ? static_cast<const A*>(w)[k * groups + g] : A(1);
}

}  // namespace nas_mix
