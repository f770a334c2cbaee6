// The CPU side of mix.h. Plain C++17 for GCC and clang; OpenMP where the compiler has it.
//
// One loop serves every instruction set: it is written on packs of 64 bytes, as one, two or four hardware vectors (mix_pack.h), and
// compiled once for each width with the target attribute. Every call asks the processor which to take. Products are never contracted to
// fused multiply-adds and the lanes of a pack are summed in one fixed tree, so every width gives the same bits; in float32 and float64 y
// and dx have the bits of the expression w[0] * x[0] + w[1] * x[1] + ... that rounds every term.
//
// Work is cut into tasks that depend on the sizes alone (mix_tasks.h). Each writes its part of dw to a slot of its own, and a second
// stage adds the slots in their order, in double: dw does not depend on the number of threads.
#include "mix.h"

#include <cstdint>
#include <type_traits>

#include "cpu.h"
#include "mix_loops.h"

namespace nas_mix {
namespace {

// ---- One compilation for each instruction set ----------------------------------------------------------------------------------------

template <typename T>
using Function = void (*)(const Job<T>&, int64_t, int64_t);

template <typename T, int K, bool VARY, Direction DIRECTION>
void run_16(const Job<T>& job, int64_t first, int64_t last) {
    run_tasks<T, 16, K, VARY, DIRECTION>(job, first, last);
}

#ifdef NAS_HAS_32
template <typename T, int K, bool VARY, Direction DIRECTION>
NAS_TARGET_32 void run_32(const Job<T>& job, int64_t first, int64_t last) {
    run_tasks<T, 32, K, VARY, DIRECTION>(job, first, last);
}
#endif

#ifdef NAS_HAS_64
template <typename T, int K, bool VARY, Direction DIRECTION>
NAS_TARGET_64 void run_64(const Job<T>& job, int64_t first, int64_t last) {
    run_tasks<T, 64, K, VARY, DIRECTION>(job, first, last);
}
#endif

// The oldest x86-64 processors get the general loop only, to keep the library small.
#ifdef NAS_HAS_32
constexpr bool is_16_general = true;
#else
constexpr bool is_16_general = false;
#endif

template <typename T, int K, bool VARY, Direction DIRECTION>
Function<T> for_processor() {
    switch (vector_bytes()) {
#ifdef NAS_HAS_64
        case 64: return run_64<T, K, VARY, DIRECTION>;
#endif
#ifdef NAS_HAS_32
        case 32: return run_32<T, K, VARY, DIRECTION>;
#endif
        default: return run_16<T, is_16_general ? 0 : K, VARY, DIRECTION>;
    }
}

template <typename T, Direction DIRECTION>
Function<T> function_for(const Job<T>& job) {
    if (job.tasks.inner == 1 && job.tasks.groups > 1) return for_processor<T, 0, true, DIRECTION>();
    bool is_plain = DIRECTION == FORWARD || (job.partial && job.dx);
    for (int k = 0; is_plain && DIRECTION == BACKWARD && k < job.k; k++) is_plain = job.dx[k];
    // the types that networks are trained in; the general loop serves the others, for the same reason
    if constexpr (std::is_same<T, float>::value || std::is_same<T, Bfloat>::value) {
        switch (is_plain ? job.k : 0) {
            case 1: return for_processor<T, 1, false, DIRECTION>();
            case 2: return for_processor<T, 2, false, DIRECTION>();
            case 3: return for_processor<T, 3, false, DIRECTION>();
            case 4: return for_processor<T, 4, false, DIRECTION>();
            case 5: return for_processor<T, 5, false, DIRECTION>();
            case 6: return for_processor<T, 6, false, DIRECTION>();
            case 7: return for_processor<T, 7, false, DIRECTION>();
            case 8: return for_processor<T, 8, false, DIRECTION>();
        }
    }
    return for_processor<T, 0, false, DIRECTION>();
}

// ---- The functions of mix.h, for one type --------------------------------------------------------------------------------------------

constexpr int64_t thread_bytes = 1 << 19;  // with less memory to touch, one thread is faster than waking another

// From where on results go past the caches: found by trying. Smaller ones are still in a cache when their reader comes.
constexpr int64_t stream_forward_bytes = 1 << 17;
constexpr int64_t stream_backward_bytes = 1 << 19;

// Such stores need 16-byte alignment, of the tensor and of every run.
template <typename T>
bool can_stream(const Tasks& tasks, const void* pointer) {
    const int64_t run_bytes = (tasks.inner == 1 ? tasks.groups : tasks.inner) * int64_t(sizeof(T));
    return (uintptr_t)pointer % 16 == 0 && (tasks.groups == 1 || run_bytes % 16 == 0);
}

// Slots that fit into this much are on the stack, and the caller need not provide memory.
constexpr int64_t local_bytes = 1 << 14;

template <typename T>
int64_t slot_bytes(const Tasks& tasks, int k) {
    return tasks.num_slots() * k * tasks.groups * int64_t(sizeof(Acc<T>));
}

template <typename A>
void fill(A* ones, int k) {
    for (int i = 0; i < k; i++) ones[i] = 1;
}

int threads_for(int64_t bytes, int num_threads) { return num_threads > 1 && bytes >= thread_bytes ? num_threads : 1; }

template <typename T>
void run_job(const Job<T>& job, Function<T> function, int num_threads) {
    run_threads(job.tasks.count(), num_threads, [&](int64_t, int64_t first, int64_t last) { function(job, first, last); });
}

template <typename T>
void forward(int k, int64_t n, int64_t groups, int64_t inner, const void* const* x, const void* w, void* y, int num_threads) {
    Acc<T> ones[NAS_MIX_MAX_K];
    if (!w) {
        fill(ones, k);
        groups = inner = 1;
    }
    const int64_t bytes = n * int64_t(sizeof(T));
    Job<T> job{Tasks(n, groups, inner)};
    job.k = k;
    job.x = (const T* const*)x;
    job.w = w ? (const Acc<T>*)w : ones;
    job.y = (T*)y;
    job.stream = bytes >= stream_forward_bytes && can_stream<T>(job.tasks, y);
    run_job(job, function_for<T, FORWARD>(job), threads_for((k + 1) * bytes, num_threads));
}

template <typename T>
void backward(int k, int64_t n, int64_t groups, int64_t inner, const void* const* x, const void* w, const void* dy, void* const* dx,
              void* dw, void* workspace, int num_threads) {
    Acc<T> ones[NAS_MIX_MAX_K];
    if (!w) {
        fill(ones, k);
        groups = inner = 1;
    }
    const int64_t bytes = n * int64_t(sizeof(T));
    Job<T> job{Tasks(n, groups, inner)};
    job.k = k;
    job.x = (const T* const*)x;
    job.w = w ? (const Acc<T>*)w : ones;
    job.dy = (const T*)dy;
    job.dx = (T* const*)dx;
    const int64_t num_slots = job.tasks.num_slots();
    Acc<T> local[local_bytes / sizeof(Acc<T>)];
    Acc<T>* const slots = slot_bytes<T>(job.tasks, k) > local_bytes ? (Acc<T>*)workspace : local;
    job.partial = dw && num_slots > 1 ? slots : (Acc<T>*)dw;
    int num_written = 0;
    bool is_aligned = true;
    for (int i = 0; dx && i < k; i++) {
        num_written += dx[i] != nullptr;
        is_aligned = is_aligned && can_stream<T>(job.tasks, dx[i]);
    }
    job.stream = num_written * bytes >= stream_backward_bytes && is_aligned;
    run_job(job, function_for<T, BACKWARD>(job), threads_for((k + 1 + num_written) * bytes, num_threads));
    if (dw && num_slots != 1) add_slots(job.partial, num_slots, k * groups, (Acc<T>*)dw);
}

int check(int dtype, int k, int64_t n, int64_t groups, int64_t inner) {
    if (dtype < NAS_MIX_FLOAT32 || dtype > NAS_MIX_BFLOAT16) return NAS_MIX_BAD_DTYPE;
    if (k < 1 || k > NAS_MIX_MAX_K) return NAS_MIX_BAD_K;
    if (n < 0 || groups < 1 || inner < 1) return NAS_MIX_BAD_SIZE;
    if (groups > 1 && (inner > INT64_MAX / groups || n % (groups * inner))) return NAS_MIX_BAD_SIZE;
    return NAS_MIX_OK;
}

bool any_null(const void* const* pointers, int k) {
    for (int i = 0; i < k; i++)
        if (!pointers[i]) return true;
    return false;
}

}  // namespace
}  // namespace nas_mix

