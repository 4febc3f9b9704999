// A libcuda.so.1 for tests: one pretended GPU whose memory is the host's and whose kernels are the emulated ones, so that
// code written for PyCUDA runs unchanged on a machine without a GPU.
//
// Streams are deferred: nothing that is put on a stream runs before something waits for it, and then streams take turns
// in an order that is drawn anew each time, as far as events allow. What waits for nothing may run first, last or in
// between; so a missing wait gives a wrong result here, where on a GPU it would give one on a bad day.
//
// Strict where the driver is lenient: asynchronous copies need page-locked memory, a captured stream takes no events,
// device memory is filled with junk and has guards on both sides that are looked at when it is freed. As strict as the
// driver: a thread that captures takes no memory and gives none back, and if it tries, the capture is lost.
//
// The kernel that STAND_IN_FAILS names fails when it runs, as does what is not a kernel if it names "function"; "capture" is
// work that cannot be recorded, and the calls that make graphs fail by their names.
#define __CUDA_API_VERSION_INTERNAL
#include <cuda.h>

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) CUresult
#define EXTRA extern "C" __attribute__((visibility("default")))

namespace {

constexpr size_t kGuard = 256;
constexpr unsigned char kJunk = 0xCD;

struct Recorded { bool done = false; double at = 0; };  // one recording of an event
using Work = std::function<CUresult()>;

struct Operation {
    Work work;                         // or
    std::shared_ptr<Recorded> record;  // mark as done, or
    std::shared_ptr<Recorded> wait;    // wait until it is
};
struct Graph { std::vector<Work> nodes; };
struct Stream {
    std::deque<Operation> queue;
    bool busy = false, destroyed = false, blocking = true, spoilt = false;
    std::unique_ptr<Graph> capture;
};
struct Event { std::shared_ptr<Recorded> last; };
struct Module { std::string image; };
struct Function {
    std::string name;
    const char* (*launch)(const unsigned*, void**);
    int (*arguments)(int*);
};

std::mutex lock;           // of everything below; never held while something runs
std::mutex kernel_lock;    // kernels take turns
std::condition_variable moved;
std::map<uintptr_t, size_t> device_memory, host_memory;
size_t memory_limit = 0, memory_peak = 0;  // of the GPU, bytes; no limit is 0
std::vector<Stream*> streams{new Stream};  // the first is the default stream
std::mt19937 order(1);
bool deferred = true;
CUresult broken = CUDA_SUCCESS;  // as on a GPU, an error in a kernel stays
std::map<std::string, long> counts;
std::string copies;  // "h2d 12", "d2h 4096", … one a line
std::string complaint;

thread_local std::vector<CUcontext> contexts;
thread_local Stream* captured = nullptr;  // by this thread
int primary;

double now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

CUresult complain(CUresult code, const std::string& what) {
    complaint = what;
    std::fprintf(stderr, "stand-in: %s\n", what.c_str());
    return code;
}

// What a thread must not do while it captures.
CUresult uncaptured(const char* what) {
    if (!captured) return CUDA_SUCCESS;
    captured->spoilt = true;
    return complain(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, std::string(what) + " by a thread that captures");
}

// Whether something may run, or is to fail.
CUresult allowed(const std::string& name, CUresult code = CUDA_ERROR_LAUNCH_FAILED) {
    const char* fails = std::getenv("STAND_IN_FAILS");
    return fails && name == fails ? complain(code, name + " fails, as it was told to") : CUDA_SUCCESS;
}

bool within(const std::map<uintptr_t, size_t>& memory, uintptr_t place, size_t bytes) {
    auto next = memory.upper_bound(place);
    if (next == memory.begin()) return false;
    --next;
    return place + bytes <= next->first + next->second;
}

CUresult current() { return broken ? broken : contexts.empty() ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS; }

Stream* of(CUstream handle) { return handle ? reinterpret_cast<Stream*>(handle) : streams[0]; }

bool ready(const Stream* stream) {
    return !stream->busy && !stream->queue.empty() && (!stream->queue.front().wait || stream->queue.front().wait->done);
}

// Runs what is on the streams, in an order of its own, until `enough`.
CUresult drain(std::unique_lock<std::mutex>& held, const std::function<bool()>& enough) {
    std::vector<Stream*> turns = streams;
    std::shuffle(turns.begin(), turns.end(), order);
    while (!enough()) {
        if (order() % 8 == 0) {
            turns = streams;
            std::shuffle(turns.begin(), turns.end(), order);
        }
        auto found = std::find_if(turns.begin(), turns.end(), ready);
        if (found == turns.end()) {
            turns = streams;  // another thread may have made one
            found = std::find_if(turns.begin(), turns.end(), ready);
        }
        if (found == turns.end()) {
            const bool others = std::any_of(streams.begin(), streams.end(), [](Stream* s) { return s->busy; });
            if (!others) return complain(CUDA_ERROR_LAUNCH_FAILED, "streams wait for each other for ever");
            moved.wait(held);
            continue;
        }
        Stream* stream = *found;
        Operation operation = std::move(stream->queue.front());
        stream->queue.pop_front();
        if (operation.work && !broken) {
            stream->busy = true;
            held.unlock();
            const CUresult code = operation.work();
            held.lock();
            stream->busy = false;
            if (code) broken = code;
        }
        if (operation.record) {
            operation.record->done = true;
            operation.record->at = now();
        }
        moved.notify_all();
    }
    return broken;
}

bool idle() {
    return std::all_of(streams.begin(), streams.end(), [](Stream* s) { return s->queue.empty() && !s->busy; });
}

CUresult put(CUstream handle, Operation operation) {
    std::unique_lock<std::mutex> held(lock);
    if (CUresult code = current()) return code;
    Stream* stream = of(handle);
    if (stream->capture) {
        if (stream->spoilt) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        if (CUresult code = allowed("capture", CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)) return code;
        if (!operation.work) return complain(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "an event on a captured stream");
        stream->capture->nodes.push_back(std::move(operation.work));
        return CUDA_SUCCESS;
    }
    stream->queue.push_back(std::move(operation));
    if (deferred) return CUDA_SUCCESS;
    return drain(held, [stream] { return stream->queue.empty() && !stream->busy; });
}

CUresult put(CUstream stream, Work work) { return put(stream, Operation{std::move(work), nullptr, nullptr}); }

CUresult on_device(CUdeviceptr place, size_t bytes) {
    std::lock_guard<std::mutex> held(lock);
    if (CUresult code = current()) return code;
    if (within(device_memory, place, bytes)) return CUDA_SUCCESS;
    return complain(CUDA_ERROR_INVALID_VALUE, "a copy or fill beyond device memory");
}

CUresult on_host(const void* place, size_t bytes) {
    std::lock_guard<std::mutex> held(lock);
    if (within(host_memory, reinterpret_cast<uintptr_t>(place), bytes)) return CUDA_SUCCESS;
    return complain(CUDA_ERROR_INVALID_VALUE, "an asynchronous copy of memory that is not page-locked");
}

void note(const char* kind, size_t bytes) {
    std::lock_guard<std::mutex> held(lock);
    copies += std::string(kind) + " " + std::to_string(bytes) + "\n";
}

bool intact(uintptr_t place, size_t bytes) {
    const auto* start = reinterpret_cast<const unsigned char*>(place);
    for (size_t i = 1; i <= kGuard; ++i)
        if (start[-static_cast<ptrdiff_t>(i)] != kJunk || start[bytes + i - 1] != kJunk) return false;
    return true;
}

// What was freed or destroyed while something was still to run stays until nothing is: freeing memory waits, on a GPU; here
// it must not, since the thread may hold what a host function on a stream needs.
struct Freed { uintptr_t place; size_t bytes; bool host; };
std::vector<Freed> freed;

CUresult bury() {
    if (!idle()) return CUDA_SUCCESS;
    for (const Freed& each : freed) {
        if (!each.host && !intact(each.place, each.bytes))
            broken = complain(CUDA_ERROR_ILLEGAL_ADDRESS, "something was written beside device memory");
        std::free(reinterpret_cast<unsigned char*>(each.place) - (each.host ? 0 : kGuard));
    }
    freed.clear();
    for (size_t i = streams.size(); i-- > 1;)
        if (streams[i]->destroyed) {
            delete streams[i];
            streams.erase(streams.begin() + static_cast<ptrdiff_t>(i));
        }
    return broken;
}

CUresult synchronize_all() {
    std::unique_lock<std::mutex> held(lock);
    if (CUresult code = current()) return code;
    return drain(held, idle);
}

void* kernels() {
    static void* library = [] {
        const char* path = std::getenv("STAND_IN_KERNELS");
        void* opened = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
        if (!opened) std::fprintf(stderr, "stand-in: STAND_IN_KERNELS names no library of kernels\n");
        return opened;
    }();
    return library;
}

}  // namespace

