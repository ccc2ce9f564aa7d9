// Writing JSON (the harness never reads any).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mobilekit {

// Commas and nesting are kept by the writer; keys and values follow each other in calls.
class Json {
public:
    Json& open_object() { return open('{'); }
    Json& close_object() { return close('}'); }
    Json& open_array() { return open('['); }
    Json& close_array() { return close(']'); }
    Json& key(const std::string& name);
    Json& value(const std::string& text);
    Json& value(const char* text) { return value(std::string(text)); }
    Json& value(int64_t number);
    Json& value(uint64_t number);
    Json& value(int number) { return value(static_cast<int64_t>(number)); }
    Json& value(uint32_t number) { return value(static_cast<uint64_t>(number)); }
    Json& value(double number);  // null where it is not finite
    Json& value(bool truth);
    template <typename T>
    Json& field(const std::string& name, const T& content) {
        return key(name).value(content);
    }
    Json& whole(const std::string& value);  // JSON already
    const std::string& text() const { return text_; }

private:
    Json& open(char bracket);
    Json& close(char bracket);
    void separate();
    void quoted(const std::string& text);
    std::string text_;
    std::vector<bool> filled_;
    bool after_key_ = false;
};

}  // namespace mobilekit