using namespace nas_mix;

#define NAS_STRING_OF(x) #x
#define NAS_STRING(x) NAS_STRING_OF(x)

NAS_EXPORT int nas_mix_abi(void) { return NAS_MIX_ABI; }

NAS_EXPORT const char* nas_mix_build(void) {
    return
#if defined(__clang__)
        "clang " __clang_version__
#elif defined(__GNUC__)
        "GCC " __VERSION__
#else
        "unknown compiler"
#endif
#if defined(_OPENMP)
        ", OpenMP"
#elif defined(NAS_MIX_STD_THREADS)
        ", std::thread"
#else
        ", one thread"
#endif
#if defined(NAS_MIX_X86)
        ", x86-64, vectors up to " NAS_STRING(NAS_MIX_VECTOR_BYTES) " bytes";
#else
        ", vectors of 16 bytes";
#endif
}

NAS_EXPORT int64_t nas_mix_workspace(int dtype, int k, int64_t n, int64_t groups, int64_t inner) {
    const int error = check(dtype, k, n, groups, inner);
    if (error) return -error;
    const Tasks tasks(n, groups, inner);
    const int64_t bytes = dtype == NAS_MIX_FLOAT64 ? slot_bytes<double>(tasks, k) : slot_bytes<float>(tasks, k);
    return tasks.num_slots() > 1 && bytes > local_bytes ? bytes : 0;
}

