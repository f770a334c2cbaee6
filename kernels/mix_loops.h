// The loops over memory, in one pass each: y from all x; dx and dw from all x and dy.
#ifndef NAS_MIX_LOOPS_H
#define NAS_MIX_LOOPS_H

#include <cstdint>

#include "mix.h"
#include "mix_pack.h"
#include "mix_tasks.h"

namespace nas_mix {

template <typename T>
struct Job {
    Tasks tasks;
    int k = 0;
    bool stream = false;  // whether results go past the caches
    const T* const* x = nullptr;
    const Acc<T>* w = nullptr;  // [k][groups]
    T* y = nullptr;
    const T* dy = nullptr;
    T* const* dx = nullptr;     // null: none wanted
    Acc<T>* partial = nullptr;  // [slot][k][groups]; null: no dw wanted

    explicit Job(const Tasks& given) : tasks(given) {}
};

// K: the number of candidates, so that weights and sums are registers; 0: only job.k knows it. VARY: neighbours belong to different
// groups (inner is 1), so weights are loaded in packs; otherwise one weight per candidate holds for the whole run.

template <typename T, int K>
struct Streams {
    static constexpr int size = K ? K : NAS_MIX_MAX_K;
    const T* x[size];
    T* dx[size];
    Acc<T> weight[size];
};

// y of one run. w: the first element's weights; those of one candidate and the next lie `groups` apart.
template <typename T, int BYTES, int K, bool VARY>
NAS_INLINE void forward_run(const Job<T>& job, const Acc<T>* w, int64_t begin, int64_t count) {
    using P = Pack<Acc<T>, BYTES>;
    constexpr int lanes = num_lanes<T>;
    const int k_end = K ? K : job.k;
    const int64_t groups = job.tasks.groups;
    Streams<T, K> s;
    for (int k = 0; k < k_end; k++) {
        s.x[k] = job.x[k] + begin;
        s.weight[k] = w[k * groups];
    }
    T* const y = job.y + begin;
    const bool stream = job.stream;
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) {
        P total;
        NAS_UNROLL
        for (int p = 0; p < P::num_parts; p++) total.part[p] = Acc<T>(-0.0) - Vector<Acc<T>, BYTES>{};  // -0 + v is v, of either sign
        NAS_UNROLL
        for (int k = 0; k < k_end; k++) {
            P value;
            load<T, BYTES>(s.x[k] + i, value);
            if constexpr (VARY) {
                P weight;
                load<Acc<T>, BYTES>(w + k * groups + i, weight);
                NAS_UNROLL
                for (int p = 0; p < P::num_parts; p++) total.part[p] += weight.part[p] * value.part[p];
            } else {
                NAS_UNROLL
                for (int p = 0; p < P::num_parts; p++) total.part[p] += s.weight[k] * value.part[p];
            }
        }
        store<T, BYTES>(total, y + i, stream);
    }
    for (; i < count; i++) {
        Acc<T> total = Acc<T>(-0.0);
        for (int k = 0; k < k_end; k++) total += w[k * groups + (VARY ? i : 0)] * value_of(s.x[k][i]);
        set(y[i], total);
    }
}

