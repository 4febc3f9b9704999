// NMS over all classes by predicted IoU, of boxes or of masks (suppress.descending, nms.box_iou, nms.suppress_boxes,
// nms.suppress_masks).
#include "common.cuh"

// rank[i]: how many of the *count values come before value i, the highest first, equal ones by index, those that are no
// numbers last; order[rank[i]] = i. Blocks of 256.
KERNEL rank_values(const float* __restrict__ values, const int* __restrict__ count, int* __restrict__ rank,
                   int* __restrict__ order) {
    __shared__ u32 tile[256];
    const int n = *count, i = thread_index();
    if ((int)(blockIdx.x * blockDim.x) >= n) return;  // the whole block
    const u32 own = i < n ? ordered(values[i]) : 0;
    int before = 0;
    for (int first = 0; first < n; first += 256) {
        for (int t = threadIdx.x; t < 256 && first + t < n; t += blockDim.x) tile[t] = ordered(values[first + t]);
        __syncthreads();
        for (int t = 0; t < min(256, n - first); ++t) before += tile[t] > own || (tile[t] == own && first + t < i);
        __syncthreads();
    }
    if (i >= n) return;
    rank[i] = before;
    order[before] = i;
}

__device__ inline double iou(int4 a, int4 b) {
    const i64 width = min(a.z, b.z) - max(a.x, b.x), height = min(a.w, b.w) - max(a.y, b.y);
    const i64 shared = width > 0 && height > 0 ? width * height : 0;
    const i64 both = (i64)(a.z - a.x) * (a.w - a.y) + (i64)(b.z - b.x) * (b.w - b.y) - shared;
    return (double)shared / (double)(both > 1 ? both : 1);
}

// The 32 columns of a row of mask bits from column `first` on, which may lie outside of its words.
__device__ inline u32 columns_from(const u32* bits, int words, int first) {
    const int word = first >> 5, shift = first & 31;
    const u32 low = word >= 0 && word < words ? bits[word] : 0;
    if (!shift) return low;
    const u32 high = word + 1 >= 0 && word + 1 < words ? bits[word + 1] : 0;
    return low >> shift | high << (32 - shift);
}

__device__ inline int shared_pixels(int4 a, const u32* own, int4 b, const u32* other) {
    const int words = row_words(a), others = row_words(b);
    int shared = 0;
    for (int y = max(a.y, b.y); y < min(a.w, b.w); ++y)
        for (int word = 0; word < words; ++word)
            shared += __popc(own[(y - a.y) * words + word] &
                             columns_from(other + (y - b.y) * others, others, a.x + 32 * word - b.x));
    return shared;
}

// Whether masks share more than a part of the smaller one.
__device__ inline bool share(int4 a, const u32* own, int4 b, const u32* other, double threshold) {
    if (min(a.z, b.z) <= max(a.x, b.x) || min(a.w, b.w) <= max(a.y, b.y)) return false;
    const int shared = shared_pixels(a, own, b, other);
    return shared && (double)shared > threshold * (double)min(shared_pixels(a, own, a, own), shared_pixels(b, other, b, other));
}

// conflicts: by rank, row i has bit j > i where the boxes overlap by more than the threshold, or the masks do; of a strip
// of rows, from word `start` of 64 rows on. Grid: (row, the strip's) words of 64; blocks of 64; `row` words a row.
KERNEL find_conflicts(const int4* __restrict__ boxes, const int* __restrict__ chosen, const int* __restrict__ order,
                      const int* __restrict__ count, const int* __restrict__ offsets, const u32* __restrict__ bits,
                      double threshold, int by_masks, int row, int start, u64* __restrict__ conflicts) {
    __shared__ int4 tile[64];
    __shared__ int starts[64];
    const int n = *count, first = blockIdx.x * 64, word = start + blockIdx.y, i = word * 64 + threadIdx.x;
    if (first >= n || word * 64 >= n || (int)blockIdx.x < word) return;  // the whole block
    if (first + (int)threadIdx.x < n) {
        const int record = chosen[order[first + threadIdx.x]];
        tile[threadIdx.x] = boxes[record];
        starts[threadIdx.x] = offsets[record];
    }
    __syncthreads();
    if (i >= n) return;
    const int record = chosen[order[i]];
    const int4 own = boxes[record];
    const u32* mask = bits + offsets[record];
    u64 found = 0;
    for (int j = 0; j < min(64, n - first); ++j)
        if (first + j > i && (by_masks ? share(own, mask, tile[j], bits + starts[j], threshold) : iou(own, tile[j]) > threshold))
            found |= 1ULL << j;
    conflicts[(size_t)(i - start * 64) * row + blockIdx.x] = found;
}

// keep[i] = 1 for what the greedy loop keeps of a strip of `words` words of 64 rows from `start` on, strip after strip.
// removed: zeros before the first one, `row` words. One block of at least 64.
KERNEL reduce_conflicts(const u64* __restrict__ conflicts, const int* __restrict__ order, const int* __restrict__ count,
                        int row, int start, int words, u64* removed, int* __restrict__ keep) {
    __shared__ u64 diagonal[64];
    __shared__ u64 kept;
    const int n = *count;
    for (int word = start; word < start + words && word * 64 < n; ++word) {
        const int first = word * 64, here = min(64, n - first);
        const u64* rows = conflicts + (size_t)(first - start * 64) * row;
        if ((int)threadIdx.x < here) diagonal[threadIdx.x] = rows[(size_t)threadIdx.x * row + word];
        __syncthreads();
        if (threadIdx.x == 0) {
            u64 gone = removed[word], stays = 0;
            for (int i = 0; i < here; ++i)
                if (!(gone >> i & 1)) {
                    stays |= 1ULL << i;
                    gone |= diagonal[i];
                }
            kept = stays;
        }
        __syncthreads();
        if ((int)threadIdx.x < here) keep[order[first + threadIdx.x]] = kept >> threadIdx.x & 1;
        for (int other = word + 1 + threadIdx.x; other * 64 < n; other += blockDim.x) {
            u64 gone = removed[other];
            for (u64 left = kept; left; left &= left - 1)
                gone |= rows[(size_t)(__ffsll((i64)left) - 1) * row + other];
            removed[other] = gone;  // read behind the next round's first barrier
        }
    }
}
