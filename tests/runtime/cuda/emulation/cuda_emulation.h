// Runs CUDA C++ kernels on the CPU, for tests: g++ compiles the very files that nvcc compiles, with this in front.
//
// Every thread of a block is a fiber; blocks run one after the other. A fiber runs until it meets the others, at a
// barrier or a warp's vote or shuffle, and the order in which fibers run is shuffled, so that what only works in one
// order does not work here. Shared memory is filled with junk before each block. A launch ends with an error where
//   - threads of a block wait at different barriers, or some have returned while others wait,
//   - a lane named in the mask of a vote or shuffle does not come, or one that is not named does,
//   - a shuffle reads a lane that is not in the mask.
// What it cannot see: races between blocks, and the hardware's weak memory order.
#pragma once

#include <algorithm>
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <ucontext.h>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory")))

extern "C" char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));

struct dim3 { unsigned x, y, z; };
struct float2 { float x, y; };
struct int2 { int x, y; };
struct int3 { int x, y, z; };
struct int4 { int x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

namespace emulation {

constexpr unsigned kMostThreads = 1024;
constexpr size_t kStack = 64 << 10;

enum class State { Runs, AtBarrier, AtWarp, Done };

struct Fiber {
    ucontext_t context;
    std::jmp_buf place;
    std::vector<char> stack;
    bool started = false;
    State state = State::Done;
    dim3 index{};
    unsigned number = 0;
};

// Where the lanes of a warp meet. Results stay readable until the next meeting has results of its own.
struct Meeting {
    uint32_t expected = 0, arrived = 0;
    uint64_t given[32], seen[32];
};

inline thread_local std::string error;
inline dim3 grid_size, block_size, block_index;
inline std::vector<Fiber> fibers;
inline std::vector<Meeting> warps;
inline Fiber* current = nullptr;
inline std::jmp_buf scheduler;
inline std::function<void()> body;
inline int barrier_line = 0, barrier_votes = 0, barrier_result = 0;
inline unsigned waiting = 0;
inline std::mt19937 random;
inline bool shuffled = true;

// Leaves the kernel; the launch returns with this error.
[[noreturn]] inline void fail(const std::string& what, int line = 0) {
    error = what + " (block " + std::to_string(block_index.x) + ", " + std::to_string(block_index.y) + ", thread " +
            (current ? std::to_string(current->number) : "-") + (line ? ", line " + std::to_string(line) : "") + ")";
    std::longjmp(scheduler, 2);
}

inline void pause() {
    if (!_setjmp(current->place)) std::longjmp(scheduler, 1);
}

inline void live() {
    while (true) {
        body();
        current->state = State::Done;
        pause();
    }
}

inline void resume(Fiber& fiber) {
    current = &fiber;
    if (fiber.started) std::longjmp(fiber.place, 1);
    fiber.started = true;
    fiber.stack.resize(kStack);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, live, 0);
    setcontext(&fiber.context);
}

inline int barrier(int vote, int line) {
    if (waiting && barrier_line != line) fail("threads of one block wait at different barriers", line);
    barrier_line = line;
    barrier_votes |= vote != 0;
    ++waiting;
    current->state = State::AtBarrier;
    pause();
    return barrier_result;
}

// Give a value, and get those of all lanes in the mask.
inline const uint64_t* meet(uint32_t mask, uint64_t value, int line) {
    const unsigned lane = current->number % 32;
    Meeting& meeting = warps[current->number / 32];
    if (!(mask >> lane & 1)) fail("a lane votes that its mask does not name", line);
    if (meeting.arrived && meeting.expected != mask) fail("lanes of one warp meet with different masks", line);
    meeting.expected = mask;
    meeting.arrived |= 1u << lane;
    meeting.given[lane] = value;
    current->state = State::AtWarp;
    pause();
    return meeting.seen;
}

template <class T> uint64_t bits_of(T value) {
    static_assert(sizeof(T) <= 8);
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
}

template <class T> T shuffle(uint32_t mask, T value, int from, bool reads, int line) {
    const uint64_t* all = meet(mask, bits_of(value), line);
    if (!reads) return value;
    if (!(mask >> from & 1)) fail("a shuffle reads a lane that the mask does not name", line);
    T result;
    std::memcpy(&result, &all[from], sizeof result);
    return result;
}

inline uint32_t ballot(uint32_t mask, bool vote, int line) {
    const uint64_t* all = meet(mask, vote, line);
    uint32_t result = 0;
    for (int lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) result |= uint32_t(all[lane] & 1) << lane;
    return result;
}

// One pass over the threads of the block; returns whether any of them got on. In half of the blocks the warps race: one
// goes on alone until it waits for the others at a barrier.
inline volatile size_t turn;  // survives longjmp
inline std::vector<unsigned> race;
inline bool pass(std::vector<unsigned>& order) {
    if (shuffled) std::shuffle(order.begin(), order.end(), random);
    int racing = -1;
    for (size_t i = 0; i < race.size() && racing < 0; ++i)
        for (unsigned n = race[i] * 32; n < race[i] * 32 + 32 && n < order.size() && racing < 0; ++n)
            if (fibers[n].state == State::Runs) racing = int(race[i]);
    static bool moved;
    moved = false;
    for (turn = 0; turn < order.size(); turn = turn + 1) {
        Fiber& fiber = fibers[order[turn]];
        if (fiber.state != State::Runs || (racing >= 0 && fiber.number / 32 != unsigned(racing))) continue;
        moved = true;
        if (!_setjmp(scheduler)) resume(fiber);
        current = nullptr;
        if (!error.empty()) return false;
    }
    return moved;
}

// Lets the lanes of warps go on that have all met.
inline bool release_warps(unsigned threads) {
    bool moved = false;
    for (size_t w = 0; w < warps.size(); ++w) {
        Meeting& meeting = warps[w];
        if (!meeting.arrived || meeting.arrived != meeting.expected) continue;
        std::memcpy(meeting.seen, meeting.given, sizeof meeting.seen);
        meeting.arrived = 0;
        for (unsigned i = w * 32; i < threads && i < w * 32 + 32; ++i)
            if (fibers[i].state == State::AtWarp) fibers[i].state = State::Runs;
        moved = true;
    }
    return moved;
}

// Lets a block go on that has all met.
inline bool release_barrier(unsigned threads) {
    if (waiting != threads) return false;
    barrier_result = barrier_votes;
    barrier_votes = waiting = 0;
    for (unsigned i = 0; i < threads; ++i) fibers[i].state = State::Runs;
    return true;
}

inline void forget_fibers() {
    for (Fiber& fiber : fibers) fiber.started = false;
}

// Returns an error, or nothing.
inline const char* launch(dim3 grid, dim3 block, std::function<void()> kernel) {
    error.clear();
    const unsigned threads = block.x * block.y * block.z;
    if (!threads || threads > kMostThreads) error = "a block of " + std::to_string(threads) + " threads";
    else if (!grid.x || !grid.y || !grid.z) error = "an empty grid";
    if (!error.empty()) return error.c_str();
    grid_size = grid;
    block_size = block;
    body = std::move(kernel);
    if (fibers.size() < kMostThreads) fibers.resize(kMostThreads);
    std::vector<unsigned> order(threads);
    for (unsigned i = 0; i < threads; ++i) order[i] = i;
    for (unsigned long long b = 0, blocks = 1ULL * grid.x * grid.y * grid.z; b < blocks && error.empty(); ++b) {
        block_index = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
        if (__start_shared_memory)
            std::memset(__start_shared_memory, 0xCD, __stop_shared_memory - __start_shared_memory);
        warps.assign((threads + 31) / 32, {});
        waiting = 0;
        barrier_votes = 0;
        race.clear();
        if (shuffled && random() % 2) {
            for (unsigned w = 0; w < warps.size(); ++w) race.push_back(w);
            std::shuffle(race.begin(), race.end(), random);
        }
        for (unsigned i = 0; i < threads; ++i) {
            fibers[i].state = State::Runs;
            fibers[i].number = i;
            fibers[i].index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
        }
        while (error.empty()) {
            const bool ran = pass(order), met = release_warps(threads);
            if (!ran && !met && !(error.empty() && release_barrier(threads))) break;
        }
        if (!error.empty()) break;
        for (unsigned i = 0; i < threads && error.empty(); ++i)
            if (fibers[i].state == State::AtBarrier)
                error = "threads of one block have returned while others wait at the barrier of line " +
                        std::to_string(barrier_line);
            else if (fibers[i].state == State::AtWarp)
                error = "a lane named in a mask never comes (warp " + std::to_string(i / 32) + ")";
    }
    if (!error.empty()) forget_fibers();  // those that were left in the middle
    return error.empty() ? nullptr : error.c_str();
}

template <class... A, size_t... I>
const char* start(void (*kernel)(A...), dim3 grid, dim3 block, void** arguments, std::index_sequence<I...>) {
    return launch(grid, block,
                  [=] { kernel(*static_cast<std::remove_cv_t<std::remove_reference_t<A>>*>(arguments[I])...); });
}

template <class... A> const char* start(void (*kernel)(A...), dim3 grid, dim3 block, void** arguments) {
    return start(kernel, grid, block, arguments, std::index_sequence_for<A...>{});
}

template <class... A> int sizes(void (*)(A...), int* out) {
    const int all[] = {int(sizeof(A))...};
    if (out) std::memcpy(out, all, sizeof all);
    return int(sizeof...(A));
}

}  // namespace emulation

