#include "files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "error.h"

namespace mobilekit {

namespace {

[[noreturn]] void fail(const std::string& verb, const std::string& path) {
    throw Error(ErrorCode::kFile, "cannot " + verb + " " + path + ": " + std::strerror(errno));
}

struct Descriptor {
    int fd;
    ~Descriptor() { ::close(fd); }
};

}  // namespace

std::vector<uint8_t> read_file(const std::string& path, uint64_t max_bytes) {
    const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    if (file.fd < 0) fail("open", path);
    struct stat status {};
    if (::fstat(file.fd, &status) != 0) fail("read", path);
    if (!S_ISREG(status.st_mode)) throw Error(ErrorCode::kFile, path + " is no regular file");
    if (static_cast<uint64_t>(status.st_size) > max_bytes)
        throw Error(ErrorCode::kFile, path + " is longer than " + std::to_string(max_bytes) + " bytes");
    std::vector<uint8_t> bytes(static_cast<size_t>(status.st_size));
    size_t done = 0;
    while (done < bytes.size()) {
        const ssize_t got = ::read(file.fd, bytes.data() + done, bytes.size() - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail("read", path);
        if (got == 0) break;
        done += static_cast<size_t>(got);
    }
    bytes.resize(done);
    return bytes;
}

void write_file(const std::string& path, const void* data, size_t size) {
    const std::string temporary = path + ".part";
    const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) fail("write", path);
    const char* bytes = static_cast<const char*>(data);
    bool good = true;
    while (good && size > 0) {
        const ssize_t put = ::write(fd, bytes, size);
        if (put < 0 && errno == EINTR) continue;
        good = put > 0;
        if (good) {
            bytes += put;
            size -= static_cast<size_t>(put);
        }
    }
    good = (::close(fd) == 0) && good && ::rename(temporary.c_str(), path.c_str()) == 0;
    if (!good) {
        const int problem = errno;
        ::unlink(temporary.c_str());
        errno = problem;
        fail("write", path);
    }
}

}  // namespace mobilekit
