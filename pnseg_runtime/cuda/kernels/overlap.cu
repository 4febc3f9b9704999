// PQ's overlap matching of two label maps, 0 background, nuclei from 1 on (metrics.overlaps, metrics.panoptic_quality).
#include "common.cuh"

// table: (truths + 1, predictions + 1), areas: (truths + 1) and (predictions + 1); zeros before, pixels after.
KERNEL count_overlaps(const int* __restrict__ truth, const int* __restrict__ prediction, int pixels, int columns,
                      int* table, int* truth_areas, int* prediction_areas) {
    for (int i = thread_index(); i < pixels; i += grid_threads()) {
        atomicAdd(table + (size_t)truth[i] * columns + prediction[i], 1);
        atomicAdd(truth_areas + truth[i], 1);
        atomicAdd(prediction_areas + prediction[i], 1);
    }
}

// For each nucleus of the truth, from 1 on: the prediction with an IoU over 0.5, of which there is one at most, what both
// share and what either has; zeros without. One warp a nucleus.
KERNEL match_overlaps(const int* __restrict__ table, const int* __restrict__ truth_areas,
                      const int* __restrict__ prediction_areas, int truths, int columns, int3* __restrict__ matches) {
    const int nucleus = thread_index() / 32 + 1, lane = threadIdx.x & 31;
    if (nucleus > truths) return;  // the whole warp
    int3 match = make_int3(0, 0, 0);
    for (int first = 1; first < columns; first += 32) {
        const int other = first + lane;
        const i64 shared = other < columns ? table[(size_t)nucleus * columns + other] : 0;
        const i64 either = other < columns ? (i64)truth_areas[nucleus] + prediction_areas[other] - shared : 1;
        const u32 found = __ballot_sync(ALL_LANES, 2 * shared > either);
        if (found && lane == __ffs((int)found) - 1) match = make_int3(other, (int)shared, (int)either);
        if (found) {
            if (lane == __ffs((int)found) - 1) matches[nucleus - 1] = match;
            return;
        }
    }
    if (lane == 0) matches[nucleus - 1] = match;
}
