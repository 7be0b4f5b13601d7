"""Stand-ins for Kubeflow Pipelines and Kubernetes over real sockets, honest where it hurts (docs: ``Stub``)."""
