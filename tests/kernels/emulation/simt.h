// The part of CUDA that the kernels and launchers use, for g++ -std=c++20: one std::thread for each thread of a block, one block at a time.
//
// What it shows: indices, bounds, barriers, shuffles and the launchers, on the very text that nvcc compiles, under gdb and the sanitizers.
// What it does not: the device's memory model between blocks, the few lines of PTX, alignment faults (UBSan does), speed.
//
// A barrier that not all threads of a block reach hangs here, as it may there: run with a time limit.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static  // one block at a time: what is static is its shared memory

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

constexpr int kWarp = 32;

inline int num_processors = 1;  // of the device that is emulated
inline int fail_launch = 0;     // fails the launch that many launches ahead; 0: none
inline int num_launches = 0;

// Orders what comes before it in any thread before what comes after it in any, and nothing else: two counters in turn, so that a thread that
// wakes late does not see how far others have come since. std::barrier and pthread_barrier_t let ThreadSanitizer see an order in that, and
// hide races which a missing barrier makes.
class Barrier {
public:
    explicit Barrier(int threads) : size_(threads), turns_(threads) {}

    void arrive_and_wait(unsigned who) {
        const unsigned turn = turns_[who]++, all = size_ * (turn / 2 + 1);
        std::atomic<unsigned>& count = counts_[turn % 2];
        if (count.fetch_add(1, std::memory_order_acq_rel) + 1 == all) {
            futex(count, FUTEX_WAKE_PRIVATE, INT_MAX);
            return;
        }
        for (unsigned seen; (seen = count.load(std::memory_order_acquire)) < all;) futex(count, FUTEX_WAIT_PRIVATE, seen);
    }

private:
    static void futex(std::atomic<unsigned>& word, int operation, unsigned value) {
        syscall(SYS_futex, &word, operation, value, nullptr, nullptr, 0);
    }

    unsigned size_;
    std::vector<unsigned> turns_;  // of each thread
    std::atomic<unsigned> counts_[2] = {};
};

struct Warp {
    Barrier barrier{kWarp};
    uint64_t value[2][kWarp];  // in turns: one barrier a shuffle is enough
};

struct Block {
    Barrier barrier, end;  // apart: a thread that returns early does not stand in for one at a barrier
    std::vector<std::unique_ptr<Warp>> warps;

    explicit Block(int threads) : barrier(threads), end(threads) {
        for (int i = 0; i < threads; i += kWarp) warps.push_back(std::make_unique<Warp>());
    }
};

inline thread_local Block* block = nullptr;
inline thread_local unsigned turn = 0;

template <class T>
T shuffle(T value, int source) {
    Warp& warp = *block->warps[threadIdx.x / kWarp];
    const unsigned lane = threadIdx.x % kWarp, now = turn++ % 2;
    std::memcpy(&warp.value[now][lane], &value, sizeof value);
    warp.barrier.arrive_and_wait(lane);
    std::memcpy(&value, &warp.value[now][source], sizeof value);
    return value;
}

template <class Body>
void run(dim3 grid, dim3 threads, const Body& body) {
    Block shared(static_cast<int>(threads.x));
    std::vector<std::thread> pool;
    for (unsigned t = 0; t < threads.x; ++t) {
        pool.emplace_back([&, t] {
            block = &shared;
            threadIdx = dim3(t, 0, 0);
            blockDim = threads;
            gridDim = grid;
            for (unsigned b = 0; b < grid.x; ++b) {
                blockIdx = dim3(b, 0, 0);
                body();
                shared.end.arrive_and_wait(t);
            }
        });
    }
    for (auto& thread : pool) thread.join();
}

// IEEE binary16, to nearest even; the device has instructions for both.
inline float half_to_float(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                            : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                            : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
    return bits >> 15 ? -magnitude : magnitude;
}

inline uint16_t float_to_half(float x) {
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    if (std::isnan(x)) return 0x7fff;
    const float magnitude = std::fabs(x);
    if (magnitude >= 65520.0f) return sign | 0x7c00;
    if (magnitude < 0x1p-14f) return sign | static_cast<uint16_t>(std::nearbyint(magnitude * 0x1p24f));  // subnormal
    int exponent;
    const float fraction = std::frexp(magnitude, &exponent);  // in [1/2, 1)
    // a carry out of the fraction goes into the exponent, where it belongs
    return sign | static_cast<uint16_t>(((exponent + 13) << 10) + static_cast<int>(std::nearbyint(fraction * 2048.0f)));
}

}  // namespace simt

inline void __syncthreads() { simt::block->barrier.arrive_and_wait(threadIdx.x); }
inline void __syncwarp(unsigned = 0xffffffffu) { simt::block->warps[threadIdx.x / simt::kWarp]->barrier.arrive_and_wait(threadIdx.x % simt::kWarp); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return simt::shuffle(value, static_cast<int>(threadIdx.x % simt::kWarp) ^ mask);
}
template <class T>
T __shfl_down_sync(unsigned, T value, int distance) {
    const int lane = static_cast<int>(threadIdx.x % simt::kWarp);
    return simt::shuffle(value, lane + distance < simt::kWarp ? lane + distance : lane);
}

inline uint64_t __umul64hi(uint64_t a, uint64_t b) { return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64); }

// ---- the runtime --------------------------------------------------------------------------------------------------------------------

enum cudaError_t { cudaSuccess = 0, cudaErrorLaunchFailure = 719 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
using cudaStream_t = struct CUstream_st*;

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes = 0;
    cudaStream_t stream = nullptr;
};

inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
    std::memset(to, value, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) {
    *device = 64;  // past what a launcher may cache: tests change num_processors
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
    *value = simt::num_processors;
    return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
    ++simt::num_launches;
    if (simt::fail_launch && --simt::fail_launch == 0) return cudaErrorLaunchFailure;
    simt::run(config->gridDim, config->blockDim, [&] { kernel(arguments...); });
    return cudaSuccess;
}
