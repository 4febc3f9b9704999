// uint8 windows of an image → the networks' batch (pipeline.normalise, windows.cut, windows.mirror).
#include "common.cuh"

// Mirrored without repeating the edge; a side of one pixel repeats it.
__device__ inline int reflect(int i, int length) {
    if (length == 1) return 0;
    const int period = 2 * (length - 1);
    i %= period;
    return i < length ? i : period - i;
}

// image: (FRAME_HEIGHT, FRAME_WIDTH, 3); views: (B, 4) x, y, width and height of what each window sees of the image,
// mirrored beyond; a view without width gives zeros. out: (B, 3, height, width). Grid: (any, B).
KERNEL normalise_windows(const u8* __restrict__ image, const int* __restrict__ frame, const int* __restrict__ views,
                         int height, int width, float mean0, float mean1, float mean2, float std0, float std1,
                         float std2, float* __restrict__ out) {
    const int* view = views + 4 * blockIdx.y;
    const int size = height * width;
    float* planes = out + (size_t)blockIdx.y * 3 * size;
    for (int i = thread_index(); i < size; i += grid_threads()) {
        if (view[2] == 0) {
            planes[i] = planes[size + i] = planes[2 * (size_t)size + i] = 0.0f;
            continue;
        }
        const int y = view[1] + reflect(i / width, view[3]), x = view[0] + reflect(i % width, view[2]);
        const u8* pixel = image + 3 * ((size_t)y * frame[FRAME_WIDTH] + x);
        planes[i] = ((float)pixel[0] / 255.0f - mean0) / std0;
        planes[size + i] = ((float)pixel[1] / 255.0f - mean1) / std1;
        planes[2 * (size_t)size + i] = ((float)pixel[2] / 255.0f - mean2) / std2;
    }
}
