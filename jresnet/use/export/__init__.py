"""A trained network for programs without jresnet: StableHLO, ONNX and safetensors, each with a model card."""