// For the tests.
EXTRA void stand_in_order(int defer, unsigned seed) {
    std::lock_guard<std::mutex> held(lock);
    deferred = defer;
    order.seed(seed);
    if (auto shuffle = reinterpret_cast<void (*)(int, unsigned)>(dlsym(kernels(), "emulation_seed"))) shuffle(seed > 0, seed);
}
EXTRA long stand_in_count(const char* name) {
    std::lock_guard<std::mutex> held(lock);
    return counts[name];
}
EXTRA const char* stand_in_copies() {  // those since the last call
    static std::string told;
    std::lock_guard<std::mutex> held(lock);
    told.swap(copies);
    copies.clear();
    return told.c_str();
}
EXTRA const char* stand_in_complaint() { return complaint.c_str(); }
// Bytes that there are of device memory from now on, 0 for as many as anybody wants; returns the most that were ever taken.
EXTRA long stand_in_memory(long bytes) {
    std::lock_guard<std::mutex> held(lock);
    memory_limit = static_cast<size_t>(bytes);
    return static_cast<long>(memory_peak);
}
EXTRA long stand_in_allocations() {
    std::lock_guard<std::mutex> held(lock);
    return static_cast<long>(device_memory.size());
}

API cuInit(unsigned) { return CUDA_SUCCESS; }
API cuDriverGetVersion(int* version) { *version = CUDA_VERSION; return CUDA_SUCCESS; }
API cuGetErrorString(CUresult code, const char** text) {
    static thread_local std::string told;
    told = "stand-in error " + std::to_string(int(code));
    *text = told.c_str();
    return CUDA_SUCCESS;
}
API cuGetErrorName(CUresult code, const char** text) { return cuGetErrorString(code, text); }
API cuDeviceGetCount(int* count) { *count = 1; return CUDA_SUCCESS; }
API cuDeviceGet(CUdevice* device, int) { *device = 0; return CUDA_SUCCESS; }
API cuDeviceGetName(char* name, int length, CUdevice) { std::snprintf(name, length, "stand-in"); return CUDA_SUCCESS; }
API cuDeviceTotalMem_v2(size_t* bytes, CUdevice) { *bytes = size_t(8) << 30; return CUDA_SUCCESS; }
API cuDeviceComputeCapability(int* major, int* minor, CUdevice) { *major = 8; *minor = 6; return CUDA_SUCCESS; }
API cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 8; break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 6; break;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
        default: *value = 1;
    }
    return CUDA_SUCCESS;
}
API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) { *context = reinterpret_cast<CUcontext>(&primary); return CUDA_SUCCESS; }
API cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }
API cuCtxPushCurrent_v2(CUcontext context) { contexts.push_back(context); return CUDA_SUCCESS; }
API cuCtxPopCurrent_v2(CUcontext* context) {
    if (contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (context) *context = contexts.back();
    contexts.pop_back();
    return CUDA_SUCCESS;
}
API cuCtxGetDevice(CUdevice* device) { *device = 0; return contexts.empty() ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS; }
API cuCtxGetApiVersion(CUcontext, unsigned* version) { *version = CUDA_VERSION; return CUDA_SUCCESS; }
API cuCtxSynchronize() { return synchronize_all(); }
API cuMemGetInfo_v2(size_t* free, size_t* total) { *free = *total = size_t(8) << 30; return CUDA_SUCCESS; }

API cuMemAlloc_v2(CUdeviceptr* out, size_t bytes) {
    std::lock_guard<std::mutex> held(lock);
    if (CUresult code = current()) return code;
    if (CUresult code = uncaptured("device memory is taken")) return code;
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    size_t taken = bytes;
    for (const auto& [place, size] : device_memory) taken += size;
    if (memory_limit && taken > memory_limit) return CUDA_ERROR_OUT_OF_MEMORY;
    memory_peak = std::max(memory_peak, taken);
    auto* whole = static_cast<unsigned char*>(std::aligned_alloc(256, (bytes + 2 * kGuard + 255) / 256 * 256));
    if (!whole) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(whole, kJunk, bytes + 2 * kGuard);
    *out = reinterpret_cast<CUdeviceptr>(whole + kGuard);
    device_memory[*out] = bytes;
    return CUDA_SUCCESS;
}
CUresult release(std::map<uintptr_t, size_t>& memory, uintptr_t place) {
    std::lock_guard<std::mutex> held(lock);
    if (CUresult code = uncaptured("memory is freed")) return code;
    auto found = memory.find(place);
    if (found == memory.end()) return CUDA_ERROR_INVALID_VALUE;
    freed.push_back({place, found->second, &memory == &host_memory});
    memory.erase(found);
    return bury();
}
API cuMemFree_v2(CUdeviceptr place) { return release(device_memory, place); }
API cuMemFreeHost(void* place) { return release(host_memory, reinterpret_cast<uintptr_t>(place)); }
API cuMemHostAlloc(void** out, size_t bytes, unsigned) {
    std::lock_guard<std::mutex> held(lock);
    if (CUresult code = uncaptured("page-locked memory is taken")) return code;
    *out = std::aligned_alloc(4096, (bytes + 4096) / 4096 * 4096);
    if (!*out) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(*out, kJunk, bytes);
    host_memory[reinterpret_cast<uintptr_t>(*out)] = bytes;
    return CUDA_SUCCESS;
}

API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    CUresult code = on_device(to, bytes);
    if (!code) code = on_host(from, bytes);
    note("h2d", bytes);
    return code ? code : put(stream, [=] { std::memcpy(reinterpret_cast<void*>(to), from, bytes); return CUDA_SUCCESS; });
}
API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    CUresult code = on_device(from, bytes);
    if (!code) code = on_host(to, bytes);
    note("d2h", bytes);
    return code ? code : put(stream, [=] { std::memcpy(to, reinterpret_cast<void*>(from), bytes); return CUDA_SUCCESS; });
}
API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    CUresult code = on_device(to, bytes);
    if (!code) code = on_device(from, bytes);
    return code ? code : put(stream, [=] {
        std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
        return CUDA_SUCCESS;
    });
}
API cuMemsetD8Async(CUdeviceptr place, unsigned char value, size_t bytes, CUstream stream) {
    const CUresult code = on_device(place, bytes);
    return code ? code : put(stream, [=] { std::memset(reinterpret_cast<void*>(place), value, bytes); return CUDA_SUCCESS; });
}

