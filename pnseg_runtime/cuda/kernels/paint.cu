// Painting by predicted IoU (painting.paint): every pixel belongs to the most confident mask that holds it.
#include "common.cuh"

// canvas: (FRAME_HEIGHT, FRAME_WIDTH), every value as high as it gets before; the lowest rank of each pixel after.
// Grid: chosen masks.
KERNEL paint_masks(const int* __restrict__ chosen, const int* __restrict__ keep, const int* __restrict__ rank,
                   const int* __restrict__ count, const int4* __restrict__ boxes, const int* __restrict__ words,
                   const int* __restrict__ offsets, const u32* __restrict__ bits, const int* __restrict__ frame,
                   int* canvas) {
    if ((int)blockIdx.x >= *count || !keep[blockIdx.x]) return;
    const int record = chosen[blockIdx.x];
    const int4 box = boxes[record];
    const int row = row_words(box);
    for (int i = threadIdx.x; i < words[record] * 32; i += blockDim.x) {
        const int word = i >> 5, x = box.x + word % row * 32 + (i & 31), y = box.y + word / row;
        if (bits[offsets[record] + word] >> (i & 31) & 1)
            atomicMin(canvas + (size_t)y * frame[FRAME_WIDTH] + x, rank[blockIdx.x]);
    }
}

// The masks' bits become those that are visible; of masks that NMS removed nothing is. Grid: chosen masks; whole warps.
KERNEL uncover_masks(const int* __restrict__ chosen, const int* __restrict__ keep, const int* __restrict__ rank,
                     const int* __restrict__ count, const int4* __restrict__ boxes, int* __restrict__ words,
                     const int* __restrict__ offsets, u32* __restrict__ bits, const int* __restrict__ frame,
                     const int* __restrict__ canvas) {
    if ((int)blockIdx.x >= *count) return;
    const int record = chosen[blockIdx.x], lane = threadIdx.x & 31;
    const int4 box = boxes[record];
    const int row = row_words(box), width = box.z - box.x;
    if (!keep[blockIdx.x]) {
        if (threadIdx.x == 0) words[record] = 0;
        return;
    }
    for (int word = threadIdx.x >> 5; word < words[record]; word += blockDim.x >> 5) {
        const int x = word % row * 32 + lane, y = word / row;
        const bool on = x < width && canvas[(size_t)(box.y + y) * frame[FRAME_WIDTH] + box.x + x] == rank[blockIdx.x];
        const u32 all = __ballot_sync(ALL_LANES, on);
        if (lane == 0) bits[offsets[record] + word] = all;
    }
}

// Where each visible nucleus goes, by rank: its row and its first word, -1 for none. totals: nuclei, words. One block.
KERNEL order_nuclei(const int* __restrict__ chosen, const int* __restrict__ order, const int* __restrict__ count,
                    const int* __restrict__ words, int* __restrict__ rows, int* __restrict__ starts,
                    int* __restrict__ totals) {
    __shared__ int partial[32];
    const int n = *count;
    int nuclei = 0, start = 0;
    for (int first = 0; first < n; first += blockDim.x) {
        const int place = first + threadIdx.x, item = place < n ? order[place] : -1;
        const int own = item < 0 ? 0 : words[chosen[item]];
        int found, sum;
        const int row = nuclei + sum_before(own > 0, partial, found);
        const int offset = start + sum_before(own, partial, sum);
        if (item >= 0) {
            rows[item] = own ? row : -1;
            starts[item] = offset;
        }
        nuclei += found;
        start += sum;
    }
    if (threadIdx.x == 0) {
        totals[0] = nuclei;
        totals[1] = start;
    }
}

// A nucleus as it travels to the host.
struct Nucleus { float x, y; int kind; float score, iou; int x0, y0, x1, y1, start; };

// Grid: chosen masks.
KERNEL emit_nuclei(const int* __restrict__ chosen, const int* __restrict__ count, const int* __restrict__ rows,
                   const int* __restrict__ starts, const int* __restrict__ record_points,
                   const float* __restrict__ ious, const int4* __restrict__ boxes, const int* __restrict__ words,
                   const int* __restrict__ offsets, const u32* __restrict__ bits, const float2* __restrict__ coords,
                   const int* __restrict__ kinds, const float* __restrict__ scores, Nucleus* __restrict__ nuclei,
                   u32* __restrict__ out_bits) {
    if ((int)blockIdx.x >= *count || rows[blockIdx.x] < 0) return;
    const int record = chosen[blockIdx.x], point = record_points[record], start = starts[blockIdx.x];
    const int4 box = boxes[record];
    if (threadIdx.x == 0)
        nuclei[rows[blockIdx.x]] = {coords[point].x, coords[point].y, kinds[point], scores[point], ious[record],
                                    box.x, box.y, box.z, box.w, start};
    for (int i = threadIdx.x; i < words[record]; i += blockDim.x) out_bits[start + i] = bits[offsets[record] + i];
}
