"""What `quantization_config` of a published checkpoint says: one reader for each `quant_method`."""
