// Counts exactly what ncnn asks for, on top of the pool that ncnn would use anyway (so timing is as usual).
#pragma once

#include <allocator.h>

#include <atomic>
#include <cstdint>

namespace mobilekit {

// Bytes in use and their peak; several allocators may share one total.
class Usage {
public:
    void add(uint64_t bytes) {
        const uint64_t now = current_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
        uint64_t peak = peak_.load(std::memory_order_relaxed);
        while (now > peak && !peak_.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
        }
    }
    void remove(uint64_t bytes) { current_.fetch_sub(bytes, std::memory_order_relaxed); }
    void reset_peak() { peak_.store(current_.load(std::memory_order_relaxed), std::memory_order_relaxed); }
    uint64_t current() const { return current_.load(std::memory_order_relaxed); }
    uint64_t peak() const { return peak_.load(std::memory_order_relaxed); }

private:
    std::atomic<uint64_t> current_{0};
    std::atomic<uint64_t> peak_{0};
};

// fastFree is told no size, so each block carries its own in front of it.
class CountingAllocator : public ncnn::Allocator {
public:
    explicit CountingAllocator(Usage& total) : total_(total) { pool_.set_size_compare_ratio(0.f); }
    void* fastMalloc(size_t size) override;
    void fastFree(void* pointer) override;
    Usage& usage() { return usage_; }

private:
    static constexpr size_t kPrefix = 64;  // at least NCNN_MALLOC_ALIGN on every ABI
    ncnn::PoolAllocator pool_;
    Usage usage_;
    Usage& total_;
};

}  // namespace mobilekit
