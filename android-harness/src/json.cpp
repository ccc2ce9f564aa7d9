#include "json.h"

#include <cmath>
#include <cstdio>

namespace mobilekit {

namespace {

// Length of the valid UTF-8 sequence at text[i], 0 where there is none (RFC 3629: no overlong forms, no surrogates).
size_t utf8_length(const std::string& text, size_t i) {
    auto byte = [&](size_t k) { return k < text.size() ? static_cast<unsigned char>(text[k]) : 0u; };
    const unsigned first = byte(i);
    if (first < 0x80) return 1;
    const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4) return 0;
    for (size_t k = 1; k < length; k++)
        if ((byte(i + k) & 0xc0) != 0x80) return 0;
    const unsigned second = byte(i + 1);
    if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) || (first == 0xf0 && second < 0x90) ||
        (first == 0xf4 && second > 0x8f))
        return 0;
    return length;
}

}  // namespace

Json& Json::open(char bracket) {
    separate();
    text_ += bracket;
    filled_.push_back(false);
    return *this;
}

Json& Json::close(char bracket) {
    text_ += bracket;
    filled_.pop_back();
    return *this;
}

void Json::separate() {
    if (after_key_) {
        after_key_ = false;
    } else if (!filled_.empty()) {
        if (filled_.back()) text_ += ',';
        filled_.back() = true;
    }
}

Json& Json::key(const std::string& name) {
    separate();
    quoted(name);
    text_ += ':';
    after_key_ = true;
    return *this;
}

Json& Json::value(const std::string& text) {
    separate();
    quoted(text);
    return *this;
}

Json& Json::value(int64_t number) {
    separate();
    text_ += std::to_string(number);
    return *this;
}

Json& Json::value(uint64_t number) {
    separate();
    text_ += std::to_string(number);
    return *this;
}

Json& Json::value(double number) {
    separate();
    if (!std::isfinite(number)) {
        text_ += "null";
        return *this;
    }
    char buffer[32];
    std::snprintf(buffer, sizeof(buffer), "%.17g", number);
    text_ += buffer;
    return *this;
}

Json& Json::value(bool truth) {
    separate();
    text_ += truth ? "true" : "false";
    return *this;
}

Json& Json::whole(const std::string& value) {
    separate();
    text_ += value;
    return *this;
}

void Json::quoted(const std::string& text) {
    text_ += '"';
    for (size_t i = 0; i < text.size();) {
        const size_t length = utf8_length(text, i);
        const char c = text[i];
        if (length == 0) {
            text_ += "\\ufffd";
            i++;
        } else if (length > 1) {
            text_.append(text, i, length);
            i += length;
        } else {
            if (c == '"' || c == '\\') {
                text_ += '\\';
                text_ += c;
            } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
                char escaped[8];
                std::snprintf(escaped, sizeof(escaped), "\\u%04x", static_cast<unsigned char>(c));
                text_ += escaped;
            } else {
                text_ += c;
            }
            i++;
        }
    }
    text_ += '"';
}

}  // namespace mobilekit
