// A mask cut to its largest piece, its holes filled or not, in a box that fits (painting.largest_piece, masks.tighten).
//
// Pieces are connected at sides and corners; a hole is background that no path along sides leads out of. All regions
// are bits, grown a word at a time until nothing changes.
#include "common.cuh"

enum Mode { TIGHTEN, LARGEST, LARGEST_FILLED };

struct Area { int words, rows, width; };  // words a row, rows, columns

__device__ inline u32 columns_of(Area area, int word) {
    const int left = area.width - word * 32;
    return left >= 32 ? 0xffffffffu : (1u << left) - 1;
}

// All of `allowed` that is reached from `from` along the word.
__device__ inline u32 flow(u32 from, u32 allowed) {
    u32 up = from, down = from, pass = allowed;
    for (int step = 1; step < 32; step <<= 1) {
        up |= pass & (up << step);
        pass &= pass << step;
    }
    pass = allowed;
    for (int step = 1; step < 32; step <<= 1) {
        down |= pass & (down >> step);
        pass &= pass >> step;
    }
    return up | down;
}

// The words of a row beside each other, as seen from one of them: 1 column to either side.
__device__ inline u32 spread(const volatile u32* row, int word, int words) {
    const u32 own = row[word];
    u32 wide = own | own << 1 | own >> 1;
    if (word > 0) wide |= row[word - 1] >> 31;
    if (word < words - 1) wide |= row[word + 1] << 31;
    return wide;
}

// Grow `region` within `within`, or within all but that, along sides or corners too, until nothing changes.
__device__ inline void grow(volatile u32* region, const volatile u32* within, bool inverted, bool corners, Area area) {
    int changed = 1;
    while (__syncthreads_or(changed)) {
        changed = 0;
        for (int i = threadIdx.x; i < area.words * area.rows; i += blockDim.x) {
            const int word = i % area.words, y = i / area.words;
            const u32 allowed = (inverted ? ~within[i] : within[i]) & columns_of(area, word);
            const u32 old = region[i];
            if (old == allowed) continue;
            u32 reached = spread(region + y * area.words, word, area.words);
            if (y > 0) reached |= corners ? spread(region + (y - 1) * area.words, word, area.words) : region[i - area.words];
            if (y < area.rows - 1)
                reached |= corners ? spread(region + (y + 1) * area.words, word, area.words) : region[i + area.words];
            const u32 now = old | flow(reached & allowed, allowed);
            if (now != old) {
                region[i] = now;
                changed = 1;
            }
        }
    }
}

// One block a chosen mask. bits and the three scratch pools are addressed alike. Boxes and words change with the mask;
// a mask of which nothing is left gets an empty box and no words.
KERNEL tidy_masks(const int* __restrict__ chosen, const int* __restrict__ count, const int* __restrict__ offsets,
                  int mode, int4* __restrict__ boxes, int* __restrict__ words, u32* bits, u32* outside, u32* piece,
                  u32* largest) {
    __shared__ int partial[32];
    __shared__ int shared[4];
    __shared__ int seed;
    if ((int)blockIdx.x >= *count) return;
    const int record = chosen[blockIdx.x], offset = offsets[record];
    const int4 box = boxes[record];
    const Area area = {row_words(box), box.w - box.y, box.z - box.x};
    const int n = words[record] ? area.words * area.rows : 0;
    u32* mask = bits + offset;
    if (n && mode != TIGHTEN) {
        volatile u32 *out = outside + offset, *now = piece + offset, *best = largest + offset;
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            const int word = i % area.words, y = i / area.words;
            u32 edge = y == 0 || y == area.rows - 1 ? 0xffffffffu : word == 0 ? 1u : 0u;
            if (word == area.words - 1) edge |= 1u << ((area.width - 1) & 31);
            out[i] = edge & ~mask[i] & columns_of(area, word);
            best[i] = 0;
        }
        grow(out, mask, true, false, area);
        int record_area = 0;
        while (true) {  // every piece, in the order of its first pixel; those that are done count as outside
            if (threadIdx.x == 0) seed = n;
            __syncthreads();
            int first = n;
            for (int i = threadIdx.x; i < n && first == n; i += blockDim.x)
                if (~out[i] & columns_of(area, i % area.words)) first = i;
            atomicMin(&seed, first);
            __syncthreads();
            const int start = seed;
            __syncthreads();  // all know it before it is set anew
            if (start == n) break;
            for (int i = threadIdx.x; i < n; i += blockDim.x) {
                const u32 inside = ~out[i] & columns_of(area, i % area.words);
                now[i] = i == start ? inside & (0u - inside) : 0;
            }
            grow(now, out, true, true, area);
            int own = 0, pixels;
            for (int i = threadIdx.x; i < n; i += blockDim.x) own += __popc(now[i] & mask[i]);
            sum_before(own, partial, pixels);
            for (int i = threadIdx.x; i < n; i += blockDim.x) {
                if (pixels > record_area) best[i] = now[i];
                out[i] = out[i] | now[i];
            }
            if (pixels > record_area) record_area = pixels;
            __syncthreads();
        }
        for (int i = threadIdx.x; i < n; i += blockDim.x) mask[i] = mode == LARGEST ? mask[i] & best[i] : best[i];
        __syncthreads();
    }
    // The box of what is left.
    if (threadIdx.x == 0) {
        shared[0] = shared[1] = 0x7fffffff;
        shared[2] = shared[3] = -1;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        const u32 own = mask[i];
        if (!own) continue;
        const int word = i % area.words, y = i / area.words;
        atomicMin(shared, word * 32 + __ffs(own) - 1);
        atomicMin(shared + 1, y);
        atomicMax(shared + 2, word * 32 + 32 - __clz(own));
        atomicMax(shared + 3, y + 1);
    }
    __syncthreads();
    const int x0 = shared[0], y0 = shared[1], x1 = shared[2], y1 = shared[3];
    const bool empty = x1 < 0;
    const int4 tight = empty ? make_int4(box.x, box.y, box.x, box.y)
                             : make_int4(box.x + x0, box.y + y0, box.x + x1, box.y + y1);
    // Rows move up and to the left. A word of the result lies nowhere behind the words it is made of; so that no thread
    // reads what another has written, all of a round is read before any of it is written.
    const int row = row_words(tight), moved = empty ? 0 : mask_words(tight);
    for (int first = 0; first < moved; first += blockDim.x) {
        const int i = first + threadIdx.x;
        u32 value = 0;
        if (i < moved) {
            const int y = y0 + i / row, x = x0 + i % row * 32, word = x >> 5, shift = x & 31;
            const u32* from = mask + y * area.words;
            value = from[word] >> shift;
            if (shift && word + 1 < area.words) value |= from[word + 1] << (32 - shift);
            const int left = tight.z - tight.x - i % row * 32;
            if (left < 32) value &= (1u << left) - 1;
        }
        __syncthreads();
        if (i < moved) mask[i] = value;
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        boxes[record] = tight;
        words[record] = moved;
    }
}
