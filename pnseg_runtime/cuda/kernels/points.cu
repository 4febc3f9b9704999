// Point NMS (prompts.suppress_points): a kept point removes every other within the radius.
//
// Points are put in square cells a little wider than the radius, so that only the 3 × 3 around a point matter. A point
// is kept once all that precede it nearby (higher score, or equal and a lower index) are removed, and removed once one
// of them is kept. Repeated until all is decided, this is what the greedy loop from the highest score down gives.
#include "common.cuh"

enum State { OPEN, KEPT, REMOVED };

__device__ inline int cell_of(float2 point, double side, int columns) {
    return (int)((double)point.y / side) * columns + (int)((double)point.x / side);
}

KERNEL count_cells(const float2* __restrict__ coords, const int* __restrict__ count, double side, int columns,
                   int* __restrict__ counts) {
    for (int i = thread_index(); i < *count; i += grid_threads()) atomicAdd(counts + cell_of(coords[i], side, columns), 1);
}

// left: a copy of counts, used up. The order within a cell may differ from run to run; no result depends on it.
KERNEL fill_cells(const float2* __restrict__ coords, const int* __restrict__ count, double side, int columns,
                  const int* __restrict__ starts, int* __restrict__ left, int* __restrict__ members) {
    for (int i = thread_index(); i < *count; i += grid_threads()) {
        const int cell = cell_of(coords[i], side, columns);
        members[starts[cell] + atomicSub(left + cell, 1) - 1] = i;
    }
}

// state: zeros before, KEPT or REMOVED after. One block.
KERNEL settle_points(const float2* __restrict__ coords, const float* __restrict__ scores, const int* __restrict__ count,
                     double radius, double side, int columns, int rows, const int* __restrict__ starts,
                     const int* __restrict__ members, volatile int* state) {
    const int n = *count;
    int open = 1;
    while (__syncthreads_or(open)) {
        open = 0;
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            if (state[i] != OPEN) continue;
            const float2 point = coords[i];
            const u32 score = ordered(scores[i]);
            const int column = (int)((double)point.x / side), row = (int)((double)point.y / side);
            int verdict = KEPT;
            for (int y = max(row - 1, 0); y <= min(row + 1, rows - 1) && verdict != REMOVED; ++y) {
                const int from = starts[y * columns + max(column - 1, 0)];
                const int to = starts[y * columns + min(column + 1, columns - 1) + 1];
                for (int m = from; m < to && verdict != REMOVED; ++m) {
                    const int other = members[m];
                    const u32 rival = ordered(scores[other]);
                    if (rival < score || (rival == score && other >= i)) continue;
                    const double dx = (double)coords[other].x - (double)point.x;
                    const double dy = (double)coords[other].y - (double)point.y;
                    if (dx * dx + dy * dy > radius * radius || state[other] == REMOVED) continue;
                    verdict = state[other] == KEPT ? REMOVED : OPEN;
                }
            }
            if (verdict == OPEN) open = 1;
            else state[i] = verdict;
        }
    }
}
