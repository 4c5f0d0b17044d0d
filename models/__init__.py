"""Pure Torch: tensors in, tensors out. No files, no Ray."""
