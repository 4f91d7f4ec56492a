"""A trained student out of this package: stock mmseg, safetensors, ONNX, torch.export."""
