#include "../mobilekit_layers.h"

#include "own_layer.h"

namespace mobilekit_layers {

namespace {

// The input as it is: ncnn has converted it to plain float32 on the way.
class Float32 : public OwnLayer {
public:
    int forward(const std::vector<ncnn::Mat>& bottoms, std::vector<ncnn::Mat>& tops, const ncnn::Option& opt) const {
        Sequence in;
        MK_TRY(read(bottoms, 1, &in, opt));
        for (size_t i = 0; i < tops.size(); i++) tops[i] = bottoms[0];
        return 0;
    }
};

}  // namespace

ncnn::Layer* make_float32(void*) { return new Float32; }

}  // namespace mobilekit_layers

// Types are never renamed and never change what they compute: models on devices name them.
#define MK_LAYER_TYPES(X) \
    X("MkFloat32", make_float32)                       \
    X("MkTopK", make_top_k)                            \
    X("MkArg", make_arg)                               \
    X("MkGather", make_gather)                         \
    X("MkGatherElements", make_gather_elements)        \
    X("MkGatherND", make_gather_nd)                    \
    X("MkScatterElements", make_scatter_elements)      \
    X("MkScatterND", make_scatter_nd)                  \
    X("MkNonMaxSuppression", make_non_max_suppression) \
    X("MkNonZero", make_non_zero)                      \
    X("MkPow", make_pow)                               \
    X("MkDiv", make_div)                               \
    X("MkMod", make_mod)                               \
    X("MkCumSum", make_cum_sum)                        \
    X("MkRoiAlignMax", make_roi_align_max)             \
    X("MkMaxPoolIndices", make_max_pool_indices)       \
    X("MkLpPool", make_lp_pool)                        \
    X("MkUnique", make_unique)                         \
    X("MkTfIdf", make_tf_idf)                          \
    X("MkGridSample", make_grid_sample)                \
    X("MkRoiAlign", make_roi_align)                    \
    X("MkRecurrent", make_recurrent)

int mobilekit_register_layers(ncnn::Net& net) {
#define MK_REGISTER(type, make)                                                    \
    {                                                                             \
        const int code = net.register_custom_layer(type, mobilekit_layers::make);  \
        if (code != 0) return code;                                                \
    }
    MK_LAYER_TYPES(MK_REGISTER)
#undef MK_REGISTER
    return 0;
}

const char* mobilekit_layer_types() {
#define MK_NAME(type, make) " " type
    // The mark at the beginning makes the list findable in a program that cannot be run here.
    static const char kTypes[] = "mobilekit-layers:" MK_LAYER_TYPES(MK_NAME);
#undef MK_NAME
    return kTypes + sizeof("mobilekit-layers:");
}
