#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <exception>
#include <new>
#include <numeric>
#include <optional>
#include <utility>

#include "commands.h"
#include "device_info.h"
#include "files.h"
#include "gpus.h"
#include "model.h"
#include "pixels.h"

namespace mobilekit {

namespace {

constexpr const char* kTokenVariable = "MOBILEKIT_HARNESS_TOKEN";
constexpr size_t kMinToken = 16;
constexpr int kMaxStrangers = 16;            // connections without the token, before we give up
constexpr uint64_t kHelloBytes = 8 << 10;    // nobody sends more before the token is checked
constexpr uint64_t kHelloMs = 5000;
constexpr size_t kReadChunk = 1 << 20;       // a body's buffer grows with what arrives, not with what is announced
constexpr uint64_t kAheadBytes = 64 << 20;   // a larger frame waits in the client until the job before it has ended
constexpr uint64_t kStateAgeNs = 1000000000; // reading /sys takes milliseconds on a phone

// The client went away or was silent for too long: there is nobody to tell.
struct Gone {};

struct Frame {
    uint16_t type;
    std::vector<uint8_t> body;
    uint64_t arrived_ns;  // when its header had been read
};

uint64_t now_ms() { return monotonic_ns() / 1000000; }

void wait_readable(int fd, uint64_t deadline_ms) {
    for (;;) {
        const uint64_t now = now_ms();
        if (now >= deadline_ms) throw Gone{};
        struct pollfd entry {fd, POLLIN, 0};
        const int ready = ::poll(&entry, 1, static_cast<int>(std::min<uint64_t>(deadline_ms - now, 1u << 30)));
        if (ready > 0) return;
        if (ready < 0 && errno != EINTR) throw Gone{};
    }
}

class Connection {
public:
    Connection(int fd, uint32_t timeout_s) : fd_(fd) {
        // A client that stops reading must not keep us either.
        const struct timeval limit {static_cast<time_t>(timeout_s), 0};
        ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    }
    ~Connection() { ::close(fd_); }
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;
    int fd() const { return fd_; }

    // Silence of timeout_ms, between bytes or before the first, ends the connection.
    Frame receive(uint64_t max_frame, uint64_t timeout_ms) {
        if (problem_) std::rethrow_exception(std::exchange(problem_, nullptr));
        while (!whole()) {
            wait_readable(fd_, now_ms() + timeout_ms);
            step(max_frame);
        }
        Frame frame{header_->type, std::move(body_), arrived_ns_};
        header_.reset();
        body_.clear();
        got_ = 0;
        return frame;
    }

    // The next request is taken in while a job runs, so that the device need not wait for it afterwards.
    bool wants_ahead() const { return !problem_ && !whole() && (!header_ || header_->length <= kAheadBytes); }
    void read_ahead(uint64_t max_frame) {
        try {
            step(max_frame);
        } catch (const Error&) {
            problem_ = std::current_exception();
        }
    }

    void send(MessageType type, const std::vector<uint8_t>& body) {
        const std::vector<uint8_t> frame = encode_frame(type, body);
        size_t done = 0;
        while (done < frame.size()) {
            const ssize_t put = ::send(fd_, frame.data() + done, frame.size() - done, MSG_NOSIGNAL);
            if (put < 0 && errno == EINTR) continue;
            if (put <= 0) throw Gone{};
            done += static_cast<size_t>(put);
        }
    }

    void send_error(const Error& error) { send(MessageType::kError, encode_error(error.code(), error.what())); }

private:
    bool whole() const { return header_ && got_ == header_->length; }

    // One read of what is there.
    void step(uint64_t max_frame) {
        uint8_t* target = bytes_ + got_;
        size_t size = sizeof(bytes_) - got_;
        if (header_) {
            if (got_ == body_.size())
                body_.resize(got_ + static_cast<size_t>(std::min<uint64_t>(kReadChunk, header_->length - got_)));
            target = body_.data() + got_;
            size = body_.size() - got_;
        }
        const ssize_t got = ::recv(fd_, target, size, MSG_DONTWAIT);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) return;
        if (got <= 0) throw Gone{};
        got_ += static_cast<size_t>(got);
        if (!header_ && got_ == sizeof(bytes_)) {
            got_ = 0;
            header_ = decode_header(bytes_, max_frame);
            arrived_ns_ = monotonic_ns();
        }
    }

