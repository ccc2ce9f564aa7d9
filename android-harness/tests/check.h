// A few lines of test harness: cases register themselves, `harness-tests NAME` runs one, without a name all.
#pragma once

#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "error.h"

namespace check {

using Case = std::pair<std::string, std::function<void()>>;
std::vector<Case>& cases();

struct Register {
    Register(const char* name, std::function<void()> body) { cases().emplace_back(name, std::move(body)); }
};

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
    std::ostringstream text;
    text << file << ":" << line << ": " << what;
    throw std::logic_error(text.str());
}

template <typename A, typename B>
void equal(const A& a, const B& b, const char* text, const char* file, int line) {
    if (a == b) return;
    std::ostringstream what;
    what << text << ": " << a << " != " << b;
    fail(file, line, what.str());
}

inline void throws(mobilekit::ErrorCode code, const std::function<void()>& body, const char* file, int line) {
    try {
        body();
    } catch (const mobilekit::Error& error) {
        if (error.code() != code) fail(file, line, std::string("another error: ") + error.what());
        return;
    }
    fail(file, line, "no error");
}

}  // namespace check

#define CHECK_JOIN2(a, b) a##b
#define CHECK_JOIN(a, b) CHECK_JOIN2(a, b)
#define TEST(name)                                                               \
    static void CHECK_JOIN(case_, name)();                                       \
    static const check::Register CHECK_JOIN(register_, name)(#name, CHECK_JOIN(case_, name)); \
    static void CHECK_JOIN(case_, name)()
#define CHECK(condition) \
    if (!(condition)) check::fail(__FILE__, __LINE__, #condition)
#define CHECK_EQ(a, b) check::equal(a, b, #a " == " #b, __FILE__, __LINE__)
#define CHECK_THROWS(code, ...) check::throws(mobilekit::ErrorCode::code, [&] { __VA_ARGS__; }, __FILE__, __LINE__)