// dx of one run, and its part of dw added to `partial` (null: no dw wanted), which is laid out like w.
template <typename T, int BYTES, int K, bool VARY>
NAS_INLINE void backward_run(const Job<T>& job, const Acc<T>* w, Acc<T>* partial, int64_t begin, int64_t count) {
    using P = Pack<Acc<T>, BYTES>;
    constexpr int lanes = num_lanes<T>;
    const int k_end = K ? K : job.k;
    const int64_t groups = job.tasks.groups;
    Streams<T, K> s;
    P sums[Streams<T, K>::size];
    for (int k = 0; k < k_end; k++) {
        s.x[k] = K || partial ? job.x[k] + begin : nullptr;
        s.dx[k] = K || (job.dx && job.dx[k]) ? job.dx[k] + begin : nullptr;
        s.weight[k] = w[k * groups];
        NAS_UNROLL
        for (int p = 0; p < P::num_parts; p++) sums[k].part[p] = Vector<Acc<T>, BYTES>{};
    }
    const T* const dy = job.dy + begin;
    const bool stream = job.stream;
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) {
        P grad;
        load<T, BYTES>(dy + i, grad);
        NAS_UNROLL
        for (int k = 0; k < k_end; k++) {
            P value;
            if (K || s.x[k]) {
                load<T, BYTES>(s.x[k] + i, value);
                if constexpr (VARY) {
                    P sum;
                    load<Acc<T>, BYTES>(partial + k * groups + i, sum);
                    NAS_UNROLL
                    for (int p = 0; p < P::num_parts; p++) sum.part[p] += grad.part[p] * value.part[p];
                    store<Acc<T>, BYTES>(sum, partial + k * groups + i, false);
                } else {
                    NAS_UNROLL
                    for (int p = 0; p < P::num_parts; p++) sums[k].part[p] += grad.part[p] * value.part[p];
                }
            }
            if (K || s.dx[k]) {
                if constexpr (VARY) {
                    load<Acc<T>, BYTES>(w + k * groups + i, value);
                    NAS_UNROLL
                    for (int p = 0; p < P::num_parts; p++) value.part[p] *= grad.part[p];
                } else {
                    NAS_UNROLL
                    for (int p = 0; p < P::num_parts; p++) value.part[p] = s.weight[k] * grad.part[p];
                }
                store<T, BYTES>(value, s.dx[k] + i, stream);
            }
        }
    }
    for (int k = 0; k < k_end; k++) {
        Acc<T> sum = VARY ? Acc<T>(0) : sum_lanes<Acc<T>, BYTES>(sums[k]);
        for (int64_t j = i; j < count; j++) {
            const int64_t g = VARY ? j : 0;
            const Acc<T> grad = value_of(dy[j]);
            if (s.dx[k]) set(s.dx[k][j], w[k * groups + g] * grad);
            if (VARY && s.x[k]) partial[k * groups + g] += grad * value_of(s.x[k][j]);
            if (!VARY && s.x[k]) sum += grad * value_of(s.x[k][j]);
        }
        if (!VARY && s.x[k]) partial[k * groups] += sum;
    }
}

enum Direction { FORWARD, BACKWARD };

// The tasks first ... last - 1.
template <typename T, int BYTES, int K, bool VARY, Direction DIRECTION>
NAS_INLINE void run_tasks(const Job<T>& job, int64_t first, int64_t last) {
    const Tasks& t = job.tasks;
    for (int64_t number = first; number < last; number++) {
        const Range r(t, number);
        Acc<T>* const partial = job.partial ? job.partial + r.slot * job.k * t.groups : nullptr;
        if (DIRECTION == BACKWARD && partial)
            for (int k = 0; k < job.k; k++)
                for (int64_t g = r.group_begin; g < r.group_end; g++) partial[k * t.groups + g] = 0;
        // VARY: one run over all groups of the task
        const int64_t step = VARY ? r.group_end - r.group_begin : 1;
        for (int64_t o = r.outer_begin; o < r.outer_end; o++) {
            for (int64_t g = r.group_begin; g < r.group_end; g += step) {
                const int64_t begin = (o * t.groups + g) * t.inner + r.inner_begin;
                const int64_t count = VARY ? step : r.inner_count;
                if constexpr (DIRECTION == FORWARD)
                    forward_run<T, BYTES, K, VARY>(job, job.w + g, begin, count);
                else
                    backward_run<T, BYTES, K, VARY>(job, job.w + g, partial ? partial + g : nullptr, begin, count);
            }
        }
    }
#ifdef NAS_MIX_X86
    if (job.stream) _mm_sfence();  // such stores are ordered by nothing else
#endif
}

}  // namespace nas_mix

#endif