API cuStreamCreate(CUstream* out, unsigned flags) {
    std::lock_guard<std::mutex> held(lock);
    if (CUresult code = current()) return code;
    streams.push_back(new Stream);
    streams.back()->blocking = flags != CU_STREAM_NON_BLOCKING;
    *out = reinterpret_cast<CUstream>(streams.back());
    return CUDA_SUCCESS;
}
API cuStreamDestroy_v2(CUstream handle) {
    std::lock_guard<std::mutex> held(lock);
    of(handle)->destroyed = true;
    return bury();
}
API cuStreamSynchronize(CUstream handle) {
    std::unique_lock<std::mutex> held(lock);
    if (CUresult code = current()) return code;
    Stream* stream = of(handle);
    if (stream->capture) return complain(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "a captured stream is waited for");
    return drain(held, [stream] { return stream->queue.empty() && !stream->busy; });
}
API cuStreamQuery(CUstream handle) {
    std::lock_guard<std::mutex> held(lock);
    return of(handle)->queue.empty() && !of(handle)->busy ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
API cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    std::shared_ptr<Recorded> last;
    {
        std::lock_guard<std::mutex> held(lock);
        counts["wait"]++;
        last = reinterpret_cast<Event*>(event)->last;
        if (CUresult code = current()) return code;
    }
    return last ? put(stream, Operation{nullptr, nullptr, last}) : CUDA_SUCCESS;
}

