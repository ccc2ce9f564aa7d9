// ncnn with nothing around it: loads a model once; for each line "ITERATIONS" on stdin it runs that often on the same input
// and prints each run's nanoseconds on one line.
//
// usage: bare_loop PARAM BIN THREADS INPUT_BLOB C H W OUTPUT_BLOB...
#include <net.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <vector>

int main(int argc, char** argv) {
    if (argc < 9) return 2;
    ncnn::Net net;
    net.opt.num_threads = std::atoi(argv[3]);
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = false;
    net.opt.use_vulkan_compute = false;
    if (net.load_param(argv[1]) != 0 || net.load_model(argv[2]) != 0) return 1;
    ncnn::Mat in(std::atoi(argv[7]), std::atoi(argv[6]), std::atoi(argv[5]));
    for (int c = 0; c < in.c; c++) {
        float* row = in.channel(c);
        for (int i = 0; i < in.w * in.h; i++) row[i] = static_cast<float>((i * 7 + c * 13) % 101) / 50.f - 1.f;
    }
    int iterations = 0;
    while (std::cin >> iterations) {
        for (int run = 0; run < iterations; run++) {
            std::vector<ncnn::Mat> results(static_cast<size_t>(argc - 8));
            const auto start = std::chrono::steady_clock::now();
            ncnn::Extractor extractor = net.create_extractor();
            extractor.input(argv[4], in);
            for (int i = 8; i < argc; i++)
                if (extractor.extract(argv[i], results[static_cast<size_t>(i - 8)]) != 0) return 1;
            const auto end = std::chrono::steady_clock::now();
            std::printf("%lld ", static_cast<long long>(std::chrono::nanoseconds(end - start).count()));
        }
        std::printf("\n");
        std::fflush(stdout);
    }
}
