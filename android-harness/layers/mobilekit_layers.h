// mobilekit's own ncnn layers: what README.md here lists. C++11, no exceptions, no RTTI, nothing but ncnn.
#ifndef MOBILEKIT_LAYERS_H
#define MOBILEKIT_LAYERS_H

namespace ncnn {
class Net;
}

// Makes every layer type known to `net`; call it before load_param. 0 on success.
int mobilekit_register_layers(ncnn::Net& net);

// The types, with spaces between them: "MkFloat32 MkTopK ...".
const char* mobilekit_layer_types();

#endif  // MOBILEKIT_LAYERS_H