API cuEventCreate(CUevent* event, unsigned) { *event = reinterpret_cast<CUevent>(new Event); return CUDA_SUCCESS; }
API cuEventDestroy_v2(CUevent event) { delete reinterpret_cast<Event*>(event); return CUDA_SUCCESS; }
API cuEventRecord(CUevent event, CUstream stream) {
    auto recorded = std::make_shared<Recorded>();
    {
        std::lock_guard<std::mutex> held(lock);
        reinterpret_cast<Event*>(event)->last = recorded;
    }
    return put(stream, Operation{nullptr, recorded, nullptr});
}
API cuEventSynchronize(CUevent event) {
    std::unique_lock<std::mutex> held(lock);
    if (CUresult code = current()) return code;
    std::shared_ptr<Recorded> last = reinterpret_cast<Event*>(event)->last;
    return last ? drain(held, [last] { return last->done; }) : CUDA_SUCCESS;
}
API cuEventQuery(CUevent event) {
    std::lock_guard<std::mutex> held(lock);
    auto& last = reinterpret_cast<Event*>(event)->last;
    return !last || last->done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
API cuEventElapsedTime_v2(float* milliseconds, CUevent first, CUevent second) {
    std::lock_guard<std::mutex> held(lock);
    if (CUresult code = current()) return code;
    auto &from = reinterpret_cast<Event*>(first)->last, &to = reinterpret_cast<Event*>(second)->last;
    if (!from || !to) return CUDA_ERROR_INVALID_HANDLE;
    if (!from->done || !to->done) return CUDA_ERROR_NOT_READY;
    *milliseconds = float(to->at - from->at);
    return CUDA_SUCCESS;
}

API cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) {
    if (CUresult code = current()) return code;
    const auto* bytes = static_cast<const unsigned char*>(image);
    size_t size;
    if (!std::memcmp(bytes, "\x7f" "ELF", 4)) {  // a cubin: its section headers come last
        uint64_t headers;
        uint16_t each, number;
        std::memcpy(&headers, bytes + 40, 8);
        std::memcpy(&each, bytes + 58, 2);
        std::memcpy(&number, bytes + 60, 2);
        size = headers + size_t(each) * number;
    } else if (bytes[0] == '/') {  // PTX
        size = std::strlen(static_cast<const char*>(image));
    } else {
        return CUDA_ERROR_INVALID_IMAGE;
    }
    *module = reinterpret_cast<CUmodule>(new Module{std::string(static_cast<const char*>(image), size)});
    return CUDA_SUCCESS;
}
API cuModuleLoadData(CUmodule* module, const void* image) { return cuModuleLoadDataEx(module, image, 0, nullptr, nullptr); }
API cuModuleUnload(CUmodule module) { delete reinterpret_cast<Module*>(module); return CUDA_SUCCESS; }
API cuModuleGetFunction(CUfunction* out, CUmodule module, const char* name) {
    if (reinterpret_cast<Module*>(module)->image.find(name) == std::string::npos || !kernels()) return CUDA_ERROR_NOT_FOUND;
    void* launch = dlsym(kernels(), (std::string("launch_") + name).c_str());
    void* arguments = dlsym(kernels(), (std::string("arguments_") + name).c_str());
    if (!launch || !arguments) return CUDA_ERROR_NOT_FOUND;
    *out = reinterpret_cast<CUfunction>(new Function{name, reinterpret_cast<const char* (*)(const unsigned*, void**)>(launch),
                                                     reinterpret_cast<int (*)(int*)>(arguments)});
    return CUDA_SUCCESS;
}
API cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }
API cuFuncSetBlockShape(CUfunction, int, int, int) { return CUDA_SUCCESS; }
API cuFuncSetSharedSize(CUfunction, unsigned) { return CUDA_SUCCESS; }
API cuFuncGetAttribute(int* value, CUfunction_attribute, CUfunction) { *value = 0; return CUDA_SUCCESS; }

