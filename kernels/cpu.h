// What the operations share on a CPU: the choice of an instruction set, threads, the second stage of sums.
#ifndef NAS_CPU_H
#define NAS_CPU_H

#include <cstdint>

#include "mix_pack.h"
#include "mix_tasks.h"

#if defined(_OPENMP)
#include <omp.h>
#elif defined(NAS_MIX_STD_THREADS)  // for ThreadSanitizer, which does not see through an OpenMP library
#include <thread>
#include <vector>
#endif

#ifndef NAS_MIX_VECTOR_BYTES  // the widest vectors to use; tests build narrower ones
#define NAS_MIX_VECTOR_BYTES 64
#endif

#define NAS_EXPORT extern "C" __attribute__((visibility("default")))

#if defined(NAS_MIX_X86) && NAS_MIX_VECTOR_BYTES >= 32
#define NAS_HAS_32 1
#define NAS_TARGET_32 __attribute__((target("avx2")))
#endif
#if defined(NAS_MIX_X86) && NAS_MIX_VECTOR_BYTES >= 64
#define NAS_HAS_64 1
#define NAS_TARGET_64 __attribute__((target("avx2,avx512f,avx512bw,avx512dq,avx512vl")))
#endif

namespace nas_mix {

// The widest vectors, in bytes, that both the processor and this build have.
inline int vector_bytes() {
#ifdef NAS_HAS_64
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return 64;
#endif
#ifdef NAS_HAS_32
    if (__builtin_cpu_supports("avx2")) return 32;
#endif
    return 16;
}

// Shares the tasks 0 ... count - 1 out: function(thread, first, last) does first ... last - 1.
//
// All of `num_threads` or one: a team smaller than the pool would end the pool's other threads, and the next large team start them anew.
template <typename Function>
void run_threads(int64_t count, int num_threads, const Function& function) {
#if defined(_OPENMP)
    if (num_threads > 1) {
#pragma omp parallel num_threads(num_threads)
        {
            const int64_t number = omp_get_thread_num(), total = omp_get_num_threads();
            function(number, count * number / total, count * (number + 1) / total);
        }
        return;
    }
#elif defined(NAS_MIX_STD_THREADS)
    std::vector<std::thread> threads;
    for (int64_t i = 1; i < num_threads; i++)
        threads.emplace_back([&, i] { function(i, count * i / num_threads, count * (i + 1) / num_threads); });
    function(int64_t(0), int64_t(0), num_threads > 1 ? count / num_threads : count);
    for (std::thread& thread : threads) thread.join();
    return;
#endif
    (void)num_threads;
    function(int64_t(0), int64_t(0), count);
}

// The second stage: dw from the slots, in their order, in double.
template <typename A>
void add_slots(const A* partial, int64_t num_slots, int64_t size, A* dw) {
    constexpr int64_t block = 64;
    for (int64_t begin = 0; begin < size; begin += block) {
        const int64_t count = smaller(block, size - begin);
        double sums[block] = {};
        for (int64_t slot = 0; slot < num_slots; slot++)
            for (int64_t i = 0; i < count; i++) sums[i] += double(partial[slot * size + begin + i]);
        for (int64_t i = 0; i < count; i++) dw[begin + i] = A(sums[i]);
    }
}

}  // namespace nas_mix

#endif
