"""Models of Hugging Face transformers: a directory with config.json and weights, read without any network."""
