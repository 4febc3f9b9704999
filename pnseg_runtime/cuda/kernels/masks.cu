// Mask logits → thresholded boxes and bits at full resolution (masks.crop_masks, touches_inner_border).
//
// A mask is written as a record: its point, predicted IoU, box in the image, and its bits in a pool of words.
#include "common.cuh"

#define FAR 0x3fffffff  // beyond every image

// Where output pixel i of a row samples `size` logits: the one that it lies in, its neighbour on that side, and how much
// of that it takes (masks.upsample).
struct Sample { int own, other; double weight; };

__device__ inline Sample sample(int i, int size, int factor) {
    const int own = i / factor;
    const double shift = (i % factor + 0.5) / factor - 0.5;
    return {own, shift > 0.0 ? min(own + 1, size - 1) : max(own - 1, 0), fabs(shift)};
}

// Bilinear with half-pixel centres, in float64, in which the means are exact or nearly so; columns first.
__device__ inline bool positive(const float* logits, int size, int factor, int x, int y) {
    const Sample column = sample(x, size, factor), row = sample(y, size, factor);
    const float *own = logits + row.own * size, *other = logits + row.other * size;
    const double most = 1.0 - row.weight;
    const double here = (double)own[column.own] * most + (double)other[column.own] * row.weight;
    const double beside = (double)own[column.other] * most + (double)other[column.other] * row.weight;
    return here * (1.0 - column.weight) + beside * column.weight > 0.0;
}

// The box of true pixels: every thread gives its own (x1 and y1 exclusive; empty if x0 ≥ x1), all get that of the block.
__device__ inline int4 joined_box(int4 own, int* shared) {
    if (threadIdx.x == 0) {
        shared[0] = shared[1] = FAR;
        shared[2] = shared[3] = -FAR;
    }
    __syncthreads();
    if (own.x < own.z) {
        atomicMin(shared, own.x);
        atomicMin(shared + 1, own.y);
        atomicMax(shared + 2, own.z);
        atomicMax(shared + 3, own.w);
    }
    __syncthreads();
    const int4 box = make_int4(shared[0], shared[1], shared[2], shared[3]);
    __syncthreads();
    return box;
}

__device__ inline int4 grown(int4 box, int x, int y) {
    return make_int4(min(box.x, x), min(box.y, y), max(box.z, x + 1), max(box.w, y + 1));
}

// Grid: the decoder's places. A mask without a pixel, or one that its window cuts, gets no words.
KERNEL box_masks(const float* __restrict__ logits, const float* __restrict__ ious, int size, int window, int border,
                 const int* __restrict__ job, const int* __restrict__ frame, const int2* __restrict__ origins,
                 const int* __restrict__ points, const int* __restrict__ windows, int* __restrict__ record_points,
                 float* __restrict__ record_ious, int4* __restrict__ boxes, int* __restrict__ words) {
    __shared__ int shared[4];
    if ((int)blockIdx.x >= job[JOB_PROMPTS]) return;
    const int prompt = job[JOB_FIRST_PROMPT] + blockIdx.x, record = job[JOB_FIRST_RECORD] + blockIdx.x;
    const float* own = logits + (size_t)blockIdx.x * size * size;
    const int4 none = make_int4(FAR, FAR, -FAR, -FAR);
    int4 box = none;
    for (int i = threadIdx.x; i < size * size; i += blockDim.x)
        if (own[i] > 0.0f) box = grown(box, i % size, i / size);
    box = joined_box(box, shared);
    int4 tight = none;
    const int2 origin = origins[windows[prompt]];
    if (box.x < box.z) {
        // Only next to a positive logit can a mean of neighbours be positive.
        const int factor = window / size;
        const int x0 = max(box.x - 1, 0) * factor, y0 = max(box.y - 1, 0) * factor;
        const int x1 = min(min(box.z + 1, size) * factor, frame[FRAME_WIDTH] - origin.x);
        const int y1 = min(min(box.w + 1, size) * factor, frame[FRAME_HEIGHT] - origin.y);
        const int columns = max(x1 - x0, 0), pixels = columns * max(y1 - y0, 0);
        for (int i = threadIdx.x; i < pixels; i += blockDim.x) {
            const int x = x0 + i % columns, y = y0 + i / columns;
            if (positive(own, size, factor, x, y)) tight = grown(tight, x, y);
        }
    }
    tight = joined_box(tight, shared);
    if (threadIdx.x != 0) return;
    const bool empty = tight.x >= tight.z;
    const int width = frame[FRAME_WIDTH], height = frame[FRAME_HEIGHT];
    const bool cut = (tight.x <= border && origin.x > 0) || (tight.y <= border && origin.y > 0) ||
                     (window - (tight.z - 1) <= border && origin.x + window < width) ||
                     (window - (tight.w - 1) <= border && origin.y + window < height);
    const int4 placed = empty ? make_int4(0, 0, 0, 0)
                              : make_int4(tight.x + origin.x, tight.y + origin.y, tight.z + origin.x, tight.w + origin.y);
    record_points[record] = points[prompt];
    record_ious[record] = ious[blockIdx.x];
    boxes[record] = placed;
    words[record] = empty || cut ? 0 : mask_words(placed);
}

// Where each new record's bits go. What does not fit in the pool's capacity gets no words, but counts as wanted.
// One block.
KERNEL place_masks(const int* __restrict__ job, int capacity, int* __restrict__ words, int* __restrict__ offsets,
                   int* __restrict__ pool) {
    __shared__ int partial[32];
    const int n = job[JOB_PROMPTS], record = job[JOB_FIRST_RECORD];
    int start = pool[POOL_WANTED];
    for (int first = 0; first < n; first += blockDim.x) {
        const int i = first + threadIdx.x, own = i < n ? words[record + i] : 0;
        int sum;
        const int offset = start + sum_before(own, partial, sum);
        if (i < n) {
            offsets[record + i] = offset;
            if (offset + own > capacity) words[record + i] = 0;
        }
        start += sum;
    }
    if (threadIdx.x == 0) pool[POOL_WANTED] = start;
}

// Grid: the decoder's places; blocks of whole warps, one word a warp and step.
KERNEL write_masks(const float* __restrict__ logits, int size, int window, const int* __restrict__ job,
                   const int2* __restrict__ origins, const int* __restrict__ windows, const int4* __restrict__ boxes,
                   const int* __restrict__ words, const int* __restrict__ offsets, u32* __restrict__ bits) {
    if ((int)blockIdx.x >= job[JOB_PROMPTS]) return;
    const int record = job[JOB_FIRST_RECORD] + blockIdx.x;
    const float* own = logits + (size_t)blockIdx.x * size * size;
    const int2 origin = origins[windows[job[JOB_FIRST_PROMPT] + blockIdx.x]];
    const int4 box = boxes[record];
    const int lane = threadIdx.x & 31, width = box.z - box.x, row = row_words(box);
    const int factor = window / size;
    for (int word = threadIdx.x >> 5; word < words[record]; word += blockDim.x >> 5) {
        const int x = word % row * 32 + lane, y = word / row;
        const bool on = x < width && positive(own, size, factor, box.x - origin.x + x, box.y - origin.y + y);
        const u32 all = __ballot_sync(ALL_LANES, on);
        if (lane == 0) bits[offsets[record] + word] = all;
    }
}
