"""The graph from texts to labels: the tokenizer as operators of onnxruntime-extensions, in front of a graph of tasks."""

from exporter.text_graph.build import TextGraph, check_text_names, make_text_graph, save_text_graphs, stored_text_graph
from exporter.text_graph.verify import extensions_library

__all__ = ["TextGraph", "check_text_names", "extensions_library", "make_text_graph", "save_text_graphs", "stored_text_graph"]
