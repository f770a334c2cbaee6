// Second stage of sums: adds what blocks and warps have summed, in a fixed order.
#pragma once

#include "mix_types.cuh"

#ifndef NAS_MIX_REDUCE_THREADS
#define NAS_MIX_REDUCE_THREADS 512
#endif

namespace nas_mix {

constexpr int kReduceThreads = NAS_MIX_REDUCE_THREADS;

struct ReduceArgs {
    const void* partial;  // [k][lines][groups][run]
    void* dw;             // [k][groups]
    int64_t outputs, lines, groups, run;
    Divisor by_groups, by_run;
    bool wide;  // a block sums one output; otherwise a warp does
};

template <class A>
__global__ void __launch_bounds__(kReduceThreads, 1024 / kReduceThreads) reduce(const __grid_constant__ ReduceArgs a) {
    __shared__ A sums[kReduceThreads / kWarp];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int team = a.wide ? kReduceThreads : kWarp, rank = a.wide ? threadIdx.x : lane;
    const int64_t count = a.lines * a.run, skip = (a.groups - 1) * a.run;
    const int64_t step = a.wide ? gridDim.x : num_threads() / kWarp;
    for (int64_t output = a.wide ? blockIdx.x : thread_index() / kWarp; output < a.outputs; output += step) {
        const int64_t k = a.by_groups.of(output), g = output - k * a.groups;
        const A* from = static_cast<const A*>(a.partial) + (k * a.lines * a.groups + g) * a.run;
        A sum = 0;
#pragma unroll 8
        for (int64_t j = rank; j < count; j += team) sum += from[j + a.by_run.of(j) * skip];
        sum = warp_sum(sum);
        if (a.wide) {
            if (lane == 0) sums[warp] = sum;
            __syncthreads();
            if (warp == 0) sum = warp_sum(lane < kReduceThreads / kWarp ? sums[lane] : A(0));
            __syncthreads();  // before the next output overwrites the sums
        }
        if (rank == 0) static_cast<A*>(a.dw)[output] = sum;
    }
}

}  // namespace nas_mix
