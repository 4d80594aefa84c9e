"""Write exported models in formats that need neither this package nor its code: ONNX, and programs of torch.export."""
