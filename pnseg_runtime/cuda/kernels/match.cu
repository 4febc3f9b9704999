// Of all masks of one point the best (masks.best_per_point), if it is good enough.
#include "common.cuh"

// best[point]: zeros before; the highest predicted IoU and, of equals, the first record, as one number.
KERNEL match_duplicates(const int* __restrict__ record_points, const float* __restrict__ ious,
                        const int* __restrict__ words, int records, u64* best) {
    for (int r = thread_index(); r < records; r += grid_threads())
        if (words[r]) atomicMax(best + record_points[r], (u64)ordered(ious[r]) << 32 | (0xffffffffu - (u32)r));
}

// The best records of all points that have any, by point, and their number. One block.
KERNEL choose_masks(const u64* __restrict__ best, const float* __restrict__ ious, int points, float threshold,
                    int* __restrict__ chosen, float* __restrict__ chosen_ious, int* __restrict__ count) {
    __shared__ int partial[32];
    int start = 0;
    for (int first = 0; first < points; first += blockDim.x) {
        const int point = first + threadIdx.x;
        const u64 key = point < points ? best[point] : 0;
        const int record = key ? (int)(0xffffffffu - (u32)key) : -1;
        const int stays = record >= 0 && ious[record] >= threshold;
        int found;
        const int place = start + sum_before(stays, partial, found);
        if (stays) {
            chosen[place] = record;
            chosen_ious[place] = ious[record];
        }
        start += found;
    }
    if (threadIdx.x == 0) *count = start;
}
