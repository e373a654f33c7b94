"""The weights of the bundled example of adapterdrop-onnx. `exporter.example` reads them; this package has no code."""
