"""The pieces of the Kubeflow engine: ``kwdbml.engines.kubeflow`` puts them together."""
