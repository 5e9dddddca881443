"""The statements of BATON's abstract, each as an experiment: what is predicted, how surely, and whether it holds."""
