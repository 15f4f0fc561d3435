"""Model files, read without torch and without executing anything: formats, limits, and what a file says about its model.

Here: reading `.pth` (zip and legacy), `.onnx` and safetensors, and the optional deep check, for which torch loads a file in a
confined process. Whether a model is a candidate, and for which config, is not decided here.
"""
