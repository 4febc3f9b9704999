// What stays moves together, in order.
#include "common.cuh"

// The items of which keep is 1 go behind the *total that are there already. One block. The number of items is *count,
// or `limit` without it.
KERNEL compact_points(const float2* __restrict__ coords, const int* __restrict__ kinds,
                      const float* __restrict__ scores, const int* __restrict__ keep, const int* __restrict__ count,
                      int limit, float2* __restrict__ out_coords, int* __restrict__ out_kinds,
                      float* __restrict__ out_scores, int* __restrict__ total) {
    __shared__ int partial[32];
    const int n = count ? *count : limit;
    int start = *total;
    for (int first = 0; first < n; first += blockDim.x) {
        const int i = first + threadIdx.x, stays = i < n && keep[i] == 1;
        int found;
        const int place = start + sum_before(stays, partial, found);
        if (stays) {
            out_coords[place] = coords[i];
            out_kinds[place] = kinds[i];
            out_scores[place] = scores[i];
        }
        start += found;
    }
    if (threadIdx.x == 0) *total = start;
}

// starts[i] = counts[0] + … + counts[i - 1], for i up to n. One block.
KERNEL scan_counts(const int* __restrict__ counts, int n, int* __restrict__ starts) {
    __shared__ int partial[32];
    int start = 0;
    for (int first = 0; first < n; first += blockDim.x) {
        const int i = first + threadIdx.x;
        int sum;
        const int before = sum_before(i < n ? counts[i] : 0, partial, sum);
        if (i < n) starts[i] = start + before;
        start += sum;
    }
    if (threadIdx.x == 0) starts[n] = start;
}
