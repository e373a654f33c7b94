"""One ONNX graph per structure, traced by torch.export."""
