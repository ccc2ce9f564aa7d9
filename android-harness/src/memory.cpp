#include "memory.h"

#include <cstring>

namespace mobilekit {

void* CountingAllocator::fastMalloc(size_t size) {
    static_assert(kPrefix % NCNN_MALLOC_ALIGN == 0, "the prefix must keep ncnn's alignment");
    if (size > SIZE_MAX - kPrefix) return nullptr;
    auto* block = static_cast<unsigned char*>(pool_.fastMalloc(size + kPrefix));
    if (!block) return nullptr;
    std::memcpy(block, &size, sizeof(size));
    usage_.add(size);
    total_.add(size);
    return block + kPrefix;
}

void CountingAllocator::fastFree(void* pointer) {
    if (!pointer) return;
    unsigned char* block = static_cast<unsigned char*>(pointer) - kPrefix;
    size_t size = 0;
    std::memcpy(&size, block, sizeof(size));
    usage_.remove(size);
    total_.remove(size);
    pool_.fastFree(block);
}

}  // namespace mobilekit
