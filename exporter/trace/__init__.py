"""Tracing of one task per structure to an ONNX graph, with the patches that torch.export needs."""
