// Which window decodes which point, and with which negatives (windows.most_central, assign, prompts.nearest_negatives).
#include "common.cuh"

#define MAX_NEGATIVES 4

// In float32, which holds every whole number below 2^24: cards for games have few units for float64.
__device__ inline bool holds(int2 origin, int window, float2 point) {
    return point.x >= (float)origin.x && point.x < (float)(origin.x + window) && point.y >= (float)origin.y &&
           point.y < (float)(origin.y + window);
}

// How far a coordinate lies from the window borders of its axis at which masks are cut.
__device__ inline double depth(float place, int origin, int window, int length) {
    const double before = (double)place - origin, after = (window - 1) - before;
    const double infinite = __longlong_as_double(0x7ff0000000000000LL);
    return fmin(origin <= 0 ? infinite : before, origin + window >= length ? infinite : after);
}

// central[i]: of the windows that hold point i the one that holds it farthest from such borders, the first of equals.
KERNEL find_central_windows(const float2* __restrict__ coords, const int* __restrict__ count,
                            const int2* __restrict__ origins, int windows, int window, const int* __restrict__ frame,
                            int* __restrict__ central) {
    for (int i = thread_index(); i < *count; i += grid_threads()) {
        const float2 point = coords[i];
        double deepest = -1.0;
        int best = -1;
        for (int w = 0; w < windows; ++w) {
            if (!holds(origins[w], window, point)) continue;
            const double now = fmin(depth(point.x, origins[w].x, window, frame[FRAME_WIDTH]),
                                    depth(point.y, origins[w].y, window, frame[FRAME_HEIGHT]));
            if (best < 0 || now > deepest) {
                deepest = now;
                best = w;
            }
        }
        central[i] = best;
    }
}

__device__ inline bool decodes(int w, int2 origin, int window, float2 point, int central, int all) {
    return all ? holds(origin, window, point) : central == w;
}

// counts[w]: points that window w decodes: those whose central window it is, or all that it holds. Grid: windows.
KERNEL count_prompts(const float2* __restrict__ coords, const int* __restrict__ count, const int2* __restrict__ origins,
                     int window, const int* __restrict__ central, int all, int* __restrict__ counts) {
    __shared__ int partial[32];
    const int w = blockIdx.x, n = *count;
    int own = 0, sum;
    for (int i = threadIdx.x; i < n; i += blockDim.x) own += decodes(w, origins[w], window, coords[i], central[i], all);
    sum_before(own, partial, sum);
    if (threadIdx.x == 0) counts[w] = sum;
}

// The prompts, by window and then by point: which point and which window. Grid: windows.
KERNEL list_prompts(const float2* __restrict__ coords, const int* __restrict__ count, const int2* __restrict__ origins,
                    int window, const int* __restrict__ central, int all, const int* __restrict__ starts,
                    int* __restrict__ points, int* __restrict__ windows) {
    __shared__ int partial[32];
    const int w = blockIdx.x, n = *count;
    int start = starts[w];
    for (int first = 0; first < n; first += blockDim.x) {
        const int i = first + threadIdx.x;
        const int own = i < n && decodes(w, origins[w], window, coords[i], central[i], all);
        int found;
        const int place = start + sum_before(own, partial, found);
        if (own) {
            points[place] = i;
            windows[place] = w;
        }
        start += found;
    }
}

// The decoder's inputs for the job's prompts: out_coords (P, 1 + negatives, 2) in the window's pixels, out_labels
// (P, 1 + negatives): the point, then its nearest others of that window, of equally near ones the lower index; and the
// window's place in the batch, as 64-bit or 32-bit integer. Places behind the last prompt are missing points of
// window 0. One thread a place; blocks of 128.
KERNEL point_prompts(const float2* __restrict__ coords, const int* __restrict__ count, const int2* __restrict__ origins,
                     int window, const int* __restrict__ points, const int* __restrict__ windows,
                     const int* __restrict__ job, int places, int negatives, float2* __restrict__ out_coords,
                     float* __restrict__ out_labels, i64* __restrict__ out_index, int* __restrict__ out_index32) {
    __shared__ float2 tile[128];
    const int place = thread_index(), n = *count;
    const bool prompts = place < job[JOB_PROMPTS] && place < places;
    const int prompt = job[JOB_FIRST_PROMPT] + place;
    const int point = prompts ? points[prompt] : -1, w = prompts ? windows[prompt] : -1;
    const int2 origin = prompts ? origins[w] : make_int2(0, 0);
    const float2 own = prompts ? coords[point] : make_float2(0.0f, 0.0f);
    const float2 local = make_float2(own.x - (float)origin.x, own.y - (float)origin.y);
    float2 nearest[MAX_NEGATIVES];
    double distance[MAX_NEGATIVES];
    int found = 0;
    if (negatives)  // the same for all
        for (int first = 0; first < n; first += 128) {
            for (int t = threadIdx.x; t < 128 && first + t < n; t += blockDim.x) tile[t] = coords[first + t];
            __syncthreads();
            for (int t = 0; t < min(128, n - first); ++t) {
                if (!prompts || first + t == point || !holds(origin, window, tile[t])) continue;
                const float2 other = make_float2(tile[t].x - (float)origin.x, tile[t].y - (float)origin.y);
                const double dx = (double)local.x - (double)other.x, dy = (double)local.y - (double)other.y;
                const double far = sqrt(dx * dx + dy * dy);
                if (found == negatives && far >= distance[found - 1]) continue;
                int q = found < negatives ? found++ : found - 1;
                for (; q > 0 && distance[q - 1] > far; --q) {
                    distance[q] = distance[q - 1];
                    nearest[q] = nearest[q - 1];
                }
                distance[q] = far;
                nearest[q] = other;
            }
            __syncthreads();
        }
    if (place >= places) return;
    float2* to = out_coords + (size_t)place * (1 + negatives);
    float* labels = out_labels + (size_t)place * (1 + negatives);
    to[0] = local;
    labels[0] = prompts ? 1.0f : -1.0f;
    for (int q = 0; q < negatives; ++q) {
        to[1 + q] = q < found ? nearest[q] : make_float2(0.0f, 0.0f);
        labels[1 + q] = q < found ? 0.0f : -1.0f;
    }
    int index = 0;
    for (int b = 0; b < job[JOB_WINDOWS]; ++b)
        if (job[JOB_BATCH + b] == w) index = b;
    if (out_index) out_index[place] = index;
    else out_index32[place] = index;
}
