// A layer that stands in for another one.
#pragma once

#include <layer.h>

namespace mobilekit {

// Takes over everything by which ncnn decides how to call a layer on the CPU. Not by Layer's own copy, which reads
// flags that ncnn reserves and never sets.
class ProxyLayer : public ncnn::Layer {
public:
    explicit ProxyLayer(const ncnn::Layer& inner) : inner_(inner) {
        one_blob_only = inner.one_blob_only;
        support_inplace = inner.support_inplace;
        support_packing = inner.support_packing;
        support_bf16_storage = inner.support_bf16_storage;
        support_fp16_storage = inner.support_fp16_storage;
        support_int8_storage = inner.support_int8_storage;
        support_any_packing = inner.support_any_packing;
        support_batch = inner.support_batch;
        featmask = inner.featmask;
        userdata = inner.userdata;
        typeindex = inner.typeindex;
        type = inner.type;
        name = inner.name;
        bottoms = inner.bottoms;
        tops = inner.tops;
        bottom_shapes = inner.bottom_shapes;
        top_shapes = inner.top_shapes;
    }

protected:
    const ncnn::Layer& inner_;
};

}  // namespace mobilekit
