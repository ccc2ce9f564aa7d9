#include "worker.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "error.h"

namespace mobilekit {

size_t stack_bytes_for_depth(size_t depth) { return kBaseStackBytes + depth * kStackBytesPerLayer; }

Worker::Worker(size_t stack_bytes) {
    done_fd_ = ::eventfd(0, EFD_CLOEXEC);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    int problem = done_fd_ < 0 ? errno : pthread_attr_setstacksize(&attributes, stack_bytes);
    if (problem == 0) problem = pthread_create(&thread_, &attributes, &Worker::entry, this);
    pthread_attr_destroy(&attributes);
    if (problem != 0) {
        if (done_fd_ >= 0) ::close(done_fd_);
        throw Error(ErrorCode::kMemory, "cannot start a thread with a stack of " + std::to_string(stack_bytes) +
                                            " bytes: " + std::strerror(problem));
    }
}

Worker::~Worker() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        quit_ = true;
    }
    wake_.notify_one();
    pthread_join(thread_, nullptr);
    ::close(done_fd_);
}

void Worker::start(std::function<void()> job) {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        job_ = std::move(job);
    }
    wake_.notify_one();
}

void Worker::finish() {
    uint64_t count = 0;
    while (::read(done_fd_, &count, sizeof(count)) < 0 && errno == EINTR) {
    }
    std::exception_ptr failure;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        std::swap(failure, failure_);
    }
    if (failure) std::rethrow_exception(failure);
}

void Worker::run(std::function<void()> job) {
    start(std::move(job));
    finish();
}

void* Worker::entry(void* self) {
    static_cast<Worker*>(self)->loop();
    return nullptr;
}

void Worker::loop() {
    for (;;) {
        std::function<void()> job;
        {
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [this] { return quit_ || job_; });
            if (quit_) return;
            job.swap(job_);
        }
        std::exception_ptr failure;
        try {
            job();
        } catch (...) {
            failure = std::current_exception();
        }
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            failure_ = failure;
        }
        const uint64_t one = 1;
        while (::write(done_fd_, &one, sizeof(one)) < 0 && errno == EINTR) {
        }
    }
}

}  // namespace mobilekit
