"""Every public model as a TensorRT plan, built, run on this machine's GPU and held against ONNX Runtime.

The half of gpu_check.sh that is written in Python; see there.
"""
