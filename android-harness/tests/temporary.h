// A folder for one test case.
#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <cstdlib>
#include <set>
#include <string>

#include "files.h"

class Temporary {
public:
    Temporary() {
        const char* base = std::getenv("TMPDIR");
        std::string name = std::string(base ? base : "/tmp") + "/mobilekit-test-XXXXXX";
        if (!::mkdtemp(&name[0])) throw std::runtime_error("mkdtemp");
        path_ = name;
    }
    ~Temporary() {
        for (const std::string& file : written_) ::unlink(file.c_str());
        ::unlink((path_ + "/file").c_str());
        ::rmdir(path_.c_str());
    }
    const std::string& path() const { return path_; }
    std::string write(const std::string& name, const std::string& text) const {
        const std::string path = path_ + "/" + name;
        mobilekit::write_file(path, text.data(), text.size());
        written_.insert(path);
        return path;
    }

private:
    std::string path_;
    mutable std::set<std::string> written_;
};
