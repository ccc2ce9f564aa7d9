// A thread with a stack of a chosen size, on which jobs run one after the other.
#pragma once

#include <pthread.h>

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>

namespace mobilekit {

// ncnn walks the graph by recursion, a frame for each layer on the longest path (net.cpp, forward_layer).
// Measured frames are in docs/harness.md; this is several times the largest.
inline constexpr size_t kBaseStackBytes = size_t{8} << 20;
inline constexpr size_t kStackBytesPerLayer = 4096;

size_t stack_bytes_for_depth(size_t depth);

class Worker {
public:
    explicit Worker(size_t stack_bytes);  // throws Error(kMemory)
    ~Worker();
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    void run(std::function<void()> job);    // blocks; rethrows what the job threw
    void start(std::function<void()> job);  // returns at once; done_fd() becomes readable when it ends
    void finish();                          // after done_fd() is readable: rethrows what the job threw
    int done_fd() const { return done_fd_; }

private:
    static void* entry(void* self);
    void loop();

    pthread_t thread_{};
    std::mutex mutex_;
    std::condition_variable wake_;
    std::function<void()> job_;
    std::exception_ptr failure_;
    bool quit_ = false;
    int done_fd_ = -1;
};

}  // namespace mobilekit
