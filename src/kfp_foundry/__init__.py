"""kfp-foundry: the whole life of a model as Kubeflow Pipelines components, on a laptop and on any cluster."""
