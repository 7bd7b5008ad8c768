"""What the sidecar says about itself over HTTP; reads the state and calls two verbs, knows nothing else."""
