// What every function of taps.h is given of sizes, and whether it is allowed.
#ifndef NAS_TAPS_SHAPE_H
#define NAS_TAPS_SHAPE_H

#include "taps.h"

namespace {

struct TapsShape {
    int dtype;
    int64_t batch, channels, height, width;
    int num_taps;
    const int64_t* offsets;

    int64_t count() const { return batch * channels * height * width; }
    int64_t accumulator_size() const { return dtype == NAS_MIX_FLOAT64 ? 8 : 4; }
};

int check(const TapsShape& s) {
    if (s.dtype < NAS_MIX_FLOAT32 || s.dtype > NAS_MIX_BFLOAT16) return NAS_MIX_BAD_DTYPE;
    if (s.num_taps < 1 || s.num_taps > NAS_TAPS_MAX) return NAS_MIX_BAD_K;
    int64_t room = int64_t(1) << 62;
    const int64_t sizes[] = {s.batch, s.channels, s.height, s.width};
    for (const int64_t size : sizes) {
        if (size < 0 || size >= room) return NAS_MIX_BAD_SIZE;
        room /= size > 1 ? size : 1;
    }
    return s.offsets ? NAS_MIX_OK : NAS_MIX_NULL;
}

}  // namespace

#endif
