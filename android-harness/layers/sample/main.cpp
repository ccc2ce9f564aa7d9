// Loads a model that has layers of mobilekit's own, runs it on the numbers i * 7 % 5, prints 1-dim outputs.
#include <mobilekit_layers.h>
#include <net.h>

#include <stdio.h>

int main(int argc, char** argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: %s model.param model.bin INPUT_BLOB=WIDTH OUTPUT_BLOB...\n", argv[0]);
        return 2;
    }
    ncnn::Net net;
    net.opt.use_vulkan_compute = false;
    if (mobilekit_register_layers(net) != 0 || net.load_param(argv[1]) != 0 || net.load_model(argv[2]) != 0) return 1;

    char name[256];
    int width = 0;
    if (sscanf(argv[3], "%255[^=]=%d", name, &width) != 2 || width < 1) return 2;
    ncnn::Mat input(width);
    for (int i = 0; i < width; i++) input[i] = static_cast<float>(i * 7 % 5);

    ncnn::Extractor extractor = net.create_extractor();
    if (extractor.input(name, input) != 0) return 1;
    for (int i = 4; i < argc; i++) {
        ncnn::Mat output;
        if (extractor.extract(argv[i], output) != 0) return 1;
        printf("%s:", argv[i]);
        for (int j = 0; j < output.w; j++) printf(" %g", static_cast<double>(output[j]));
        printf("\n");
    }
    return 0;
}
