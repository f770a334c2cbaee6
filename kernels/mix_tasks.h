// How a mix is cut into tasks: by its sizes alone, so that sums come out the same for any number of threads.
#ifndef NAS_MIX_TASKS_H
#define NAS_MIX_TASKS_H

#include <cstdint>

namespace nas_mix {

constexpr int64_t task_elements = 4096;

inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Memory is `outer` periods of `groups` runs of `inner` elements; one run has one weight per candidate. A task covers `step_outer`
// periods x `step_groups` runs x `step_inner` elements. In memory order its number counts pieces of runs fastest, periods slowest.
struct Tasks {
    int64_t groups, inner, outer;
    int64_t step_outer, step_groups, step_inner;
    int64_t num_outer, num_groups, num_inner;

    Tasks(int64_t n, int64_t given_groups, int64_t given_inner) {
        groups = given_groups;
        inner = groups == 1 ? larger(n, 1) : given_inner;
        outer = n / (groups * inner);
        step_inner = smaller(inner, task_elements);
        step_groups = inner > task_elements ? 1 : smaller(groups, larger(1, task_elements / inner));
        // at least 32 elements for each partial sum, so that the slots stay small beside x
        const int64_t row = step_groups * inner;
        const int64_t wanted = larger(task_elements / row, divided_up(32, inner));
        step_outer = inner > task_elements ? 1 : larger(1, smaller(outer, wanted));
        num_outer = divided_up(outer, step_outer);
        num_groups = divided_up(groups, step_groups);
        num_inner = divided_up(inner, step_inner);
    }

    int64_t count() const { return num_outer * num_groups * num_inner; }
    int64_t num_slots() const { return num_outer * num_inner; }
};

// Where one task starts and ends.
struct Range {
    int64_t slot, outer_begin, outer_end, group_begin, group_end, inner_begin, inner_count;

    Range(const Tasks& tasks, int64_t number) {
        const int64_t piece = number % tasks.num_inner;
        const int64_t block = number / tasks.num_inner;
        const int64_t part = block / tasks.num_groups;
        slot = part * tasks.num_inner + piece;
        outer_begin = part * tasks.step_outer;
        outer_end = smaller(outer_begin + tasks.step_outer, tasks.outer);
        group_begin = block % tasks.num_groups * tasks.step_groups;
        group_end = smaller(group_begin + tasks.step_groups, tasks.groups);
        inner_begin = piece * tasks.step_inner;
        inner_count = smaller(tasks.step_inner, tasks.inner - inner_begin);
    }
};

}  // namespace nas_mix

#endif
