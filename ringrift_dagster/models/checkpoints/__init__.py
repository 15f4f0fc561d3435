"""Model files, read without torch and without executing anything: formats, limits, and what a file says about its model.

Here: reading `.pth` (zip and legacy), `.onnx` and safetensors. Whether a model is a candidate, and for which config, is not decided
here.
"""