API cuLaunchKernel(CUfunction handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned,
                   CUstream stream, void** parameters, void** extra) {
    auto* function = reinterpret_cast<Function*>(handle);
    const bool fits = gx && gy && gz && gy <= 65535 && gz <= 65535 && bx && by && bz && bx * by * bz <= 1024;
    if (!fits) return complain(CUDA_ERROR_INVALID_VALUE, function->name + ": a grid or block that no GPU takes");
    if (parameters || !extra) return complain(CUDA_ERROR_NOT_SUPPORTED, "arguments by pointer");
    const char* packed = nullptr;
    size_t length = 0;
    for (; *extra != CU_LAUNCH_PARAM_END; extra += 2)
        if (*extra == CU_LAUNCH_PARAM_BUFFER_POINTER) packed = static_cast<const char*>(extra[1]);
        else if (*extra == CU_LAUNCH_PARAM_BUFFER_SIZE) length = *static_cast<size_t*>(extra[1]);
    std::vector<int> sizes(function->arguments(nullptr));
    function->arguments(sizes.data());
    std::vector<size_t> offsets;
    size_t end = 0;
    for (int size : sizes) {
        end = (end + size - 1) / size * size;
        offsets.push_back(end);
        end += size;
    }
    if (end != length)
        return complain(CUDA_ERROR_INVALID_VALUE, function->name + ": " + std::to_string(length) + " bytes of arguments instead of " + std::to_string(end));
    auto values = std::make_shared<std::vector<uint64_t>>(length / 8 + 1);
    std::memcpy(values->data(), packed, length);
    return put(stream, [=] {
        {
            std::lock_guard<std::mutex> held(lock);
            counts[function->name]++;
        }
        if (CUresult code = allowed(function->name)) return code;
        const unsigned dimensions[] = {gx, gy, gz, bx, by, bz};
        std::vector<void*> arguments;
        for (size_t offset : offsets) arguments.push_back(reinterpret_cast<char*>(values->data()) + offset);
        std::lock_guard<std::mutex> turn(kernel_lock);
        const char* error = function->launch(dimensions, arguments.data());
        return error ? complain(CUDA_ERROR_LAUNCH_FAILED, function->name + ": " + error) : CUDA_SUCCESS;
    });
}

API cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
    return put(stream, [=] {
        if (CUresult code = allowed("function")) return code;
        function(data);
        return CUDA_SUCCESS;
    });
}

API cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode) {
    std::lock_guard<std::mutex> held(lock);
    if (CUresult code = current()) return code;
    if (!handle || of(handle)->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    // The driver captures it, and whatever other threads then do on the legacy stream fails.
    if (of(handle)->blocking)
        return complain(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "a stream is captured that blocks the legacy one");
    of(handle)->capture = std::make_unique<Graph>();
    of(handle)->spoilt = false;
    captured = of(handle);
    return CUDA_SUCCESS;
}
API cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
    std::lock_guard<std::mutex> held(lock);
    *status = of(handle)->capture ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}
API cuStreamEndCapture(CUstream handle, CUgraph* graph) {
    std::lock_guard<std::mutex> held(lock);
    if (!of(handle)->capture) return CUDA_ERROR_ILLEGAL_STATE;
    captured = nullptr;
    std::unique_ptr<Graph> made = std::move(of(handle)->capture);
    if (of(handle)->spoilt) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (CUresult code = allowed("cuStreamEndCapture", CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)) return code;
    *graph = reinterpret_cast<CUgraph>(made.release());
    return CUDA_SUCCESS;
}
API cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph graph, unsigned long long) {
    if (CUresult code = allowed("cuGraphInstantiate", CUDA_ERROR_OUT_OF_MEMORY)) return code;
    *out = reinterpret_cast<CUgraphExec>(new Graph(*reinterpret_cast<Graph*>(graph)));
    return CUDA_SUCCESS;
}
API cuGraphDestroy(CUgraph graph) { delete reinterpret_cast<Graph*>(graph); return CUDA_SUCCESS; }
API cuGraphExecDestroy(CUgraphExec graph) { delete reinterpret_cast<Graph*>(graph); return CUDA_SUCCESS; }
API cuGraphLaunch(CUgraphExec handle, CUstream stream) {
    auto nodes = reinterpret_cast<Graph*>(handle)->nodes;
    {
        std::lock_guard<std::mutex> held(lock);
        counts["graph"]++;
    }
    return put(stream, [nodes] {
        for (const Work& node : nodes)
            if (CUresult code = node()) return code;
        return CUDA_SUCCESS;
    });
}
