"""ONNX's own backend node tests through our converter and the ncnn runtime; what came of each is data.

- ``scope.csv``: every node test of the ``onnx`` package, and why it is out of scope where it is;
- ``parameters.py``: which graph inputs are parameters of the operator and become constants;
- ``results.csv``: the class of each case in scope, written by ``python -m tests.conformance.update``.
"""
