// What the kernels share. nvcc and NVRTC compile them for GPUs; the tests compile the same files with g++ and run them on
// the CPU. No multiplication is fused with an addition (-fmad=false), so that both give the bits that NumPy gives.
#pragma once

typedef unsigned char u8;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#define KERNEL extern "C" __global__ void
#define ALL_LANES 0xffffffffu

// The image that is being worked on, in device memory, so that captured graphs serve images of every size.
enum Frame { FRAME_HEIGHT, FRAME_WIDTH, FRAME_INTS };

// What one run of the encoder or decoder is about, likewise; the batch's windows follow.
enum Job { JOB_FIRST_PROMPT, JOB_PROMPTS, JOB_FIRST_RECORD, JOB_WINDOWS, JOB_BATCH };

// Memory for the masks' bits: words handed out, and words wanted; more wanted than there are means: repeat with more.
enum Pool { POOL_WANTED, POOL_INTS };

__device__ inline int thread_index() { return blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline int grid_threads() { return gridDim.x * blockDim.x; }

// A number whose order as u32 is that of the float: -0 equals 0, and what is no number comes before everything.
__device__ inline u32 ordered(float value) {
    if (!(value == value)) return 0;
    value += 0.0f;
    u32 bits = __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Sum of the values of all threads before this one, and of all; every thread of the block calls it.
// `partial` is shared memory of 32 ints; a block has whole warps.
__device__ inline int sum_before(int value, int* partial, int& total) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    int sum = value;
    for (int step = 1; step < 32; step <<= 1) {
        const int other = __shfl_up_sync(ALL_LANES, sum, step);
        if (lane >= step) sum += other;
    }
    if (lane == 31) partial[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        int whole = lane < warps ? partial[lane] : 0;
        for (int step = 1; step < 32; step <<= 1) {
            const int other = __shfl_up_sync(ALL_LANES, whole, step);
            if (lane >= step) whole += other;
        }
        partial[lane] = whole;
    }
    __syncthreads();
    const int before = warp ? partial[warp - 1] : 0;
    total = partial[warps - 1];
    __syncthreads();  // so that the next call may use the memory
    return before + sum - value;
}

// Mask bits: rows of whole words, the lowest bit first.
__device__ inline int row_words(int4 box) { return (box.z - box.x + 31) >> 5; }
__device__ inline int mask_words(int4 box) { return row_words(box) * (box.w - box.y); }
