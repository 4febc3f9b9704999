// The prompter's outputs → candidate points (prompts.image_anchors, decode_points, filter_by_region; MacroTile.owns).
#include "common.cuh"

// The exponential of x ≤ 0, operation by operation as prompts._exponential.
__device__ inline double exponential(double x) {
    if (!(x == x)) return x;
    if (x < -700.0) x = -700.0;
    const double twos = rint(x * 1.4426950408889634);
    const double rest = (x - twos * 0.693147180369123816490) - twos * 1.90821492927058770002e-10;
    double result = 1.0 / 40320.0;
    result = result * rest + 1.0 / 5040.0;
    result = result * rest + 1.0 / 720.0;
    result = result * rest + 1.0 / 120.0;
    result = result * rest + 1.0 / 24.0;
    result = result * rest + 1.0 / 6.0;
    result = result * rest + 1.0 / 2.0;
    result = result * rest + 1.0;
    result = result * rest + 1.0;
    return result * __longlong_as_double(((i64)twos + 1023) << 52);  // twos ≥ -1010: a normal number
}

// One thread an anchor of the view's own rows × columns, of a padded grid that has padded_columns a row.
// points (M, 2), logits (M, classes) with background last, region (…, pitch). The view lies at (x, y) of the image.
KERNEL decode_anchors(const float* __restrict__ points, const float* __restrict__ logits,
                      const float* __restrict__ region, int rows, int columns, int padded_columns, int classes,
                      int pitch, int x, int y, int width, int height, int core_x0, int core_y0, int core_x1,
                      int core_y1, float sensitivity, float threshold, int filtered, float2* __restrict__ coords,
                      int* __restrict__ kinds, float* __restrict__ scores, int* __restrict__ keep) {
    for (int i = thread_index(); i < rows * columns; i += grid_threads()) {
        const size_t anchor = (size_t)(i / columns) * padded_columns + i % columns;
        const float* own = logits + anchor * classes;
        int best = 0;
        float highest = classes == 1 ? own[0] - sensitivity : own[0];
        for (int c = 1; c < classes; ++c) {
            const float logit = c == classes - 1 ? own[c] - sensitivity : own[c];
            if (highest == highest && !(logit <= highest)) {  // what is no number wins, as in NumPy
                best = c;
                highest = logit;
            }
        }
        double sum = 0.0;
        for (int c = 0; c < classes; ++c) {
            const float logit = c == classes - 1 ? own[c] - sensitivity : own[c];
            sum = sum + exponential((double)logit - (double)highest);
        }
        const float score = (float)(1.0 / sum);
        const float px = points[2 * anchor], py = points[2 * anchor + 1];
        bool stays = best < classes - 1 && score >= threshold && px - px == 0.0f && py - py == 0.0f;
        const float cx = fminf(fmaxf(px, 0.0f), (float)(width - 1)), cy = fminf(fmaxf(py, 0.0f), (float)(height - 1));
        if (stays && filtered) stays = region[(size_t)(int)cy * pitch + (int)cx] > 0.0f;
        const float2 place = make_float2(cx + (float)x, cy + (float)y);
        stays = stays && core_x0 <= place.x && place.x < core_x1 && core_y0 <= place.y && place.y < core_y1;
        coords[i] = place;
        kinds[i] = best;
        scores[i] = score;
        keep[i] = stays;
    }
}