    // Of the next frame: got_ bytes of its header, or of its body once there is a header.
    uint8_t bytes_[kHeaderBytes];
    std::optional<Header> header_;
    std::vector<uint8_t> body_;
    size_t got_ = 0;
    uint64_t arrived_ns_ = 0;
    std::exception_ptr problem_;
    int fd_;
};

std::string read_token(const ServeOptions& options) {
    std::string token;
    if (!options.token_file.empty()) {
        const std::vector<uint8_t> bytes = read_file(options.token_file, kMaxString);
        ::unlink(options.token_file.c_str());
        token.assign(bytes.begin(), bytes.end());
        while (!token.empty() && (token.back() == '\n' || token.back() == '\r')) token.pop_back();
    } else if (const char* value = std::getenv(kTokenVariable)) {
        token = value;
        ::unsetenv(kTokenVariable);
    }
    if (token.size() < kMinToken)
        throw Error(ErrorCode::kToken, std::string("serve needs a token of at least 16 bytes, in --token-file or ") + kTokenVariable);
    return token;
}

bool same(const std::string& a, const std::string& b) {
    unsigned difference = a.size() == b.size() ? 0 : 1;
    for (size_t i = 0; i < std::min(a.size(), b.size()); i++)
        difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
    return difference == 0;
}

int listen_on(const std::string& name) {
    struct sockaddr_un address {};
    address.sun_family = AF_UNIX;
    if (name.empty() || name.size() + 1 > sizeof(address.sun_path))
        throw Error(ErrorCode::kRequest, "a socket name has 1 to " + std::to_string(sizeof(address.sun_path) - 1) + " bytes");
    std::memcpy(address.sun_path + 1, name.data(), name.size());  // the leading zero byte makes it abstract
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    if (fd < 0 || ::bind(fd, reinterpret_cast<const sockaddr*>(&address), length) != 0 || ::listen(fd, 8) != 0) {
        const std::string why = std::strerror(errno);
        if (fd >= 0) ::close(fd);
        throw Error(ErrorCode::kFile, "cannot listen on the abstract socket " + name + ": " + why);
    }
    return fd;
}

// True once this client has said HELLO with our token; by then nobody else can connect.
bool greet(Connection& connection, int listener, const std::string& token, const ServeOptions& options) {
    try {
        const Frame frame = connection.receive(kHelloBytes, kHelloMs);
        if (frame.type != static_cast<uint16_t>(MessageType::kHello))
            throw Error(ErrorCode::kToken, "the first frame must be HELLO");
        if (!same(decode_hello(frame.body).token, token)) throw Error(ErrorCode::kToken, "wrong token");
        ::close(listener);
        connection.send(MessageType::kHelloOk,
                        encode_hello_ok(MOBILEKIT_HARNESS_VERSION, NCNN_VERSION_STRING, abi(), options.max_frame,
                                        own_layers()));
        return true;
    } catch (const Error& error) {
        try {
            connection.send_error(error);
        } catch (const Gone&) {
        }
    } catch (const Gone&) {
    }
    return false;
}

// Takes the listener over: it is closed with the first client that has the token.
std::unique_ptr<Connection> accept_client(int listener, const std::string& token, const ServeOptions& options) {
    const uint64_t deadline = now_ms() + uint64_t{options.idle_timeout_s} * 1000;
    for (int strangers = 0; strangers < kMaxStrangers; strangers++) {
        wait_readable(listener, deadline);
        const int fd = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
        if (fd < 0) continue;
        auto connection = std::make_unique<Connection>(fd, options.idle_timeout_s);
        if (greet(*connection, listener, token, options)) return connection;
    }
    throw Gone{};
}

// Work may take any time, and nobody is waiting for it once the client has gone: then the process ends at once,
// since a running layer cannot be interrupted otherwise.
void work(Worker& worker, Connection& connection, uint64_t max_frame, const std::function<void()>& job) {
    worker.start(job);
    for (;;) {
        const int ahead = connection.wants_ahead() ? POLLIN : 0;
        struct pollfd entries[2] = {{worker.done_fd(), POLLIN, 0},
                                    {connection.fd(), static_cast<short>(POLLRDHUP | ahead), 0}};
        if (::poll(entries, 2, -1) < 0 && errno == EINTR) continue;
        if (entries[0].revents) break;
        if (entries[1].revents & ~POLLIN) ::_exit(0);
        if (entries[1].revents & POLLIN) connection.read_ahead(max_frame);
    }
    worker.finish();
}

class Session {
public:
    Session(Connection& connection, const ServeOptions& options) : connection_(connection), options_(options) {}