NAS_EXPORT int nas_mix_forward(int dtype, int k, int64_t n, int64_t groups, int64_t inner, const void* const* x, const void* w, void* y,
                               int num_threads, void* stream) {
    (void)stream;
    const int error = check(dtype, k, n, groups, inner);
    if (error || n == 0) return error;
    if (!x || !y || any_null(x, k)) return NAS_MIX_NULL;
    switch (dtype) {
        case NAS_MIX_FLOAT32: forward<float>(k, n, groups, inner, x, w, y, num_threads); break;
        case NAS_MIX_FLOAT64: forward<double>(k, n, groups, inner, x, w, y, num_threads); break;
        case NAS_MIX_FLOAT16: forward<Half>(k, n, groups, inner, x, w, y, num_threads); break;
        case NAS_MIX_BFLOAT16: forward<Bfloat>(k, n, groups, inner, x, w, y, num_threads); break;
    }
    return NAS_MIX_OK;
}

NAS_EXPORT int nas_mix_backward(int dtype, int k, int64_t n, int64_t groups, int64_t inner, const void* const* x, const void* w,
                                const void* dy, void* const* dx, void* dw, void* workspace, int num_threads, void* stream) {
    (void)stream;
    const int64_t needed = nas_mix_workspace(dtype, k, n, groups, inner);
    if (needed < 0) return int(-needed);
    if (dw && (!w || (n > 0 && (!x || any_null(x, k))) || (needed > 0 && !workspace))) return NAS_MIX_NULL;
    if (n > 0 && !dy) return NAS_MIX_NULL;
    if (!dw && (!dx || n == 0)) return NAS_MIX_OK;
    switch (dtype) {
        case NAS_MIX_FLOAT32: backward<float>(k, n, groups, inner, x, w, dy, dx, dw, workspace, num_threads); break;
        case NAS_MIX_FLOAT64: backward<double>(k, n, groups, inner, x, w, dy, dx, dw, workspace, num_threads); break;
        case NAS_MIX_FLOAT16: backward<Half>(k, n, groups, inner, x, w, dy, dx, dw, workspace, num_threads); break;
        case NAS_MIX_BFLOAT16: backward<Bfloat>(k, n, groups, inner, x, w, dy, dx, dw, workspace, num_threads); break;
    }
    return NAS_MIX_OK;
}
