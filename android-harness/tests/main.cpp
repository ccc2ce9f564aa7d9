#include <cstdio>
#include <cstring>

#include "check.h"
#include "leave.h"

namespace check {

std::vector<Case>& cases() {
    static std::vector<Case> all;
    return all;
}

}  // namespace check

int main(int argc, char** argv) {
    int ran = 0;
    int failed = 0;
    for (const check::Case& one : check::cases()) {
        if (argc > 1 && one.first != argv[1]) continue;
        ran++;
        try {
            one.second();
        } catch (const std::exception& error) {
            failed++;
            std::printf("FAILED %s\n  %s\n", one.first.c_str(), error.what());
        }
    }
    std::printf("%d run, %d failed\n", ran, failed);
    mobilekit::leave(ran == 0 || failed != 0);
}
