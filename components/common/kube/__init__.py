"""Remote objects of a Kubernetes cluster: one launcher for all of them, and the janitor that stops what ended runs left."""
