"""The model: a transformers network, run one step at a time."""
