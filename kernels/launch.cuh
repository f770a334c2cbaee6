// What the launchers of mix.cu and taps.cu share. No allocation, no synchronisation: what is launched depends on the arguments alone and
// may be captured in a CUDA graph.
#pragma once

#include <cuda_runtime.h>

#include "mix.h"
#include "reduce.cuh"

#ifndef NAS_MIX_TILES
#define NAS_MIX_TILES 8192  // of one launch, about: warps enough for any device, partial sums few enough for the second stage
#endif
#ifndef NAS_MIX_WIDE_OUTPUTS
#define NAS_MIX_WIDE_OUTPUTS 1024  // second stage: up to so many, a block sums each
#endif
#ifndef NAS_MIX_BLOCKS_PER_PROCESSOR
#define NAS_MIX_BLOCKS_PER_PROCESSOR 32  // at most, in a grid: a few waves
#endif

#define NAS_EXPORT extern "C" __attribute__((visibility("default")))

namespace nas_mix {

inline int64_t up(int64_t a, int64_t b) { return a / b + (a % b != 0); }

inline Divisor divisor(int64_t d) {
    int shift = 0;
    while (uint64_t(1) << shift < static_cast<uint64_t>(d)) ++shift;
    const unsigned __int128 numerator = static_cast<unsigned __int128>(1) << (63 + shift);
    return {static_cast<uint64_t>((numerator + d - 1) / d), shift};
}

inline bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

inline int num_processors() {
    static int cache[64];  // by device; a race would write the same number twice
    int device = 0, count = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return 1;
    if (device < 64 && (count = __atomic_load_n(&cache[device], __ATOMIC_RELAXED)) > 0) return count;
    if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 1;
    if (device < 64) __atomic_store_n(&cache[device], count, __ATOMIC_RELAXED);
    return count;
}

template <class Args>
int launch(void (*kernel)(Args), const Args& args, int64_t blocks, int threads, void* stream) {
    const int64_t most = int64_t(num_processors()) * NAS_MIX_BLOCKS_PER_PROCESSOR;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(blocks < 1 ? 1 : blocks < most ? blocks : most));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.stream = static_cast<cudaStream_t>(stream);
    if (cudaLaunchKernelEx(&config, kernel, args) == cudaSuccess) return NAS_MIX_OK;
    cudaGetLastError();  // ours: the caller's next check is not to find it
    return NAS_MIX_DEVICE;
}

// Adds up r.lines x r.run partial sums for each of r.outputs.
template <class A>
int launch_reduce(ReduceArgs r, void* stream) {
    r.by_groups = divisor(r.groups);
    r.by_run = divisor(r.run);
    r.wide = r.outputs <= NAS_MIX_WIDE_OUTPUTS;
    return launch(reduce<A>, r, r.wide ? r.outputs : up(r.outputs, kReduceThreads / kWarp), kReduceThreads, stream);
}

}  // namespace nas_mix