// For each kernel: its launch, which returns an error or nothing, and the sizes of its arguments.
#define EMULATED(name)                                                                                              \
    extern "C" __attribute__((visibility("default"))) const char* launch_##name(const unsigned* size, void** arguments) { \
        return emulation::start(&name, {size[0], size[1], size[2]}, {size[3], size[4], size[5]}, arguments);        \
    }                                                                                                               \
    extern "C" __attribute__((visibility("default"))) int arguments_##name(int* out) {                              \
        return emulation::sizes(&name, out);                                                                        \
    }

#define threadIdx (emulation::current->index)
#define blockIdx (emulation::block_index)
#define blockDim (emulation::block_size)
#define gridDim (emulation::grid_size)

#define __syncthreads() ((void)emulation::barrier(0, __LINE__))
#define __syncthreads_or(vote) emulation::barrier((vote), __LINE__)
#define __ballot_sync(mask, vote) emulation::ballot((mask), (vote), __LINE__)
#define __shfl_up_sync(mask, value, step)                                                       \
    emulation::shuffle((mask), (value), int(emulation::current->number % 32) - int(step),       \
                       int(emulation::current->number % 32) >= int(step), __LINE__)

inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
inline int __clz(int bits) { return bits ? __builtin_clz(unsigned(bits)) : 32; }
inline uint32_t __float_as_uint(float value) { return uint32_t(emulation::bits_of(value)); }
inline double __longlong_as_double(long long bits) { double value; std::memcpy(&value, &bits, 8); return value; }

template <class T> T atomicAdd(T* place, T value) { T old = *place; *place = old + value; return old; }
template <class T> T atomicSub(T* place, T value) { T old = *place; *place = old - value; return old; }
template <class T> T atomicMin(T* place, T value) { T old = *place; *place = old < value ? old : value; return old; }
template <class T> T atomicMax(T* place, T value) { T old = *place; *place = old > value ? old : value; return old; }
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }
using std::fabs; using std::fmax; using std::fmin; using std::rint; using std::sqrt;

extern "C" __attribute__((visibility("default"))) void emulation_seed(int shuffle, unsigned seed) {
    emulation::shuffled = shuffle;
    emulation::random.seed(seed);
}
