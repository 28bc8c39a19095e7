"""The operator's HTTP API: JSON in front, gRPC behind, and a document that describes it."""