    // False once the client has said goodbye.
    bool handle(const Frame& frame) {
        switch (static_cast<MessageType>(frame.type)) {
            case MessageType::kInfo:
                Reader(frame.body).end();
                connection_.send(MessageType::kInfoOk, encode_json(info_json()));
                return true;
            case MessageType::kGpus:
                Reader(frame.body).end();
                connection_.send(MessageType::kGpusOk, encode_json(gpus_json()));
                return true;
            case MessageType::kLoad: {
                const LoadRequest request = decode_load(frame.body);
                model_.reset();  // its memory first
                auto model = std::make_unique<Model>(request);
                work(model->worker(), connection_, options_.max_frame, [&] { model->load(); });
                model_ = std::move(model);
                first_ns_ = inference_ns_ = 0;
                connection_.send(MessageType::kLoadOk, encode_json(load_json(model_->report())));
                return true;
            }
            case MessageType::kInfer: {
                const InferRequest request = decode_infer(frame.body);
                if (!model_) throw Error(ErrorCode::kNoModel, "no model is loaded");
                InferReport report;
                work(model_->worker(), connection_, options_.max_frame, [&] { report = model_->infer(request); });
                if (first_ns_ == 0) first_ns_ = frame.arrived_ns;
                inference_ns_ += std::accumulate(report.latencies_ns.begin(), report.latencies_ns.end(), report.warmup_ns);
                report.session_inference_ns = inference_ns_;
                report.session_ns = monotonic_ns() - first_ns_;
                const bool one = request.warmup + request.iterations == 1;
                if (!one || state_.empty() || monotonic_ns() - state_read_ns_ > kStateAgeNs) {
                    state_ = state_json();
                    state_read_ns_ = monotonic_ns();
                }
                send_tensors(MessageType::kInferOk, encode_infer_ok(infer_json(request, report, state_), report.outputs));
                return true;
            }
            case MessageType::kPixels: {
                const PixelsRequest request = decode_pixels(frame.body);
                const uint64_t begin = monotonic_ns();
                const Tensor made = tensor_of_pixels(request);
                send_tensors(MessageType::kPixelsOk, encode_infer_ok(pixels_json(monotonic_ns() - begin), {made}));
                return true;
            }
            case MessageType::kBye:
                connection_.send(MessageType::kByeOk, {});
                return false;
            default:
                throw Error(ErrorCode::kFrame, "unknown message type " + std::to_string(frame.type));
        }
    }

private:
    void send_tensors(MessageType type, const std::vector<uint8_t>& body) {
        if (body.size() > options_.max_frame)
            throw Error(ErrorCode::kRequest, "the outputs take " + std::to_string(body.size()) +
                                                 " bytes, a frame at most " + std::to_string(options_.max_frame));
        connection_.send(type, body);
    }

    Connection& connection_;
    const ServeOptions& options_;
    std::unique_ptr<Model> model_;
    uint64_t first_ns_ = 0;  // when the first input of this model arrived
    uint64_t inference_ns_ = 0;
    std::string state_;
    uint64_t state_read_ns_ = 0;
};

}  // namespace

int serve(const ServeOptions& options) {
    ::signal(SIGPIPE, SIG_IGN);
    const std::string token = read_token(options);
    const int listener = listen_on(options.socket);
    std::printf("mobilekit-harness ready %d %s\n", static_cast<int>(kProtocolVersion), options.socket.c_str());
    std::fflush(stdout);
    try {
        const std::unique_ptr<Connection> connection = accept_client(listener, token, options);
        Session session(*connection, options);
        for (bool more = true; more;) {
            try {
                more = session.handle(connection->receive(options.max_frame, uint64_t{options.idle_timeout_s} * 1000));
            } catch (const Error& error) {
                connection->send_error(error);
                // After a bad frame nobody knows where the next one starts.
                if (error.code() == ErrorCode::kFrame || error.code() == ErrorCode::kVersion) return 1;
            } catch (const std::bad_alloc&) {
                connection->send_error(Error(ErrorCode::kMemory, "out of memory"));
            }
        }
    } catch (const Gone&) {
        std::fprintf(stderr, "mobilekit-harness: no client, or it was silent for too long\n");
    }
    return 0;
}

}  // namespace mobilekit
