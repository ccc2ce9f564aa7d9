// JSON, .npy, files, the counting allocator and .param checks.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

#include "check.h"
#include "files.h"
#include "json.h"
#include "memory.h"
#include "npy.h"
#include "param.h"
#include "temporary.h"

using namespace mobilekit;

TEST(json_nests_and_separates) {
    Json json;
    json.open_object().field("a", 1).key("b").open_array().value(int64_t{-2}).value(true).open_object().close_object();
    json.close_array().field("c", 0.5).field("d", "x").close_object();
    CHECK_EQ(json.text(), std::string("{\"a\":1,\"b\":[-2,true,{}],\"c\":0.5,\"d\":\"x\"}"));
}

TEST(json_escapes) {
    Json json;
    json.value(std::string("q\" b\\ n\n e\x1b \xc3\xb6 \xff \xed\xa0\x80 \xf0\x9f\x98\x80"));
    CHECK_EQ(json.text(), std::string("\"q\\\" b\\\\ n\\u000a e\\u001b \xc3\xb6 \\ufffd \\ufffd\\ufffd\\ufffd \xf0\x9f\x98\x80\""));
}

TEST(json_has_no_nan) {
    Json json;
    json.open_array().value(std::nan("")).value(std::numeric_limits<double>::infinity()).value(UINT64_MAX).close_array();
    CHECK_EQ(json.text(), std::string("[null,null,18446744073709551615]"));
}

TEST(npy_round_trip) {
    for (const std::vector<uint32_t>& shape : {std::vector<uint32_t>{6}, {2, 3}, {1, 2, 3}, {1, 3, 2, 1}}) {
        Tensor tensor;
        tensor.name = "t";
        tensor.shape = shape;
        tensor.dtype = shape.size() == 2 ? DType::kInt32 : DType::kFloat32;
        tensor.data.assign(24, 7);
        const std::vector<uint8_t> bytes = format_npy(tensor);
        CHECK_EQ((bytes.size() - tensor.data.size()) % 64, size_t{0});
        const Tensor back = parse_npy(bytes, "t");
        CHECK(back.shape == shape && back.data == tensor.data && back.dtype == tensor.dtype);
    }
}

TEST(npy_bad_files) {
    Tensor tensor;
    tensor.shape = {2, 3};
    tensor.data.assign(24, 1);
    const std::vector<uint8_t> good = format_npy(tensor);
    for (size_t cut = 0; cut < good.size(); cut++)
        CHECK_THROWS(kRequest, parse_npy(std::vector<uint8_t>(good.begin(), good.begin() + static_cast<long>(cut)), "t"));
    const auto with = [&](const char* from, const char* to) {
        std::string text(good.begin(), good.end());
        text.replace(text.find(from), std::strlen(from), to);
        return std::vector<uint8_t>(text.begin(), text.end());
    };
    CHECK_THROWS(kRequest, parse_npy(with("<f4", "<f8"), "t"));
    CHECK_THROWS(kRequest, parse_npy(with("<f4", "|O4"), "t"));
    CHECK_THROWS(kRequest, parse_npy(with("False", "True "), "t"));
    CHECK_THROWS(kRequest, parse_npy(with("2, 3", "9, 9"), "t"));
    CHECK_THROWS(kRequest, parse_npy(with("2, 3", "0, 3"), "t"));
    CHECK_THROWS(kRequest, parse_npy(with("2, 3", "x, 3"), "t"));
}

TEST(files_are_whole_or_absent) {
    const Temporary folder;
    const std::string path = folder.path() + "/file";
    write_file(path, "abc", 3);
    CHECK_EQ(read_file(path, 3).size(), size_t{3});
    CHECK_THROWS(kFile, read_file(path, 2));
    CHECK_THROWS(kFile, read_file(folder.path(), 100));
    CHECK_THROWS(kFile, read_file(folder.path() + "/absent", 100));
    CHECK_THROWS(kFile, write_file(folder.path() + "/absent/file", "abc", 3));
}

TEST(allocator_counts_exactly) {
    Usage total;
    CountingAllocator blobs(total);
    CountingAllocator workspace(total);
    void* a = blobs.fastMalloc(1000);
    void* b = workspace.fastMalloc(500);
    CHECK_EQ(reinterpret_cast<uintptr_t>(a) % NCNN_MALLOC_ALIGN, uintptr_t{0});
    std::memset(a, 1, 1000);
    blobs.fastFree(a);
    void* c = blobs.fastMalloc(300);  // the pool may hand back the larger block; what was asked for counts
    CHECK_EQ(blobs.usage().peak(), uint64_t{1000});
    CHECK_EQ(blobs.usage().current(), uint64_t{300});
    CHECK_EQ(workspace.usage().peak(), uint64_t{500});
    CHECK_EQ(total.peak(), uint64_t{1500});
    total.reset_peak();
    CHECK_EQ(total.peak(), uint64_t{800});
    blobs.fastFree(c);
    workspace.fastFree(b);
    blobs.fastFree(nullptr);
    CHECK_EQ(total.current(), uint64_t{0});
}

TEST(allocator_refuses_the_impossible) {
    Usage total;
    CountingAllocator blobs(total);
    CHECK(blobs.fastMalloc(SIZE_MAX - 8) == nullptr);
    CHECK_EQ(total.peak(), uint64_t{0});
}

TEST(param_says_depth_and_shapes) {
    const Temporary folder;
    const std::string path = folder.write(
        "m.param",
        "7767517\n5 6\nInput in 0 1 in 0=4 1=3\nSplit s 1 2 in a b\nReLU r 1 1 a c\nBinaryOp add 2 1 c b out\nReLU q 1 1 out end\n");
    const ParamInfo info = read_param(path);
    CHECK_EQ(info.layers, size_t{5});
    CHECK_EQ(info.depth, size_t{5});
    CHECK((info.input_shapes.at("in") == std::vector<int>{3, 4}));
}

TEST(param_problems_name_the_layer) {
    const Temporary folder;
    const std::pair<const char*, const char*> bad[] = {
        {"hello", "no ncnn .param"},
        {"7767517\n", "counts"},
        {"7767517\n2 2\nInput in 0 1 in\n", "header says 2"},
        {"7767517\n1 1\nNoSuchLayer n 0 1 a\n", "no layer type 'NoSuchLayer'"},
        {"7767517\n1 1\nMkFromTheFuture n 0 1 a\n", "mobilekit harness build"},
        {"7767517\n1 1\nReLU r 1 1 a b\n", "reads blob 'a'"},
        {"7767517\n3 3\nInput in 0 1 in\nReLU r 1 1 in b\nReLU q 1 1 in c\n", "another layer already read"},
        {"7767517\n1 1\nInput in 0 1\n", "cut short"},
    };
    for (const auto& [text, expected] : bad) {
        const std::string path = folder.write("m.param", text);
        try {
            read_param(path);
            CHECK(false && "no error");
        } catch (const Error& error) {
            CHECK(error.code() == ErrorCode::kModel);
            CHECK(std::string(error.what()).find(expected) != std::string::npos);
        }
    }
}
